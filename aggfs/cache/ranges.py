"""What the cache asks of a set of byte ranges: `aggfs.sync.holes.Ranges`, which is handed in."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol


class RangeSet(Protocol):
    """A mutable set of integers, held as sorted, disjoint half-open ranges."""

    def add(self, start: int, end: int) -> None:
        """Make every x of `start <= x < end` a member."""

    def remove(self, start: int, end: int) -> None:
        """Make no x of the range a member."""

    def add_all(self, other: Iterable[tuple[int, int]]) -> None:
        """Add every range of `other`."""

    def remove_all(self, other: Iterable[tuple[int, int]]) -> None:
        """Remove every range of `other`."""

    def clear(self) -> None:
        """Remove everything."""

    def contains(self, start: int, end: int) -> bool:
        """Whether all of the range is there."""

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any of the range is there."""

    def intersect(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the range that are there, in order."""

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the range that are not there, in order."""

    def copy(self) -> "RangeSet":
        """A snapshot."""

    @property
    def total(self) -> int:
        """How many integers are members."""

    @property
    def end(self) -> int:
        """One past the largest member, 0 when empty."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges, in order."""

    def __len__(self) -> int:
        """How many ranges there are."""

    def __bool__(self) -> bool:
        """Whether there are any."""


NewRanges = Callable[[], RangeSet]
