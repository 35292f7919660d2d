"""Entries of this device between being done and being published.

An entry is applied to the tree and put in the outbox in one transaction. Until its rows leave for
a segment they can be taken back: an inode that was made and lost its last name before anybody
could hear of it never is published. Then all its rows go, and what they did to directories' times
stays as an entry of its own, so that every device ends with the same times. When it had replaced
another file by rename and is replaced in turn (an editor that saves twice), the removal of the
first file moves to the later entry: no device ever sees the name missing.
"""

from collections.abc import Callable, Iterable
from itertools import chain

from msgspec.structs import replace

from aggfs.cache.outbox import Outbox
from aggfs.cache.tree import LmdbTree
from aggfs.model import (
    NOWHERE,
    Content,
    Create,
    Entry,
    LinkRow,
    MoveRow,
    OutboxRow,
    Place,
    Placement,
    SetAttributes,
    SetXattr,
    Stamp,
)
from aggfs.sync.clock import HybridClock, pack
from aggfs.sync.merge import apply
from aggfs.sync.moves import forget_move, log_move
from aggfs.sync.registers import changed

PLACEMENTS_LIMIT = 64
Numbered = tuple[int, OutboxRow]


class Pending:
    """What is done here and not published. On the loop only."""

    def __init__(
        self,
        tree: LmdbTree,
        outbox: Outbox,
        clock: HybridClock,
        wall_ns: Callable[[], int],
        assert_works: Callable[[], None],
    ) -> None:
        """`assert_works` raises once nothing that is done may be acknowledged any more."""
        self._assert_works = assert_works
        self._tree = tree
        self._outbox = outbox
        self._clock = clock
        self._wall_ns = wall_ns
        self._rows: dict[bytes, dict[int, None]] = {}  # unpublished inode -> who mentions it
        self._times: dict[bytes, int] = {}  # directory -> its latest row that is only times
        for number, row in outbox.rows():
            self._note(number, row.entry)

    def do(
        self,
        entry: Entry,
        waits_for: bytes = b"",
        *,
        frozen_at: int = 0,
        frees: tuple[tuple[bytes, bytes], ...] = (),
    ) -> int:
        """Apply an entry of ours and remember to publish it; its sequence. Raises
        `LocalDiskFailed`, and nothing is changed then."""
        self._assert_works()
        stamp = self._clock.tick(self._wall_ns())
        apply(self._tree, stamp, entry)
        number = self._outbox.append(stamp, entry, waits_for, frozen_at=frozen_at, frees=frees)
        self._note(number, entry)
        return number

    def _note(self, number: int, entry: Entry) -> None:
        if type(entry) is Create:
            self._rows[entry.inode] = {number: None}
        for inode in mentioned(entry):
            if inode in self._rows:
                self._rows[inode][number] = None

    def published(self, entry: Entry) -> None:
        """An entry left the outbox for a segment."""
        if type(entry) is Create:
            self._rows.pop(entry.inode, None)

    @property
    def next_sequence(self) -> int:
        """What the next entry will get."""
        return self._outbox.next_sequence

    def is_waiting(self, inodes: set[bytes] | None, until: int) -> bool:
        """Whether entries about these inodes (any, if None), of sequences below `until`, are not
        published yet."""
        if inodes is None:
            first = self._outbox.first()
            return first is not None and first[0] < until
        return any(
            number < until and not inodes.isdisjoint(subjects(row.entry))
            for number, row in self._outbox.rows()
        )

    # --- taking back ----------------------------------------------------------------------------

    def take_back(self, inode: bytes, last: int) -> bool:
        """The entry of sequence `last` removed the last name of this inode. If nobody can have
        heard of it, take back all that it was but its row; whether that was possible."""
        if inode not in self._rows:
            return False
        known = ((number, self._outbox.get(number)) for number in self._rows[inode])
        rows = [(number, row) for number, row in known if row is not None]
        others = self._others(inode, rows, last)
        if others is None or len(others) > PLACEMENTS_LIMIT:
            return False
        del self._rows[inode]
        directories: set[bytes] = set()
        for number, row in rows:
            self._forget_row(number, row)
            directories |= _directories(row.entry)
            for link in _links(row.entry, inode):
                self._tree.drop_link(link)
            if number != last:
                self._outbox.drop(number)
        current = next(row for number, row in rows if number == last)
        dropped = self._tree.inode(inode)
        unknown = set() if dropped is None else set(dropped.heads)
        kept = self._rewrite(last, current, others, unknown)
        for directory in sorted(directories - kept):
            self._keep_times(directory)
        return True

    def _others(
        self, inode: bytes, rows: Iterable[Numbered], last: int
    ) -> list[tuple[Placement, LinkRow | None, OutboxRow]] | None:
        """What the rows of an inode do to other links, with the links' rows before that. None if
        that cannot move to the last row: it is more than removals, or not the last word."""
        found = []
        for number, row in rows:
            if subjects(row.entry) == {inode}:
                continue
            move = self._tree.move(pack(row.stamp))
            if not isinstance(row.entry, Place) or move is None or not move.before:
                return None
            for placement, before in zip(row.entry.placements, move.before, strict=True):
                link = self._tree.link(placement.link)
                if placement.inode == inode and placement.link != inode:
                    continue
                if number != last and placement.parent != NOWHERE:
                    return None
                if link is None or link.when != pack(row.stamp) or link.inode == inode:
                    return None
                found.append((placement, before, row))
        return found

    def _rewrite(
        self,
        number: int,
        row: OutboxRow,
        others: list[tuple[Placement, LinkRow | None, OutboxRow]],
        unknown: set[bytes],
    ) -> set[bytes]:
        """Let the last row do only what is left to do; the directories whose times it sets. The
        content heads `unknown` are nobody's any more."""
        entry, when = row.entry, pack(row.stamp)
        assert isinstance(entry, Place)
        if not others:
            self._keep_times(entry.directories[0], number, row.stamp)
            return set(entry.directories[:1])
        placements = tuple(placement for placement, _, _ in others)
        observed = {head for _, _, one in others for head in _observed(one)} - unknown
        heads = tuple(sorted(observed))
        entry = replace(entry, placements=placements, observed=heads)
        self._outbox.put(number, replace(row, entry=entry))
        self._note(number, entry)
        log_move(self._tree, when, MoveRow(placements, heads, tuple(b for _, b, _ in others)))
        for placement in placements:
            link = self._tree.link(placement.link)
            if link is not None and link.parent == NOWHERE:
                self._tree.put_link(replace(link, when=when, observed=heads))
            inode = self._tree.inode(placement.inode)
            if inode is not None:
                self._tree.put_inode(changed(inode, when, entry.time_ns))
        return set(entry.directories)

    def _forget_row(self, number: int, row: OutboxRow) -> None:
        if isinstance(row.entry, Create | Place):
            forget_move(self._tree, pack(row.stamp))
        for inode in mentioned(row.entry):
            self._rows.get(inode, {}).pop(number, None)

    def _keep_times(
        self, directory: bytes, number: int | None = None, stamp: Stamp | None = None
    ) -> None:
        """Publish a directory's times by themselves: what set them is taken back. One such row a
        directory is enough."""
        row = self._tree.inode(directory)
        if row is None:
            return
        entry = SetAttributes(directory, None, None, None, None, row.mtime_ns, row.ctime_ns)
        if number is None or stamp is None:
            number = self.do(entry)
        else:
            self._outbox.put(number, OutboxRow(stamp, entry))
            self._note(number, entry)
        older = self._times.get(directory)
        known = None if older is None else self._outbox.get(older)
        if older is not None and known is not None:
            self._forget_row(older, known)
            self._outbox.drop(older)
        self._times[directory] = number


