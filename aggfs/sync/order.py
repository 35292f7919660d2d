"""Which entries may be published now: the order of publication.

An entry waits for its own data, and for earlier entries on the same inodes, links or names. So
"write temp, rename over" is atomic in the accounts too, while other files overtake an upload
that takes long. Control entries wait for nothing.
"""

from collections.abc import Callable, Iterable

from aggfs.model import (
    NOWHERE,
    Content,
    ControlEntry,
    Create,
    Entry,
    OutboxRow,
    Place,
    Placement,
    Relocate,
    SetAttributes,
    SetXattr,
)

Numbered = tuple[int, OutboxRow]
Key = bytes | tuple[bytes, bytes]


def ready(
    rows: Iterable[Numbered],
    *,
    unflushed: Callable[[bytes], bool],
    stored: Callable[[Content], bool],
) -> list[Numbered]:
    """The rows, in order, that may be published now.

    `unflushed(inode)`: it has, or is about to get, content that is in no row yet. `stored`: all
    stripes that a content needs have their write quorum.
    """
    known = list(rows)
    contents = _Contents(known, unflushed, stored)
    blocked: set[Key] = set()
    chosen: list[Numbered] = []
    for number, row in known:
        if isinstance(row.entry, ControlEntry):
            chosen.append((number, row))
            continue
        touched = set(_touched(row.entry))
        needed = touched | set(_needed(row.entry))
        if contents.waits(number, row) or not blocked.isdisjoint(needed):
            blocked |= touched
        else:
            chosen.append((number, row))
    return chosen


class _Contents:
    """The content rows of an outbox: which are stored, and which are still coming."""

    def __init__(
        self,
        rows: Iterable[Numbered],
        unflushed: Callable[[bytes], bool],
        stored: Callable[[Content], bool],
    ) -> None:
        self._unflushed = unflushed
        self._stored: dict[bytes, int] = {}  # inode -> highest frozen_at of what is stored
        self._coming: dict[bytes, int] = {}  # inode -> highest number of what is not
        for number, row in rows:
            if isinstance(row.entry, Content):
                inode = row.entry.inode
                if stored(row.entry):
                    self._stored[inode] = max(row.frozen_at, self._stored.get(inode, 0))
                else:
                    self._coming[inode] = number

    def waits(self, number: int, row: OutboxRow) -> bool:
        """Whether the data that this row needs is not stored yet."""
        if isinstance(row.entry, Content):
            return row.frozen_at > self._stored.get(row.entry.inode, -1)
        inode = row.waits_for
        if not inode or self._stored.get(inode, 0) > number:
            return False
        return inode in self._coming or self._unflushed(inode)


def _touched(entry: Entry) -> Iterable[Key]:
    """What later entries must not overtake this one on."""
    match entry:
        case Create():
            yield entry.inode
            yield from _of_placement(entry.placement)
        case Place():
            yield from entry.directories
            for placement in entry.placements:
                yield placement.inode
                yield from _of_placement(placement)
        case SetAttributes() | SetXattr() | Content():
            yield entry.inode
        case Relocate():
            yield entry.sid


def _needed(entry: Entry) -> Iterable[Key]:
    """What this entry rests on beside what it touches: the directories it names."""
    match entry:
        case Create():
            yield entry.placement.parent
        case Place():
            for placement in entry.placements:
                yield placement.parent


def _of_placement(placement: Placement) -> Iterable[Key]:
    yield placement.link
    if placement.parent != NOWHERE:
        yield (placement.parent, placement.name)
