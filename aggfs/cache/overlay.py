"""Changes of a table that are not in LMDB yet, and how they are laid over what is.

A table is read through three layers: the current changes, the changes that are being committed,
and what LMDB holds. A change is a value, or None: the key is deleted. Keys are only ever added
to a layer, which is what makes the sorted list of them cheap to keep.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import islice

Stored = tuple[bytes, bytes]


class Changes(dict[bytes, bytes | None]):
    """Key -> new value, or None for a deleted key. Keys never leave."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        super().__init__()
        self._names: list[bytes] = []

    def names(self) -> list[bytes]:
        """All keys in order. The list is shared: do not change it, nor keep it."""
        names = self._names
        if len(names) != len(self):
            names.extend(islice(self, len(names), None))
            names.sort()
        return names


def end_of(prefix: bytes) -> bytes | None:
    """The first key after all that start with `prefix`; None if there is no such key."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


def window(older: Changes, newer: Changes, start: bytes, stop: bytes | None) -> list[bytes]:
    """The changed keys of both layers with `start <= key < stop`, in order, each once."""
    first, second = _cut(older, start, stop), _cut(newer, start, stop)
    if first and second:
        return sorted({*first, *second})
    return first or second


def _cut(changes: Changes, start: bytes, stop: bytes | None) -> list[bytes]:
    if not changes:
        return []
    names = changes.names()
    low = bisect_left(names, start)
    return names[low:] if stop is None else names[low : bisect_left(names, stop, low)]


def merged_up(names: list[bytes], stored: Iterable[Stored]) -> Iterator[tuple[bytes, bytes | None]]:
    """Ascending keys of both; a changed key comes with None: its value is in the layers."""
    changed = iter(names)
    name = next(changed, None)
    for row in stored:
        while name is not None and name < row[0]:
            yield name, None
            name = next(changed, None)
        if name != row[0]:
            yield row
    while name is not None:
        yield name, None
        name = next(changed, None)


def merged_down(
    names: list[bytes], stored: Iterable[Stored]
) -> Iterator[tuple[bytes, bytes | None]]:
    """As `merged_up`, descending; `stored` comes in descending order, `names` in ascending."""
    changed = reversed(names)
    name = next(changed, None)
    for row in stored:
        while name is not None and name > row[0]:
            yield name, None
            name = next(changed, None)
        if name != row[0]:
            yield row
    while name is not None:
        yield name, None
        name = next(changed, None)
