"""The tree as POSIX sees it: each operation is one entry, applied at once and put in the outbox.

All methods are synchronous and run on the loop; a mutating one changes the tree and the outbox in
one transaction, or raises and changes nothing. Numbers are FUSE inode numbers.

Table `orphans`: inode 16 -> Orphan: inodes that have no name left and are still open. They are
dropped at the next start if nobody drops them before.
"""

import stat
from collections.abc import Callable, Iterable, Iterator

import msgspec

from aggfs.cache.database import Database
from aggfs.cache.outbox import Outbox
from aggfs.cache.tree import LmdbTree
from aggfs.errors import (
    Exists,
    InvalidMove,
    IsADirectory,
    NameTooLong,
    NoAttribute,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    TooLarge,
)
from aggfs.model import (
    NAME_BYTES,
    NANOSECONDS_LIMIT,
    NOWHERE,
    ROOT,
    Content,
    ControlEntry,
    Create,
    Entry,
    InodeRow,
    LinkRow,
    Place,
    Placement,
    SetAttributes,
    SetXattr,
    Stamp,
)
from aggfs.sync.clock import HybridClock
from aggfs.sync.merge import apply, forget_inode
from aggfs.sync.moves import is_inside
from aggfs.sync.names import CLAIM_BYTES, Shown, find, shown_names
from aggfs.sync.view import place_of

TABLES = ("orphans",)
LINKS_LIMIT = 65000
XATTR_VALUE_BYTES = 65536
READDIR_ROWS = 256
SELF_COOKIE, PARENT_COOKIE = 1, 2


class Orphan(msgspec.Struct, frozen=True, array_like=True):
    """An inode without a name. `stamps` are those of its entries that were never published and
    never will be; empty when others may know it."""

    stamps: tuple[Stamp, ...]


