"""The fold: what the tree is, as a function of the *set* of entries.

Entries come in any order, any number of times; the tree ends the same on every device:

- attributes, xattrs, relocations and control entries are registers: the highest stamp holds;
- content is a graph of versions, of which those that no other names as base are the heads;
- links move in the order of stamps, by taking back and doing again (`aggfs.sync.moves`);
- what is shown follows from these facts (`aggfs.sync.view`).

Every mention of an inode makes a row for it, so that entries may come before the `Create` that
they rest on. An entry that no honest device writes (`is_acceptable`) is left out by all.
"""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from stat import S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, S_ISDIR

from msgspec.structs import replace

from aggfs.model import (
    NEVER,
    NOWHERE,
    ROOT,
    AccountEntry,
    Child,
    Content,
    ControlEntry,
    ControlRow,
    Create,
    DropStripe,
    Entry,
    InodeRow,
    LinkRow,
    Member,
    MoveRow,
    Place,
    Placement,
    PutStripe,
    Relocate,
    RelocationRow,
    SetAttributes,
    SetXattr,
    Stamp,
    VersionRow,
    XattrRow,
)
from aggfs.sync.clock import pack
from aggfs.sync.moves import Move, Touched, apply_moves, withdraw_moves
from aggfs.sync.registers import changed, created, fresh, set_attributes, touched, written
from aggfs.sync.tree import Tree
from aggfs.sync.view import inode_or_ghost, settle

_TYPES = {S_IFREG, S_IFDIR, S_IFLNK, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK}


@dataclass(slots=True)
class Changes:
    """What a batch did to what is shown: for those who must tell the kernel."""

    inodes: set[bytes] = field(default_factory=set)
    names: set[tuple[bytes, bytes]] = field(default_factory=set)  # (directory, claimed name)


def apply(tree: Tree, stamp: Stamp, entry: Entry) -> None:
    """Take one entry into the tree. It must be acceptable: our own are."""
    when = pack(stamp)
    if type(entry) is Create and _apply_plain_create(tree, when, entry):
        return
    _Batch(tree).run([(when, entry)])


def apply_batch(tree: Tree, stamped: Iterable[tuple[Stamp, Entry]]) -> Changes:
    """Take entries of any devices into the tree; those below the cut or not acceptable are
    left out. One pass over the log of moves, however old the entries are."""
    wanted = [
        (pack(stamp), entry)
        for stamp, entry in stamped
        if stamp.clock >= tree.cut and is_acceptable(entry)
    ]
    wanted.sort(key=lambda pair: pair[0])
    return _Batch(tree).run(wanted)


def restamp(tree: Tree, entries: Iterable[tuple[Stamp, Stamp, Entry]]) -> Changes:
    """Give (old stamp, new stamp, entry)s that nobody has seen yet their new stamps, as if they
    had never had the old ones. The new ones are above all that the tree holds."""
    known = list(entries)
    moved: Touched = {}
    withdraw_moves(tree, {pack(old) for old, _, e in known if isinstance(e, Create | Place)}, moved)
    return _Batch(tree, moved).run([(pack(new), entry) for _, new, entry in known])


def control_key(entry: ControlEntry) -> bytes:
    """Which register a control entry sets: a letter and the id of its stripe, member, account."""
    match entry:
        case PutStripe():
            return b"s" + entry.row.sid
        case DropStripe():
            return b"s" + entry.sid
        case Member():
            return b"m" + entry.device
        case AccountEntry():
            return b"a" + entry.account


# --- one batch ------------------------------------------------------------------------------------


