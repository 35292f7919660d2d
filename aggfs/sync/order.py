"""Which entries may be published now: the order of publication.

An entry waits for its own data, and for earlier entries on the same inodes, links or names. So
"write temp, rename over" is atomic in the accounts too, while other files overtake an upload
that takes long. Control entries wait for nothing.

Blocking spreads. A row that must wait blocks the later rows that touch what it touches. And a
row may be *bound* to a later one, without which it must not be seen: the content that it waits
for, or, when its inode is gone again before any content came, the row that removes it. What is
chosen is published under one head, so bound rows are seen together.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from itertools import chain

from aggfs.model import (
    NOWHERE,
    Content,
    Create,
    Entry,
    OutboxRow,
    Place,
    Placement,
    Relocate,
    SetAttributes,
    SetXattr,
)

WINDOW_ROWS = 4096  # what one look takes in: it runs on the loop
Numbered = tuple[int, OutboxRow]
Key = bytes | tuple[bytes, bytes]


def ready(
    rows: Iterable[Numbered],
    *,
    unflushed: Callable[[bytes], bool],
    stored: Callable[[Content], bool],
    window: int = WINDOW_ROWS,
) -> list[Numbered]:
    """Of the first `window` rows, and of the content that these wait for, what may be published
    now: in order, all under one head.

    `unflushed(inode)`: it has a name, and has or is about to get content that is in no row yet.
    `stored`: all stripes that this content entry names have their write quorum.
    """
    known = list(rows)
    seen = known[:window]
    waits = {row.waits_for for _, row in seen}
    seen.extend(pair for pair in known[window:] if _is_content_of(pair[1].entry, waits))
    return _Order(seen, unflushed, stored).ready()


def _is_content_of(entry: Entry, inodes: set[bytes]) -> bool:
    return type(entry) is Content and entry.inode in inodes


class _Order:
    """One look at an outbox. Rows are known by their place in the list."""

    def __init__(
        self,
        rows: list[Numbered],
        unflushed: Callable[[bytes], bool],
        stored: Callable[[Content], bool],
    ) -> None:
        self._rows = rows
        self._unflushed = unflushed
        self._stored = stored
        self._users: dict[Key, list[int]] = {}  # who touches or needs a thing, in order
        self._contents: dict[bytes, list[int]] = {}
        self._removals: dict[bytes, int] = {}  # the last row that removes a link of an inode
        for at, (_, row) in enumerate(rows):
            entry = row.entry
            if type(entry) is Content:
                self._contents.setdefault(entry.inode, []).append(at)
            elif type(entry) is Place:
                for placement in entry.placements:
                    if placement.parent == NOWHERE:
                        self._removals[placement.inode] = at

    def ready(self) -> list[Numbered]:
        waiting: list[int] = []
        bound: dict[int, list[int]] = {}  # a row -> those before it that are bound to it
        for at, (number, row) in enumerate(self._rows):
            if type(row.entry) is Content:
                if not self._stored(row.entry):
                    waiting.append(at)
            elif row.waits_for:
                partner = self._partner(at, number, row.waits_for)
                if partner is not None:
                    bound.setdefault(partner, []).append(at)
                elif self._unflushed(row.waits_for):
                    waiting.append(at)
        if not waiting:
            return self._rows
        self._file_users()
        blocked = self._spread(waiting, bound)
        return [pair for at, pair in enumerate(self._rows) if at not in blocked]

    def _file_users(self) -> None:
        for at, (_, row) in enumerate(self._rows):
            for key in {*_touched(row.entry), *_needed(row.entry)}:
                self._users.setdefault(key, []).append(at)

    def _partner(self, at: int, number: int, inode: bytes) -> int | None:
        """The later row that this one must not be seen without."""
        contents = self._contents.get(inode, [])
        for content in contents:
            if self._rows[content][1].frozen_at > number:
                return content
        if self._unflushed(inode):
            return None
        if contents and contents[-1] > at:  # frozen before this row was made, and all there is
            return contents[-1]
        removal = self._removals.get(inode, -1)
        return removal if removal > at else None

    def _spread(self, waiting: list[int], bound: dict[int, list[int]]) -> set[int]:
        blocked: set[int] = set()
        reached: dict[Key, int] = {}  # the first row from which on all users are blocked
        todo = waiting
        while todo:
            at = todo.pop()
            if at in blocked:
                continue
            blocked.add(at)
            todo.extend(bound.get(at, ()))
            row = self._rows[at][1]
            for key in chain(_touched(row.entry), row.frees):
                todo.extend(self._later(key, at, reached))
        return blocked

    def _later(self, key: Key, at: int, reached: dict[Key, int]) -> list[int]:
        """The users of a thing after a row, up to those that were given before."""
        end = reached.get(key, len(self._rows))
        users = self._users.get(key, [])
        reached[key] = min(at, end)
        return users[bisect_right(users, at) : bisect_right(users, end)]


def _touched(entry: Entry) -> Iterable[Key]:
    """What later entries must not overtake this one on."""
    match entry:
        case Create():
            return chain((entry.inode,), _of_placement(entry.placement))
        case Place():
            links = (_of_placement(placement) for placement in entry.placements)
            inodes = (placement.inode for placement in entry.placements)
            return chain(inodes, *links)
        case SetAttributes() | SetXattr() | Content():
            return (entry.inode,)
        case Relocate():
            return (entry.sid,)
        case _:
            return ()


def _needed(entry: Entry) -> Iterable[Key]:
    """What this entry rests on beside what it touches: the directories it names."""
    match entry:
        case Create():
            return (entry.placement.parent,)
        case Place():
            parents = (placement.parent for placement in entry.placements)
            return chain(parents, entry.directories)
        case _:
            return ()


def _of_placement(placement: Placement) -> Iterable[Key]:
    if placement.parent == NOWHERE:
        return (placement.link,)
    return (placement.link, (placement.parent, placement.name))
