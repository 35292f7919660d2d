"""The tree as POSIX changes it: each operation is one entry, applied at once and put in the outbox.

All methods are synchronous and run on the loop; a mutating one changes the tree and the outbox in
one transaction, or raises and changes nothing. Numbers are FUSE inode numbers.

Where devices clashed on a name, what is seen is only a view of it (`aggfs.sync.names`). An
operation on such a name makes the view real: what it does not move or remove keeps the name
under which it was seen, by the same entry.
"""

from collections.abc import Callable, Iterable, Sequence
from stat import S_ISDIR, S_ISGID, S_ISREG

from msgspec.structs import replace

from aggfs.cache.database import Database
from aggfs.cache.outbox import Outbox
from aggfs.cache.tree import LmdbTree
from aggfs.engine.names.attributes import PUBLISHED, UNPUBLISHED, Attributes
from aggfs.engine.names.paths import check_length
from aggfs.engine.names.pending import PLACEMENTS_LIMIT, Pending
from aggfs.errors import (
    Exists,
    InvalidMove,
    IsADirectory,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    TooLarge,
)
from aggfs.model import (
    NOWHERE,
    Content,
    ControlEntry,
    Create,
    Entry,
    InodeRow,
    Place,
    Placement,
    Relocate,
)
from aggfs.sync.clock import HybridClock
from aggfs.sync.names import CLAIM_BYTES, Shown, find, shown_names

LINKS_LIMIT = 65000


