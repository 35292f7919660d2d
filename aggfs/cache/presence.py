"""Which bytes of one sparse file are there, and how sure that is.

A byte is *dirty* (a local edit that the accounts lack), *clean* (the accounts have it too), or a
hole. After a start what is there is *suspect*, whole units at a time, until it was looked at
once: clean units against their checksum, dirty ones (through a cipher) for groups that never
reached the disk. Nothing here does I/O or locks; `SparseFile` does both.
"""

from collections.abc import Iterable
from itertools import islice

from aggfs.cache.ranges import NewRanges
from aggfs.cache.sums import UNITS_PER_BLOCK, Unit
from aggfs.cache.unitfile import UNIT_BYTES, checksum, group_of, zero_groups

Pairs = list[tuple[int, int]]

FOR_EVER = 1 << 62


class Presence:
    """The ranges of one sparse file. `changed` collects units whose recorded row is to change."""

    def __init__(self, new_ranges: NewRanges, granule: int) -> None:
        self._granule = granule
        self.dirty = new_ranges()
        self.clean = new_ranges()
        self.suspect = new_ranges()
        self.changed: dict[int, Unit] = {}
        self.recorded = False
        self._sums: dict[int, Unit] = {}

    # --- asking -------------------------------------------------------------------------------

    def holes(self, start: int, end: int) -> Pairs:
        """What is not there of [start, end)."""
        if self.clean.contains(start, end):
            return []
        holes: Pairs = []
        for part in self.dirty.missing(start, end):
            holes += self.clean.missing(*part)
        return holes

    def any(self, start: int, end: int) -> bool:
        """Whether any byte of the range is there."""
        return self.dirty.overlaps(start, end) or self.clean.overlaps(start, end)

    def certain(self, start: int, end: int) -> bool:
        """Whether all of the range is there and none of it suspect."""
        if self.suspect and self.suspect.overlaps(start, end):
            return False
        return self.dirty.contains(start, end) or not self.holes(start, end)

    # --- from the records ---------------------------------------------------------------------

    def admit_dirty(self, ranges: Iterable[tuple[int, int]], *, proven: bool) -> None:
        """What the sidecar says. It goes before what clean rows say."""
        for start, end in ranges:
            self.dirty.add(start, end)
            if not proven:
                self.suspect.add(*group_of(start, end, UNIT_BYTES))

    def admit_clean(self, block: int, units: Iterable[Unit]) -> None:
        """What the row of a block says, where nothing newer is known."""
        for unit, (valid, total) in enumerate(units, block * UNITS_PER_BLOCK):
            start = unit * UNIT_BYTES
            if not valid or unit in self.changed:
                continue
            if self.dirty.overlaps(start, start + UNIT_BYTES):
                continue
            self.clean.add(start, start + valid)
            self.suspect.add(start, start + UNIT_BYTES)
            self._sums[unit] = valid, total

    def judge(self, start: int, raw: memoryview) -> tuple[Pairs, Pairs]:
        """Look at suspect units wholly within `raw`, which lies at `start` (both whole units).
        What is wrong becomes a hole. Returns what of that was clean, and what dirty."""
        clean: Pairs = []
        dirty: Pairs = []
        for low, high in self.suspect.intersect(start, start + len(raw)):
            for unit in range(low // UNIT_BYTES, high // UNIT_BYTES):
                at = unit * UNIT_BYTES
                part = raw[at - start : at - start + UNIT_BYTES]
                if unit in self._sums:
                    clean += self._judge_clean(unit, part)
                else:
                    dirty += self._judge_dirty(at, part)
            self.suspect.remove(low, high)
        return clean, dirty

    def _judge_clean(self, unit: int, part: memoryview) -> Pairs:
        valid, total = self._sums.pop(unit)
        if checksum(part[: group_of(0, valid, self._granule)[1]]) == total:
            return []
        lost = unit * UNIT_BYTES, (unit + 1) * UNIT_BYTES
        self.clean.remove(*lost)
        self.changed[unit] = (0, 0)
        return [lost]

    def _judge_dirty(self, at: int, part: memoryview) -> Pairs:
        lost: Pairs = []
        for start, end in zero_groups(bytes(part)):
            lost += self.dirty.intersect(at + start, at + end)
        for pair in lost:
            self.dirty.remove(*pair)
        return lost

    # --- changes ------------------------------------------------------------------------------

    def written(self, start: int, end: int) -> None:
        """[start, end) was edited; its units have no row any more."""
        self.dirty.add(start, end)
        self.clean.remove(start, end)
        self._void(start, end)

    def spoilt(self, start: int, end: int) -> None:
        """An edit of [start, end) failed half way: what was clean there cannot be trusted."""
        self.clean.remove(*group_of(start, end, self._granule))
        self._void(start, end)

    def _void(self, start: int, end: int) -> None:
        if self.recorded or self.changed:
            units = range(start // UNIT_BYTES, -(-end // UNIT_BYTES))
            self.changed.update(dict.fromkeys(units, (0, 0)))

    def forget(self, start: int, end: int) -> Pairs:
        """Make holes of what is clean, suspect units wholly; returns what was."""
        for low, high in self.suspect.intersect(start, end):
            for unit in range(low // UNIT_BYTES, -(-high // UNIT_BYTES)):
                if self._sums.pop(unit, None) is not None:
                    at = unit * UNIT_BYTES
                    self.suspect.remove(at, at + UNIT_BYTES)
                    start, end = min(start, at), max(end, at + UNIT_BYTES)
        gone = self.clean.intersect(start, end)
        for low, high in gone:
            self.clean.remove(low, high)
            self._void(low, high)
        return gone

    def cut(self, size: int) -> None:
        """Nothing is there from `size` on. What is suspect in the unit of `size` was proved."""
        above = group_of(0, size, UNIT_BYTES)[1]
        self.dirty.remove(size, FOR_EVER)
        self.clean.remove(size, FOR_EVER)
        self.suspect.remove(above, FOR_EVER)
        self._sums = {unit: row for unit, row in self._sums.items() if unit * UNIT_BYTES < above}
        self.changed = {
            unit: row for unit, row in self.changed.items() if unit * UNIT_BYTES < above
        }
        if size % UNIT_BYTES:
            self._void(size, size + 1)

    def take_changed(self, limit: int) -> dict[int, Unit]:
        """At most so many of the units whose rows are to change; they are known to have one now."""
        if len(self.changed) <= limit:
            taken, self.changed = self.changed, {}
        else:
            taken = {unit: self.changed[unit] for unit in islice(self.changed, limit)}
            for unit in taken:
                del self.changed[unit]
        self.recorded = self.recorded or bool(taken)
        return taken

    def valid(self, unit: int) -> int:
        """How many bytes from the start of a unit are clean; 0 if any of the unit is dirty."""
        start = unit * UNIT_BYTES
        if self.dirty.overlaps(start, start + UNIT_BYTES):
            return 0
        parts = self.clean.intersect(start, start + UNIT_BYTES)
        return parts[0][1] - start if parts and parts[0][0] == start else 0