class Namespace:
    """Names and attributes of a volume."""

    def __init__(
        self,
        database: Database,
        tree: LmdbTree,
        outbox: Outbox,
        clock: HybridClock,
        *,
        wall_ns: Callable[[], int],
        random_bytes: Callable[[int], bytes],
        on_dropped: Callable[[InodeRow], None],
    ) -> None:
        """`on_dropped` is told of every inode that nobody can reach any more."""
        self._tree = tree
        self._outbox = outbox
        self._clock = clock
        self._wall_ns = wall_ns
        self._random_bytes = random_bytes
        self._on_dropped = on_dropped
        self._orphans = database.table("orphans")
        self._unpublished: dict[bytes, list[int]] = {}  # inode created in the outbox -> its rows
        for number, row in outbox.rows():
            self._note(number, row.entry)

    def drop_orphans(self) -> None:
        """Drop what was unlinked and still open when the daemon stopped."""
        for inode, _ in self._orphans.scan(b""):
            row = self._tree.inode(inode)
            if row is not None:
                self.drop_unlinked(row.number)

    # --- entries ------------------------------------------------------------------------------

    def _do(self, entry: Entry, waits_for: bytes = b"") -> None:
        """Apply an entry of ours and remember to publish it."""
        stamp = self._clock.tick(self._wall_ns())
        apply(self._tree, stamp, entry)
        self._note(self._outbox.append(stamp, entry, waits_for), entry)

    def add_control(self, entry: ControlEntry) -> None:
        """Publish what is no part of the namespace: a stripe's place, a member, an account."""
        stamp = self._clock.tick(self._wall_ns())
        apply(self._tree, stamp, entry)
        self._outbox.append(stamp, entry)

    def _note(self, number: int, entry: Entry) -> None:
        if type(entry) is Create:
            self._unpublished[entry.inode] = [number]
            return
        inode = _only_inode(entry)
        if inode in self._unpublished:
            self._unpublished[inode].append(number)

    def published(self, entry: Entry) -> None:
        """An entry left the outbox for a segment."""
        if type(entry) is Create:
            self._unpublished.pop(entry.inode, None)

    def next_outbox_sequence(self) -> int:
        """What the next entry's row will get."""
        return self._outbox.next_sequence

    def is_waiting(self, inode: bytes) -> bool:
        """Whether entries on this inode are not published yet."""
        return any(inode in _inodes(row.entry) for _, row in self._outbox.rows())

    def waiting(self, numbers: set[int] | None) -> bool:
        """Whether entries on these inodes (on any, if None) are not published yet."""
        if numbers is None:
            return len(self._outbox) > 0
        inodes = {self._tree.inode_of_number(number) for number in numbers}
        return any(not inodes.isdisjoint(_inodes(row.entry)) for _, row in self._outbox.rows())

    # --- looking ------------------------------------------------------------------------------

    def by_number(self, number: int) -> InodeRow:
        """The inode's row, also while it has no name. Raises `NoEntry`."""
        inode = self._tree.inode_of_number(number)
        row = None if inode is None else self._tree.inode(inode)
        if row is None:
            raise NoEntry(f"there is no inode {number}")
        return row

    def has_number(self, number: int) -> bool:
        """Whether there is such an inode."""
        return self._tree.inode_of_number(number) is not None

    def by_inode(self, inode: bytes) -> InodeRow:
        """As `by_number`, by inode id."""
        row = self._tree.inode(inode)
        if row is None:
            raise NoEntry("there is no such inode")
        return row

    def content_of(self, inode: bytes) -> Content | None:
        """The entry of the content version that is shown."""
        row = self._tree.inode(inode)
        if row is None or not row.heads:
            return None
        version = self._tree.version(inode, row.heads[0])
        return None if version is None else version.content

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        """The inode under a name. Raises `NoEntry`, `NotADirectory`, `NameTooLong`."""
        directory = self._directory(parent)
        if name == b".":
            return directory
        if name == b"..":
            return self._parent_of(directory)
        return self.by_inode(self._find(directory, name).inode)

    def _directory(self, number: int) -> InodeRow:
        row = self.by_number(number)
        if not stat.S_ISDIR(row.mode):
            raise NotADirectory("not a directory")
        return row

    def _parent_of(self, row: InodeRow) -> InodeRow:
        link = None if row.inode == ROOT else self._tree.link(row.inode)
        if link is None or link.parent == NOWHERE:
            return row
        return self.by_inode(place_of(self._tree, link.parent))

    def _find(self, directory: InodeRow, name: bytes) -> Shown:
        if len(name) > NAME_BYTES:
            raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
        shown = find(self._tree, directory.inode, name)
        if shown is None:
            raise NoEntry("no such file or directory")
        return shown

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        """(name, row, cookie) of every entry with a cookie above `after_cookie`, in order. Each
        entry that is there the whole time comes exactly once, whatever comes and goes."""
        directory = self._directory(number)
        if after_cookie < SELF_COOKIE:
            yield b".", directory, SELF_COOKIE
        if after_cookie < PARENT_COOKIE:
            yield b"..", self._parent_of(directory), PARENT_COOKIE
        after = max(after_cookie, PARENT_COOKIE)
        while True:
            children = self._tree.children(directory.inode, after, READDIR_ROWS)
            for child in children:
                name = self._shown_name(directory.inode, child.name, child.link)
                row = self._tree.inode(child.inode)
                if name is not None and row is not None:
                    yield name, row, child.cookie
            if len(children) < READDIR_ROWS:
                return
            after = children[-1].cookie

    def _shown_name(self, directory: bytes, name: bytes, link: bytes) -> bytes | None:
        claims = self._tree.claims(directory, name)
        if len(claims) == CLAIM_BYTES:
            return name
        shown = shown_names(self._tree, directory, name, claims)
        return next((one.name for one in shown if one.link == link), None)

    def place_of(self, number: int) -> tuple[bytes, bytes]:
        """(parent inode, name) of one of its links; (ROOT, b"") for the root."""
        row = self.by_number(number)
        for link in self._links(row.inode):
            return link.parent, link.name
        return ROOT, b""

    def _links(self, inode: bytes) -> Iterable[LinkRow]:
        return (link for link in self._tree.links_of(inode) if link.parent != NOWHERE)

    def path_of(self, number: int) -> bytes:
        """One absolute path of an inode."""
        parts: list[bytes] = []
        row = self.by_number(number)
        while row.inode != ROOT:
            parent, name = self.place_of(row.number)
            parts.append(name)
            row = self.by_inode(parent)
        return b"/" + b"/".join(reversed(parts))

    def resolve(self, path: bytes) -> InodeRow:
        """The inode at an absolute path; symbolic links are not followed."""
        row = self.by_inode(ROOT)
        for name in path.split(b"/"):
            if name:
                row = self.lookup(row.number, name)
        return row

    def numbers_under(self, number: int) -> Iterator[int]:
        """An inode and everything below it."""
        yield number
        if stat.S_ISDIR(self.by_number(number).mode):
            for _, row, cookie in self.readdir(number, PARENT_COOKIE):
                if cookie > PARENT_COOKIE:
                    yield from self.numbers_under(row.number)

    @property
    def inode_count(self) -> int:
        """About how many inodes there are."""
        return self._tree.numbers_given

    # --- making and removing ------------------------------------------------------------------

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
        """A new inode of any type under a free name. Raises `Exists`, `NoEntry`, ..."""
        directory = self._room_in(parent, name)
        inode = self._random_bytes(16)
        link = inode if stat.S_ISDIR(mode) else self._random_bytes(16)
        placement = Placement(link, inode, directory.inode, name)
        entry = Create(inode, mode, uid, gid, rdev, target, self._wall_ns(), placement)
        self._do(entry, inode if stat.S_ISREG(mode) else b"")
        return self.by_inode(inode)

    def _room_in(self, parent: int, name: bytes) -> InodeRow:
        """The directory, in which `name` is free."""
        directory = self._directory(parent)
        if not directory.nlink:
            raise NoEntry("the directory was removed")
        if len(name) > NAME_BYTES:
            raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
        if name in (b".", b"..") or find(self._tree, directory.inode, name) is not None:
            raise Exists("the name is taken")
        return directory

    def link(self, number: int, parent: int, name: bytes) -> InodeRow:
        """One name more for an inode that is no directory."""
        row = self.by_number(number)
        if stat.S_ISDIR(row.mode):
            raise NotPermitted("a directory has one name")
        if not row.nlink:
            raise NoEntry("the file has no name left")
        if row.nlink >= LINKS_LIMIT:
            raise TooLarge(f"a file has at most {LINKS_LIMIT} names")
        directory = self._room_in(parent, name)
        placement = Placement(self._random_bytes(16), row.inode, directory.inode, name)
        self._do(Place((placement,), self._wall_ns(), (directory.inode,)))
        return self.by_inode(row.inode)

    def unlink(self, parent: int, name: bytes) -> InodeRow:
        """Remove a name of what is no directory; the inode's row after that."""
        directory = self._directory(parent)
        shown = self._find(directory, name)
        row = self.by_inode(shown.inode)
        if stat.S_ISDIR(row.mode):
            raise IsADirectory("is a directory")
        return self._remove(directory, shown, row)

    def rmdir(self, parent: int, name: bytes) -> InodeRow:
        """Remove an empty directory; its row after that."""
        if name == b".":
            raise InvalidMove("a directory cannot be removed by the name `.`")
        directory = self._directory(parent)
        if name == b"..":
            raise NotEmpty("the directory is not empty")
        shown = self._find(directory, name)
        row = self.by_inode(shown.inode)
        if not stat.S_ISDIR(row.mode):
            raise NotADirectory("not a directory")
        if row.children:
            raise NotEmpty("the directory is not empty")
        return self._remove(directory, shown, row)

    def _remove(self, directory: InodeRow, shown: Shown, row: InodeRow) -> InodeRow:
        gone = self._gone(shown.link, row.inode)
        self._do(Place((gone,), self._wall_ns(), (directory.inode,), row.heads))
        return self._after_removal(row.inode)

    def _gone(self, link: bytes, inode: bytes) -> Placement:
        known = self._tree.link(link)
        return Placement(link, inode, NOWHERE, known.name if known else b"?")

    def _after_removal(self, inode: bytes) -> InodeRow:
        """What is left of an inode that lost a name. One that was never published never will
        be."""
        row = self.by_inode(inode)
        if row.nlink == 0:
            stamps: list[Stamp] = []
            for number in self._unpublished.pop(inode, ()):
                known = self._outbox.get(number)
                if known is not None:
                    stamps.append(known.stamp)
                    self._outbox.drop(number)
            self._orphans.put(inode, msgspec.msgpack.encode(Orphan(tuple(stamps))))
        return row

    def drop_unlinked(self, number: int) -> None:
        """Nobody has this inode open any more, and it has no name: it is gone."""
        inode = self._tree.inode_of_number(number)
        row = None if inode is None else self._tree.inode(inode)
        if row is None or row.nlink:
            return
        value = self._orphans.get(row.inode)
        self._on_dropped(row)
        if value is not None:
            orphan = msgspec.msgpack.decode(value, type=Orphan)
            if orphan.stamps:
                forget_inode(self._tree, row.inode, orphan.stamps)
            self._orphans.delete(row.inode)

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
        if len(new_name) > NAME_BYTES:
            raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
        self._check_move(row, target)
        there = find(self._tree, target.inode, new_name)
        if there is not None and there.inode == moved.inode:
            return None
        placements = [Placement(moved.link, moved.inode, target.inode, new_name)]
        observed: tuple[bytes, ...] = ()
        if there is not None:
            replaced = self.by_inode(there.inode)
            self._check_replacement(row, replaced)
            placements.append(self._gone(there.link, there.inode))
            observed = replaced.heads
        directories = tuple(dict.fromkeys((source.inode, target.inode)))
        waits_for = moved.inode if wait_for_content else b""
        entry = Place(tuple(placements), self._wall_ns(), directories, observed)
        self._do(entry, waits_for)
        return None if there is None else self._after_removal(there.inode)

    def rename_noreplace(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Move a name to a free one. Raises `Exists`."""
        self._find(self._directory(parent), name)
        self._room_in(new_parent, new_name)
        self.rename(parent, name, new_parent, new_name, wait_for_content=False)

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        """Two names change places."""
        source, target = self._directory(parent), self._directory(new_parent)
        one, other = self._find(source, name), self._find(target, new_name)
        self._check_move(self.by_inode(one.inode), target)
        self._check_move(self.by_inode(other.inode), source)
        if one.link == other.link:
            return
        placements = (
            Placement(one.link, one.inode, target.inode, new_name),
            Placement(other.link, other.inode, source.inode, name),
        )
        directories = tuple(dict.fromkeys((source.inode, target.inode)))
        self._do(Place(placements, self._wall_ns(), directories))

    def _check_move(self, row: InodeRow, target: InodeRow) -> None:
        if not target.nlink:
            raise NoEntry("the directory was removed")
        if stat.S_ISDIR(row.mode) and (
            row.inode == target.inode or is_inside(self._tree, target.inode, row.inode)
        ):
            raise InvalidMove("a directory cannot be moved into itself")

    @staticmethod
    def _check_replacement(row: InodeRow, replaced: InodeRow) -> None:
        if stat.S_ISDIR(replaced.mode):
            if not stat.S_ISDIR(row.mode):
                raise IsADirectory("is a directory")
            if replaced.children:
                raise NotEmpty("the directory is not empty")
        elif stat.S_ISDIR(row.mode):
            raise NotADirectory("not a directory")

    # --- attributes ---------------------------------------------------------------------------

    def set_attributes(
        self,
        number: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> InodeRow:
        """Set some; the ctime becomes now unless it is given."""
        row = self.by_number(number)
        now = self._wall_ns() if ctime_ns is None else ctime_ns
        permissions = None if mode is None else stat.S_IMODE(mode)
        times = (_kept(atime_ns), _kept(mtime_ns), now)
        entry = SetAttributes(row.inode, permissions, uid, gid, *times)
        self._do(entry)
        return self.by_inode(row.inode)

    def touch_local(
        self,
        number: int,
        *,
        size: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        atime_ns: int | None = None,
        generation: int | None = None,
    ) -> InodeRow:
        """What a write changes here at once and a Content entry tells the others later."""
        row = self.by_number(number)
        new = InodeRow(
            row.inode,
            row.number,
            row.mode,
            row.uid,
            row.gid,
            row.rdev,
            row.atime_ns if atime_ns is None else atime_ns,
            row.mtime_ns if mtime_ns is None else mtime_ns,
            row.ctime_ns if ctime_ns is None else ctime_ns,
            row.btime_ns,
            row.size if size is None else size,
            row.target,
            row.nlink,
            row.children,
            row.subdirectories,
            row.heads,
            row.registers,
            row.generation if generation is None else generation,
            row.unflushed or size is not None or mtime_ns is not None,
            row.placed,
            row.filled,
            row.clashes,
            row.merged_into,
        )
        self._tree.put_inode(new)
        return new

    def add_content(self, content: Content, *, frozen_at: int, unflushed: bool) -> None:
        """A new version of a file: an entry. `unflushed`: newer edits are here already."""
        row = self.by_inode(content.inode)
        if row.unflushed != unflushed:
            self._tree.put_inode(msgspec.structs.replace(row, unflushed=unflushed))
        stamp = self._clock.tick(self._wall_ns())
        apply(self._tree, stamp, content)
        number = self._outbox.append(stamp, content, frozen_at=frozen_at)
        self._note(number, content)

    # --- extended attributes ------------------------------------------------------------------

    def get_xattr(self, number: int, name: bytes) -> bytes:
        """Raises `NoAttribute`."""
        row = self._tree.xattr(self.by_number(number).inode, name)
        if row is None or row.value is None:
            raise NoAttribute("no such attribute")
        return row.value

    def list_xattrs(self, number: int) -> list[bytes]:
        """Names, in order."""
        found = self._tree.xattrs(self.by_number(number).inode)
        return [name for name, row in found if row.value is not None]

    def set_xattr(self, number: int, name: bytes, value: bytes) -> None:
        """Set or replace one."""
        if len(name) > NAME_BYTES:
            raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
        if len(value) > XATTR_VALUE_BYTES:
            raise TooLarge(f"an attribute has at most {XATTR_VALUE_BYTES} bytes")
        self._do(SetXattr(self.by_number(number).inode, name, value, self._wall_ns()))

    def remove_xattr(self, number: int, name: bytes) -> None:
        """Raises `NoAttribute`."""
        self.get_xattr(number, name)
        self._do(SetXattr(self.by_number(number).inode, name, None, self._wall_ns()))


def _kept(time_ns: int | None) -> int | None:
    """The time as it can be stored: one later than the year 2554 becomes that."""
    return None if time_ns is None else min(time_ns, NANOSECONDS_LIMIT)


def _inodes(entry: Entry) -> set[bytes]:
    match entry:
        case Place():
            return {placement.inode for placement in entry.placements}
        case Create() | SetAttributes() | SetXattr() | Content():
            return {entry.inode}
        case _:
            return set()


def _only_inode(entry: Entry) -> bytes:
    """The one inode that an entry is about, b"" if there are several."""
    found = _inodes(entry)
    return found.pop() if len(found) == 1 else b""