class _Batch:
    """Entries on their way into a tree."""

    def __init__(self, tree: Tree, moved: Touched | None = None) -> None:
        self._tree = tree
        self._moves: list[Move] = []
        self._moved: Touched = {} if moved is None else moved
        self._doubtful: dict[bytes, None] = {}
        self._changes = Changes()

    def run(self, stamped: Iterable[tuple[bytes, Entry]]) -> Changes:
        for when, entry in stamped:
            _HANDLERS[type(entry)](self, when, entry)
        apply_moves(self._tree, self._moves, self._moved)
        if self._moved or self._doubtful:
            self._changes.names = settle(self._tree, self._moved, self._doubtful)
            self._changes.inodes.update(row.inode for row in self._moved.values() if row)
        return self._changes

    def _put(self, row: InodeRow) -> None:
        self._tree.put_inode(row)
        self._changes.inodes.add(row.inode)

    def create(self, when: bytes, entry: Create) -> None:
        row = inode_or_ghost(self._tree, entry.inode)
        if S_IFMT(row.mode) != S_IFMT(entry.mode):
            self._doubtful[entry.inode] = None
        self._put(created(row, when, entry))
        self._touch(entry.placement.parent, when, entry.time_ns)
        self._moves.append(Move(when, (entry.placement,), ()))

    def place(self, when: bytes, entry: Place) -> None:
        for placement in entry.placements:
            row = inode_or_ghost(self._tree, placement.inode)
            self._put(changed(row, when, entry.time_ns))
            if placement.parent != NOWHERE and self._tree.inode(placement.parent) is None:
                self._put(inode_or_ghost(self._tree, placement.parent))
        for directory in entry.directories:
            self._touch(directory, when, entry.time_ns)
        self._moves.append(Move(when, entry.placements, entry.observed))

    def _touch(self, directory: bytes, when: bytes, time_ns: int) -> None:
        self._put(touched(inode_or_ghost(self._tree, directory), when, time_ns))

    def set_attributes(self, when: bytes, entry: SetAttributes) -> None:
        self._put(set_attributes(inode_or_ghost(self._tree, entry.inode), when, entry))

    def set_xattr(self, when: bytes, entry: SetXattr) -> None:
        row = inode_or_ghost(self._tree, entry.inode)
        self._put(changed(row, when, entry.ctime_ns))
        known = self._tree.xattr(entry.inode, entry.name)
        if known is None or when > known.when:
            self._tree.put_xattr(entry.inode, entry.name, XattrRow(when, entry.value))

    def content(self, when: bytes, entry: Content) -> None:
        tree, inode = self._tree, entry.inode
        row = written(inode_or_ghost(tree, inode), when, entry.mtime_ns, entry.ctime_ns)
        known = tree.version(inode, entry.version)
        superseded = known is not None and known.superseded
        when = when if known is None else max(when, known.when)
        # What is known may rest on less by now: a base that it was folded into is let go of.
        content = entry if known is None or known.content is None else known.content
        tree.put_version(inode, entry.version, VersionRow(when, superseded, content))
        for base in entry.bases:
            self._supersede(inode, base)
        heads = {*row.heads, entry.version} if not superseded else set(row.heads)
        row = replace(row, heads=ranked_heads(tree, inode, heads - set(entry.bases)))
        self._put(row if row.unflushed else replace(row, size=shown_size(tree, row, entry)))
        if not row.placed:
            self._doubtful[inode] = None

    def _supersede(self, inode: bytes, version: bytes) -> None:
        known = self._tree.version(inode, version)
        if known is None:
            self._tree.put_version(inode, version, VersionRow(NEVER, True, None))
        elif not known.superseded:
            self._tree.put_version(inode, version, replace(known, superseded=True))

    def relocate(self, when: bytes, entry: Relocate) -> None:
        for step in range(entry.count):
            known = self._tree.relocation(entry.sid, entry.index + step)
            if known is None or when > known.when:
                row = RelocationRow(when, entry.to_sid, entry.to_index + step)
                self._tree.put_relocation(entry.sid, entry.index + step, row)

    def control(self, when: bytes, entry: ControlEntry) -> None:
        key = control_key(entry)
        known = self._tree.control(key)
        if known is None or when > known.when:
            self._tree.put_control(key, ControlRow(when, entry))


