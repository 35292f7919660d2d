"""What a place has of a file, and what it lacks: a set of half-open byte (or block) ranges.

`Ranges` keeps sorted, disjoint, never touching ranges in two lists (starts and ends), so that a
question costs one bisect, an append at the end is constant, and a change in the middle moves
only the tail of two flat lists. Every range is `start <= x < end`; an empty range (`end <= start`)
is nothing: adding, removing or asking for it is allowed and does nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """A mutable set of integers >= 0, held as ranges. Not hashable; `copy` gives a snapshot."""

    __slots__ = ("_ends", "_starts", "_total")

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._total = 0
        for start, end in pairs:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Make every x of `start <= x < end` a member."""
        if end <= start:
            return
        starts, ends = self._starts, self._ends
        if not starts or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            self._total += end - start
            return
        if start >= starts[-1]:
            if end > ends[-1]:
                self._total += end - ends[-1]
                ends[-1] = end
            return
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        if first < last:
            start = min(start, starts[first])
            end = max(end, ends[last - 1])
        self._replace(first, last, [start], [end])

    def remove(self, start: int, end: int) -> None:
        """Make no x of `start <= x < end` a member."""
        if end <= start:
            return
        starts, ends = self._starts, self._ends
        first = bisect_right(ends, start)
        last = bisect_left(starts, end)
        if first >= last:
            return
        new_starts: list[int] = []
        new_ends: list[int] = []
        if starts[first] < start:
            new_starts.append(starts[first])
            new_ends.append(start)
        if ends[last - 1] > end:
            new_starts.append(end)
            new_ends.append(ends[last - 1])
        self._replace(first, last, new_starts, new_ends)

    def _replace(self, first: int, last: int, starts: list[int], ends: list[int]) -> None:
        self._total += sum(ends) - sum(starts)
        self._total -= sum(self._ends[first:last]) - sum(self._starts[first:last])
        self._starts[first:last] = starts
        self._ends[first:last] = ends

    def add_all(self, other: Iterable[tuple[int, int]]) -> None:
        """Add every range of `other`."""
        for start, end in tuple(other):
            self.add(start, end)

    def remove_all(self, other: Iterable[tuple[int, int]]) -> None:
        """Remove every range of `other`."""
        for start, end in tuple(other):
            self.remove(start, end)

    def clear(self) -> None:
        """Remove everything."""
        self._starts.clear()
        self._ends.clear()
        self._total = 0

    def contains(self, start: int, end: int) -> bool:
        """Whether all of the range is there. The empty range always is."""
        if end <= start:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and end <= self._ends[at]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any x of the range is there."""
        if end <= start:
            return False
        at = bisect_right(self._ends, start)
        return at < len(self._starts) and self._starts[at] < end

    def intersect(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the range that are there, in order."""
        if end <= start:
            return []
        starts, ends = self._starts, self._ends
        first = bisect_right(ends, start)
        last = bisect_left(starts, end)
        return [(max(starts[at], start), min(ends[at], end)) for at in range(first, last)]

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The holes: the parts of the range that are not there, in order."""
        if end <= start:
            return []
        holes = []
        at = start
        for part_start, part_end in self.intersect(start, end):
            if at < part_start:
                holes.append((at, part_start))
            at = part_end
        if at < end:
            holes.append((at, end))
        return holes

    def copy(self) -> "Ranges":
        """A snapshot that later changes do not touch."""
        twin = Ranges()
        twin._starts = self._starts.copy()
        twin._ends = self._ends.copy()
        twin._total = self._total
        return twin

    @property
    def total(self) -> int:
        """How many integers are members."""
        return self._total

    @property
    def start(self) -> int:
        """The smallest member, 0 when empty."""
        return self._starts[0] if self._starts else 0

    @property
    def end(self) -> int:
        """One past the largest member, 0 when empty."""
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, in order. Do not change the set meanwhile."""
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many ranges (not integers) there are."""
        return len(self._starts)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"