class Namespace(Attributes):
    """Names and attributes of a volume."""

    def __init__(
        self,
        database: Database,
        tree: LmdbTree,
        outbox: Outbox,
        clock: HybridClock,
        *,
        wall_ns: Callable[[], int],
        file_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        on_dropped: Callable[[InodeRow], None],
    ) -> None:
        """`wall_ns` orders what is done, `file_ns` gives the times that files show; `on_dropped`
        is told of every inode that nobody can reach any more."""
        pending = Pending(tree, outbox, clock, wall_ns, database.assert_works)
        super().__init__(tree, pending, database.table("orphans"), file_ns)
        self._random_bytes = random_bytes
        self._on_dropped = on_dropped

    # --- what waits to be published -----------------------------------------------------------

    def add_control(self, entry: ControlEntry) -> None:
        """Publish what is no part of the namespace: a stripe's place, a member, an account."""
        self._pending.do(entry)

    def relocate(self, entry: Relocate) -> None:
        """Some blocks lie elsewhere now, in a stripe that is stored."""
        self._pending.do(entry)

    def published(self, entry: Entry) -> None:
        """An entry left the outbox for a segment."""
        self._pending.published(entry)

    def next_outbox_sequence(self) -> int:
        """What the next entry's row will get."""
        return self._pending.next_sequence

    def is_waiting(self, inode: bytes) -> bool:
        """Whether entries on this inode are not published yet."""
        return self._pending.is_waiting({inode}, self._pending.next_sequence)

    def waiting(self, numbers: set[int] | None, until: int) -> bool:
        """Whether entries on these inodes (on any, if None), of sequences below `until`, are not
        published yet."""
        if numbers is None:
            return self._pending.is_waiting(None, until)
        inodes = (self._tree.inode_of_number(number) for number in numbers)
        return self._pending.is_waiting({inode for inode in inodes if inode is not None}, until)

    # --- making -------------------------------------------------------------------------------

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> InodeRow:
        """A new inode of any type under a free name, of the group of a setgid directory. Raises
        `Exists`, `NoEntry`, `NotADirectory`, `NameTooLong`."""
        directory = self._room_in(parent, name)
        if directory.mode & S_ISGID:
            gid = directory.gid
            mode |= S_ISGID if S_ISDIR(mode) else 0
        inode = self._random_bytes(16)
        link = inode if S_ISDIR(mode) else self._random_bytes(16)
        placement = Placement(link, inode, directory.inode, name)
        entry = Create(inode, mode, uid, gid, rdev, target, self._file_ns(), placement)
        self._pending.do(entry, inode if S_ISREG(mode) else b"")
        return self.by_inode(inode)

    def _room_in(self, parent: int, name: bytes) -> InodeRow:
        """The directory, in which `name` is free."""
        directory = self._directory(parent)
        if not directory.nlink:
            raise NoEntry("the directory was removed")
        check_length(name)
        if name in (b".", b"..") or find(self._tree, directory.inode, name) is not None:
            raise Exists("the name is taken")
        return directory

    def link(self, number: int, parent: int, name: bytes) -> InodeRow:
        """One name more for an inode that is no directory. Raises `NoEntry`, `NotADirectory`,
        `NotPermitted`, `Exists`, `NameTooLong`, `TooLarge`."""
        row = self.by_number(number)
        directory = self._room_in(parent, name)
        if S_ISDIR(row.mode):
            raise NotPermitted("a directory has one name")
        if not row.nlink:
            raise NoEntry("the file has no name left")
        if row.nlink >= LINKS_LIMIT:
            raise TooLarge(f"a file has at most {LINKS_LIMIT} names")
        placement = Placement(self._random_bytes(16), row.inode, directory.inode, name)
        self._pending.do(Place((placement,), self._file_ns(), (directory.inode,)))
        return self.by_inode(row.inode)

    # --- removing -----------------------------------------------------------------------------

    def unlink(self, parent: int, name: bytes) -> InodeRow:
        """Remove a name of what is no directory; the inode's row after that. Raises `NoEntry`,
        `NotADirectory`, `IsADirectory`."""
        directory = self._directory(parent)
        shown = self._find(directory, name)
        row = self.by_inode(shown.inode)
        if S_ISDIR(row.mode):
            raise IsADirectory("is a directory")
        return self._remove(directory, shown, row)

    def rmdir(self, parent: int, name: bytes) -> InodeRow:
        """Remove an empty directory; its row after that. Raises `NoEntry`, `NotADirectory`,
        `NotEmpty`, `InvalidMove`."""
        if name == b".":
            raise InvalidMove("a directory cannot be removed by the name `.`")
        directory = self._directory(parent)
        if name == b"..":
            raise NotEmpty("the directory is not empty")
        shown = self._find(directory, name)
        row = self.by_inode(shown.inode)
        if not S_ISDIR(row.mode):
            raise NotADirectory("not a directory")
        if row.children:
            raise NotEmpty("the directory is not empty")
        return self._remove(directory, shown, row)

    def _remove(self, directory: InodeRow, shown: Shown, row: InodeRow) -> InodeRow:
        placements = self._moved(shown, directory.inode, NOWHERE, shown.name)
        entry = Place(placements, self._file_ns(), (directory.inode,), row.heads)
        last = self._pending.do(entry, frees=((directory.inode, shown.name),))
        return self._after_removal(row.inode, last)

    def _moved(
        self, shown: Shown, place: bytes, parent: bytes, name: bytes
    ) -> tuple[Placement, ...]:
        """What is seen as `shown` in directory `place` goes to (parent, name): all directories
        that are seen as one, and the rest of its claim gets the names under which it is seen."""
        known = self._tree.link(shown.link)
        claimed = shown.name if known is None else known.name
        gone = claimed if parent == NOWHERE else name
        moved = [Placement(shown.link, shown.inode, parent, gone)]
        claims = self._tree.claims(place, claimed)
        if len(claims) == CLAIM_BYTES or claimed != shown.name:
            return tuple(moved)
        seen = shown_names(self._tree, place, claimed, claims)
        merged = self._merged_with(shown, claims, {other.link for other in seen})
        moved += [Placement(one, one, parent, gone) for one in merged]
        if len(moved) > PLACEMENTS_LIMIT // 2:
            raise TooLarge("more directories have this path than can be moved at once")
        for other in seen[1:][: PLACEMENTS_LIMIT // 2 - len(moved)]:
            row = self._tree.link(other.link)
            if row is not None:
                moved.append(Placement(other.link, other.inode, row.was_parent, other.name))
        return tuple(moved)

    @staticmethod
    def _merged_with(shown: Shown, claims: bytes, seen: set[bytes]) -> Iterable[bytes]:
        """The directories for which `shown` stands."""
        links = (claims[at : at + 16] for at in range(0, len(claims), CLAIM_BYTES))
        return [link for link in links if link != shown.link and link not in seen]

    def _after_removal(self, inode: bytes, last: int) -> InodeRow:
        """What is left of an inode that lost a name by the entry of sequence `last`."""
        row = self.by_inode(inode)
        if row.nlink == 0:
            taken_back = self._pending.take_back(inode, last)
            self._orphans.put(inode, UNPUBLISHED if taken_back else PUBLISHED)
        return row

    def drop_unlinked(self, number: int) -> None:
        """Nobody has this inode open any more; if it has no name, it is gone."""
        inode = self._tree.inode_of_number(number)
        row = None if inode is None else self._tree.inode(inode)
        if row is None or row.nlink:
            return
        self._on_dropped(row)
        if self._orphans.get(row.inode) == UNPUBLISHED:
            self._tree.drop_inode(row.inode)
        self._orphans.delete(row.inode)

    def is_gone(self, row: InodeRow) -> bool:
        """Whether nobody can reach this inode any more, and it was dropped."""
        return row.nlink == 0 and self._orphans.get(row.inode) is None

    def drop_orphans(self) -> None:
        """Drop what was unlinked and still open when the daemon stopped."""
        for inode, _ in self._orphans.scan(b""):
            row = self._tree.inode(inode)
            if row is not None:
                self.drop_unlinked(row.number)

    def bring_back(self, placements: Sequence[Placement]) -> None:
        """Links that were removed get places again, which are free. Their directories come
        first, if these were removed as well. At most `PLACEMENTS_LIMIT`."""
        parents = tuple(dict.fromkeys(placement.parent for placement in placements))
        self._pending.do(Place(tuple(placements), self._file_ns(), parents))
        for placement in placements:
            self._orphans.delete(placement.inode)

    def is_open(self, inode: bytes) -> bool:
        """Whether an inode without a name is still in use."""
        return self._orphans.get(inode) is not None

    def show_content(self, content: Content) -> InodeRow:
        """A file that was gone shows this content, one of its versions, and nothing local."""
        row = self.by_inode(content.inode)
        row = replace(
            row,
            size=content.size,
            mtime_ns=content.mtime_ns if row.unflushed else row.mtime_ns,
            generation=row.generation + 1,
            unflushed=False,
        )
        self._tree.put_inode(row)
        return row

    # --- moving -------------------------------------------------------------------------------

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, wait_for_content: bool
    ) -> InodeRow | None:
        """Move a name, over what may be there; the replaced inode's row after that, or None.

        `wait_for_content`: what is moved has content that is not in the accounts yet; the entry
        is published with it, not before.
        """
        source, target = self._directory(parent), self._directory(new_parent)
        moved = self._find(source, name)
        row = self.by_inode(moved.inode)
        check_length(new_name)
        self._check_move(row, target)
        there = find(self._tree, target.inode, new_name)
        replaced = None if there is None else self.by_inode(there.inode)
        if replaced is not None and replaced.inode == row.inode:
            return None
        if replaced is not None:
            self._check_replacement(row, replaced, source)
        placements = self._moved(moved, source.inode, target.inode, new_name)
        if there is not None:
            gone = self._moved(there, target.inode, NOWHERE, new_name)
            placements = _without_twice(placements, gone)
        last = self._pending.do(
            Place(
                placements,
                self._file_ns(),
                tuple(dict.fromkeys((source.inode, target.inode))),
                () if replaced is None else replaced.heads,
            ),
            row.inode if wait_for_content or row.unflushed else b"",
            frees=((source.inode, moved.name),),
        )
        return None if replaced is None else self._after_removal(replaced.inode, last)

    def rename_noreplace(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Move a name to a free one. Raises `Exists`."""
        self._find(self._directory(parent), name)
        self._room_in(new_parent, new_name)
        self.rename(parent, name, new_parent, new_name, wait_for_content=False)

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Two names change places."""
        source, target = self._directory(parent), self._directory(new_parent)
        one, other = self._find(source, name), self._find(target, new_name)
        rows = self.by_inode(one.inode), self.by_inode(other.inode)
        self._check_move(rows[0], target)
        self._check_move(rows[1], source)
        if one.inode == other.inode:
            return
        placements = self._moved(one, source.inode, target.inode, new_name)
        back = self._moved(other, target.inode, source.inode, name)
        placements = _without_twice(placements, back)
        directories = tuple(dict.fromkeys((source.inode, target.inode)))
        self._pending.do(
            Place(placements, self._file_ns(), directories),
            next((row.inode for row in rows if row.unflushed), b""),
            frees=((source.inode, one.name), (target.inode, other.name)),
        )

    def _check_move(self, row: InodeRow, target: InodeRow) -> None:
        if not target.nlink:
            raise NoEntry("the directory was removed")
        if S_ISDIR(row.mode) and self.is_inside(target, row):
            raise InvalidMove("a directory cannot be moved into itself")

    def _check_replacement(self, row: InodeRow, replaced: InodeRow, source: InodeRow) -> None:
        if S_ISDIR(replaced.mode):
            if self.is_inside(source, replaced):
                raise NotEmpty("the directory is not empty")
            if not S_ISDIR(row.mode):
                raise IsADirectory("is a directory")
            if replaced.children:
                raise NotEmpty("the directory is not empty")
        elif S_ISDIR(row.mode):
            raise NotADirectory("not a directory")


def _without_twice(
    one: tuple[Placement, ...], other: tuple[Placement, ...]
) -> tuple[Placement, ...]:
    """Two moves in one entry; what each does to links that the other is about gives way."""
    main = {one[0].link, other[0].link}
    first = {placement.link for placement in one}
    kept = [one[0], *(placement for placement in one[1:] if placement.link not in main), other[0]]
    return (*kept, *(p for p in other[1:] if p.link not in first | main))