def subjects(entry: Entry) -> set[bytes]:
    """The inodes that an entry is about."""
    match entry:
        case Place():
            return {placement.inode for placement in entry.placements}
        case Create() | SetAttributes() | SetXattr() | Content():
            return {entry.inode}
        case _:
            return set()


def mentioned(entry: Entry) -> Iterable[bytes]:
    """The inodes that an entry names in any role."""
    match entry:
        case Create():
            return (entry.inode, entry.placement.parent)
        case Place():
            roles = ((placement.inode, placement.parent) for placement in entry.placements)
            return (*entry.directories, *chain.from_iterable(roles))
        case SetAttributes() | SetXattr() | Content():
            return (entry.inode,)
        case _:
            return ()


def _links(entry: Entry, inode: bytes) -> Iterable[bytes]:
    """The links of an inode that an entry places."""
    match entry:
        case Create():
            return (entry.placement.link,)
        case Place():
            return [one.link for one in entry.placements if one.inode == inode]
        case _:
            return ()


def _directories(entry: Entry) -> set[bytes]:
    """The directories whose times an entry sets."""
    match entry:
        case Create():
            return {entry.placement.parent}
        case Place():
            return set(entry.directories)
        case _:
            return set()


def _observed(row: OutboxRow) -> tuple[bytes, ...]:
    return row.entry.observed if isinstance(row.entry, Place) else ()
