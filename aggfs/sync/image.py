"""A tree as the rows of a checkpoint, and rows as a tree again.

What is written is the fold of what was *published*: entries that still wait in an outbox are left
out as far as others would be misled by them. (Their attributes and times may be in it: these are
registers, and the entry follows or its value does no harm.)
"""

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from aggfs.errors import Damaged
from aggfs.formats.checkpoint import (
    EXTENTS_IN_ROW,
    ControlImage,
    ExtentsImage,
    ImageRow,
    InodeImage,
    LinkImage,
    MoveImage,
    PastImage,
    RelocationImage,
    VersionImage,
    XattrImage,
)
from aggfs.model import (
    NEVER,
    NOWHERE,
    ROOT,
    ROOT_NUMBER,
    Content,
    ControlEntry,
    ControlRow,
    Create,
    Entry,
    InodeRow,
    LinkRow,
    PastRow,
    Place,
    RelocationRow,
    Stamp,
    VersionRow,
    XattrRow,
)
from aggfs.sync.clock import pack
from aggfs.sync.merge import control_key, ranked_heads, shown_size
from aggfs.sync.moves import Move, Touched, apply_moves
from aggfs.sync.registers import is_created
from aggfs.sync.tree import Tree
from aggfs.sync.view import settle

LINKS_AT_ONCE = 4096


class _Unpublished:
    """Entries that nobody has seen, by what they would mislead about."""

    def __init__(self, entries: Iterable[tuple[Stamp, Entry]]) -> None:
        self.inodes: set[bytes] = set()
        self.versions: set[tuple[bytes, bytes]] = set()
        self.bases: set[tuple[bytes, bytes]] = set()
        self.moves: set[bytes] = set()
        self.control: dict[bytes, bytes] = {}
        for stamp, entry in entries:
            if isinstance(entry, Create):
                self.inodes.add(entry.inode)
            if isinstance(entry, Create | Place):
                self.moves.add(pack(stamp))
            elif isinstance(entry, Content):
                self.versions.add((entry.inode, entry.version))
                self.bases.update((entry.inode, base) for base in entry.bases)
            elif isinstance(entry, ControlEntry):
                self.control[control_key(entry)] = pack(stamp)


def image_of(tree: Tree, unpublished: Iterable[tuple[Stamp, Entry]] = ()) -> Iterator[ImageRow]:
    """The rows of a checkpoint of this tree, which must not change meanwhile. `unpublished` are
    the entries in it that nobody else has seen: no move of theirs may lie below the cut."""
    hidden = _Unpublished(unpublished)
    yield from _inodes(tree, hidden)
    yield from _versions(tree, hidden)
    yield from _registers(tree, hidden)
    yield from _links(tree, hidden)


def _registers(tree: Tree, hidden: _Unpublished) -> Iterator[ImageRow]:
    for inode, name, xattr in tree.all_xattrs():
        if inode not in hidden.inodes:
            yield XattrImage(inode, name, xattr.when, xattr.value)
    for sid, index, to in tree.all_relocations():
        yield RelocationImage(sid, index, to.when, to.sid, to.index)
    for key, control in tree.all_control():
        if hidden.control.get(key) != control.when:
            yield ControlImage(control.when, control.entry)


def _links(tree: Tree, hidden: _Unpublished) -> Iterator[ImageRow]:
    """What was before the first move above the cut, the links as they were then, and the moves."""
    moves = tree.moves_from(tree.cut.to_bytes(8) + NEVER[8:])
    for parent, until, link_id, past in tree.all_past():
        if not moves or until < moves[0][0]:
            yield PastImage(parent, until, link_id, past.name, past.inode, past.since)
    at_cut: dict[bytes, LinkRow | None] = {}
    for _, move in moves:
        for placement, before in zip(move.placements, move.before, strict=False):
            at_cut.setdefault(placement.link, before)
    for link in tree.all_links():
        row = at_cut.get(link.link, link)
        if row is not None:
            yield LinkImage(
                row.link, row.inode, row.parent, row.name, row.was_parent, row.when, row.observed
            )
    for when, move in moves:
        if when not in hidden.moves:
            yield MoveImage(when, move.placements, move.observed)


def _inodes(tree: Tree, hidden: _Unpublished) -> Iterator[ImageRow]:
    for row in tree.all_inodes():
        private = row.inode != ROOT and is_created(row) and not tree.links_of(row.inode)
        if row.inode not in hidden.inodes and not private:
            yield InodeImage(
                row.inode,
                row.mode,
                row.uid,
                row.gid,
                row.rdev,
                row.atime_ns,
                row.mtime_ns,
                row.ctime_ns,
                row.btime_ns,
                row.target,
                row.registers,
            )


def _versions(tree: Tree, hidden: _Unpublished) -> Iterator[ImageRow]:
    for inode, version, row in tree.all_versions():
        if inode in hidden.inodes or (inode, version) in hidden.versions:
            continue
        superseded = row.superseded
        if superseded and (inode, version) in hidden.bases:
            superseded = _is_named(tree, inode, version, hidden)
        if row.content is None:
            if superseded:
                yield VersionImage(inode, version, row.when, superseded, None)
            continue
        extents = row.content.extents
        content = replace(row.content, extents=extents[:EXTENTS_IN_ROW])
        yield VersionImage(inode, version, row.when, superseded, content)
        for at in range(EXTENTS_IN_ROW, len(extents), EXTENTS_IN_ROW):
            yield ExtentsImage(inode, version, extents[at : at + EXTENTS_IN_ROW])