_HANDLERS: dict[type, Callable[..., None]] = {
    Create: _Batch.create,
    Place: _Batch.place,
    SetAttributes: _Batch.set_attributes,
    SetXattr: _Batch.set_xattr,
    Content: _Batch.content,
    Relocate: _Batch.relocate,
    PutStripe: _Batch.control,
    DropStripe: _Batch.control,
    Member: _Batch.control,
    AccountEntry: _Batch.control,
}


def ranked_heads(tree: Tree, inode: bytes, heads: set[bytes]) -> tuple[bytes, ...]:
    """Content heads of an inode, the one with the highest stamp, which is shown, first."""
    if len(heads) < 2:
        return tuple(heads)
    rows = [(head, tree.version(inode, head)) for head in heads]
    ranked = sorted(((row.when, head) for head, row in rows if row is not None), reverse=True)
    return tuple(head for _, head in ranked)


def shown_size(tree: Tree, row: InodeRow, known: Content | None = None) -> int:
    """The size of the content version that is shown; `known` may be it already."""
    if not row.heads:
        return 0
    if known is not None and row.heads[0] == known.version:
        return known.size
    version = tree.version(row.inode, row.heads[0])
    return version.content.size if version is not None and version.content is not None else 0


def advance_cut(tree: Tree, clock: int) -> Generator[None, None, None]:
    """No entry below this clock reading will ever come that the tree does not have: moves below
    it need not be taken back any more, and what comes all the same is left out. The moves go in
    steps; those that stay where it ends early go the next time, and mean nothing."""
    if clock > tree.cut:
        tree.set_cut(clock)
        yield from tree.drop_moves_below(clock.to_bytes(8))


# --- the hot path ---------------------------------------------------------------------------------


def _apply_plain_create(tree: Tree, when: bytes, entry: Create) -> bool:
    """The newest entry makes an unheard-of inode under a free name of a shown directory: nothing
    is taken back, revived or merged. False, and nothing is done, when it is not that plain.

    Does what the general way does, with a third of the steps.
    """
    placement = entry.placement
    inode, link, name = entry.inode, placement.link, placement.name
    parent = tree.inode(placement.parent)
    if parent is None or not parent.nlink or parent.merged_into or when <= tree.newest_move:
        return False
    place = placement.parent
    if tree.claims(place, name) or tree.inode(inode) or tree.link(link):
        return False
    cookie = tree.new_cookie()
    tree.put_inode(fresh(when, entry, tree.new_number()))
    tree.put_link(LinkRow(link, inode, place, name, place, cookie, when, (), True))
    tree.put_claims(place, name, link + inode)
    tree.put_child(place, Child(cookie, link, inode, name))
    tree.put_inode(
        touched(
            parent,
            when,
            entry.time_ns,
            filled=parent.filled + 1,
            children=parent.children + 1,
            subdirectories=parent.subdirectories + S_ISDIR(entry.mode),
        )
    )
    tree.put_move(when, MoveRow((placement,), (), (None,)))
    return True


# --- what no honest device writes -----------------------------------------------------------------


def is_acceptable(entry: Entry) -> bool:
    """Whether an entry is well-formed beyond what its decoder checks."""
    match entry:
        case Create():
            return (
                S_IFMT(entry.mode) in _TYPES
                and entry.inode == entry.placement.inode != ROOT
                and entry.placement.parent != NOWHERE
                and S_ISDIR(entry.mode) == (entry.placement.link == entry.inode)
                and _is_placement(entry.placement)
            )
        case Place():
            return all(map(_is_placement, entry.placements))
        case Content():
            return not (entry.inline and entry.extents) and entry.version not in entry.bases
        case _:
            return True


def _is_placement(placement: Placement) -> bool:
    return (
        ROOT not in (placement.link, placement.inode)
        and len(placement.parent) in (0, len(ROOT))
        and is_name(placement.name)
    )


def is_name(name: bytes) -> bool:
    """Whether a directory may hold this name."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