def _is_named(tree: Tree, inode: bytes, version: bytes, hidden: _Unpublished) -> bool:
    """Whether a version that was published names this one as base."""
    return any(
        row.content is not None
        and version in row.content.bases
        and (inode, other) not in hidden.versions
        for other, row in tree.versions(inode)
    )


# --- the way back ---------------------------------------------------------------------------------


def load_image(tree: Tree, rows: Iterable[ImageRow], cut: int) -> None:
    """Fill an empty tree. Raises `Damaged` when the rows do not fit together; the tree is of no
    use then."""
    loader = ImageLoader(tree)
    for row in rows:
        loader.take(row)
    for _ in loader.finish(cut):
        pass


class ImageLoader:
    """Rows on their way into an empty tree: `take` them in order, then `finish`. Raises `Damaged`
    when they do not fit together; the tree is of no use then."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._moves: list[Move] = []

    def take(self, row: ImageRow) -> None:
        """The next row."""
        tree = self._tree
        match row:
            case InodeImage():
                self._take_inode(row)
            case VersionImage():
                self._take_version(row)
            case ExtentsImage():
                self._take_extents(row)
            case XattrImage():
                tree.put_xattr(row.inode, row.name, XattrRow(row.when, row.value))
            case RelocationImage():
                to = RelocationRow(row.when, row.to_sid, row.to_index)
                tree.put_relocation(row.sid, row.index, to)
            case ControlImage():
                tree.put_control(control_key(row.entry), ControlRow(row.when, row.entry))
            case PastImage():
                past = PastRow(row.name, row.inode, row.since)
                tree.put_past(row.parent, row.when, row.link, past)
            case LinkImage():
                self._take_link(row)
            case MoveImage():
                self._moves.append(Move(row.when, row.placements, row.observed))

    def _take_inode(self, row: InodeImage) -> None:
        if len(row.registers) not in (16, 112):
            raise Damaged("a checkpoint has an inode with impossible stamps")
        number = ROOT_NUMBER if row.inode == ROOT else self._tree.new_number()
        self._tree.put_inode(
            InodeRow(
                row.inode,
                number,
                row.mode,
                row.uid,
                row.gid,
                row.rdev,
                row.atime_ns,
                row.mtime_ns,
                row.ctime_ns,
                row.btime_ns,
                0,
                row.target,
                1 if row.inode == ROOT else 0,
                0,
                0,
                (),
                row.registers,
                0,
            )
        )

    def _take_version(self, row: VersionImage) -> None:
        inode = self._tree.inode(row.inode)
        if inode is None or (row.content is not None and row.content.version != row.version):
            raise Damaged("a checkpoint has a version of no inode")
        version = VersionRow(row.when, row.superseded, row.content)
        self._tree.put_version(row.inode, row.version, version)
        if not row.superseded and row.content is not None:
            heads = ranked_heads(self._tree, row.inode, {*inode.heads, row.version})
            inode = replace(inode, heads=heads)
            self._tree.put_inode(replace(inode, size=shown_size(self._tree, inode, row.content)))

    def _take_extents(self, row: ExtentsImage) -> None:
        known = self._tree.version(row.inode, row.version)
        if known is None or known.content is None:
            raise Damaged("a checkpoint has extents of no version")
        content = replace(known.content, extents=known.content.extents + row.extents)
        self._tree.put_version(row.inode, row.version, replace(known, content=content))

    def _take_link(self, row: LinkImage) -> None:
        if self._tree.link(row.link) is not None:
            raise Damaged("a checkpoint has a link twice")
        cookie = self._tree.new_cookie()
        self._tree.put_link(
            LinkRow(
                row.link,
                row.inode,
                row.parent,
                row.name,
                row.was_parent,
                cookie,
                row.when,
                row.observed,
            )
        )

    def finish(self, cut: int) -> Iterator[None]:
        """All rows were taken. Yields now and then, so that the caller may commit what was done;
        the tree is whole when it ends."""
        self._check_forest()
        touched: Touched = {}
        for row in self._tree.all_links():
            touched[row.link] = None
            if len(touched) >= LINKS_AT_ONCE:
                settle(self._tree, touched, ())
                touched = {}
                yield
        settle(self._tree, touched, ())
        touched = {}
        apply_moves(self._tree, self._moves, touched)
        settle(self._tree, touched, ())
        self._tree.set_cut(cut)

    def _check_forest(self) -> None:
        """No directory lies below itself: all that walks up the tree relies on it."""
        sound: set[bytes] = {ROOT, NOWHERE}
        for row in self._tree.all_links():
            above: dict[bytes, None] = {}
            link: LinkRow | None = row if row.is_directory else None
            while link is not None and link.link not in sound:
                if link.link in above:
                    raise Damaged("a checkpoint has a directory inside itself")
                above[link.link] = None
                link = self._tree.link(link.was_parent)
            sound.update(above)
