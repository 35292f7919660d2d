"""Clean bytes on their way into holes of a sparse file.

What computes (the cipher, the checksums) runs on the loop, block by block; what may wait for the
disk is one call in a worker for the whole run. Between the two the range is *landing*: it is a
hole still, nobody else may write there or punch it, and who wants to waits until it has landed.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

import trio

from aggfs.cache.presence import Presence
from aggfs.cache.ranges import NewRanges
from aggfs.cache.sums import Unit
from aggfs.cache.unitfile import GROUP_BYTES, UNIT_BYTES, Buffer, UnitFile, checksum, group_of


def memory_bytes(size_bytes: int) -> int:
    """How much memory the landing of a run of `size_bytes` takes."""
    return group_of(0, size_bytes, GROUP_BYTES)[1] + GROUP_BYTES


class Landing:
    """Blocks that follow each other from `start` on, a block's beginning; all but the last are
    whole. `memory` is the caller's, and what it holds is needed until `write` has returned."""

    def __init__(self, raw: UnitFile, start: int, memory: memoryview) -> None:
        self._raw = raw
        self._memory = memory
        self._pieces: list[Buffer] = []
        self.start = start
        self.end = start
        self.sums: dict[int, Unit] = {}

    def add(self, data: Buffer) -> None:
        """The next block's plaintext. Without a cipher it is kept, not copied."""
        at, self.end = self.end, self.end + len(data)
        piece = self._raw.raw_form(at, data, self._memory[at - self.start :])
        self._pieces.append(piece)
        for unit in range(at // UNIT_BYTES, -(-self.end // UNIT_BYTES)):
            start = unit * UNIT_BYTES - at
            valid = min(UNIT_BYTES, len(data) - start)
            wide = group_of(0, valid, self._raw.granule)[1]
            self.sums[unit] = valid, checksum(piece[start : start + wide])

    @property
    def wide(self) -> tuple[int, int]:
        """The range of whole groups that `write` changes."""
        return group_of(self.start, self.end, self._raw.granule)

    def write(self) -> None:
        """In a worker: everything onto the disk. Raises OSError."""
        self._raw.write_raw(self.start, self._pieces)


class Landings:
    """What is landing in one sparse file. On the loop, where nothing else is said. The lock is
    the file's, and held while `outside` is asked."""

    def __init__(
        self,
        raw: UnitFile,
        presence: Presence,
        lock: threading.Lock,
        may_land: Callable[[int], bool],
        new_ranges: NewRanges,
    ) -> None:
        """`may_land` says, lock held, whether the file as it was cut and evicted so many times is
        the file of now, and none that is frozen."""
        self._raw = raw
        self._presence = presence
        self._lock = lock
        self._may_land = may_land
        self._ranges = new_ranges()
        self._writers = 0
        self._landed = trio.Event()

    def prepare(self, start: int, memory: memoryview) -> Landing:
        """A run of blocks from `start` on; `memory` has `memory_bytes` of it."""
        return Landing(self._raw, start, memory)

    def begin(self, landing: Landing, removals: int) -> bool:
        """Whether `landing.write` may be called now, and then `end`. Only where all of the range
        is a hole and nothing else is going on there; else use `SparseFile.fill`."""
        start, end = landing.start, group_of(0, landing.end, UNIT_BYTES)[1]
        with self._lock:
            presence = self._presence
            if (
                self._writers
                or not self._may_land(removals)
                or presence.any(start, end)
                or presence.suspect.overlaps(start, end)
                or self.overlap(start, end)
            ):
                return False
            self._ranges.add(*landing.wide)
        return True

    def end(self, landing: Landing, removals: int, *, written: bool) -> None:
        """What was written is clean, unless the file was cut or evicted meanwhile."""
        with self._lock:
            self._ranges.remove(*landing.wide)
            if written and self._may_land(removals):
                self._presence.clean.add(landing.start, landing.end)
                for unit, (valid, total) in landing.sums.items():
                    whole = self._presence.valid(unit) == valid
                    self._presence.changed[unit] = (valid, total) if whole else (0, 0)
        self._landed.set()
        self._landed = trio.Event()

    def overlap(self, start: int, end: int) -> bool:
        """Whether [start, end) may not be written just now: `wait`, and ask again."""
        ranges = self._ranges
        return bool(ranges) and ranges.overlaps(*group_of(start, end, self._raw.granule))

    async def wait(self) -> None:
        """Until the next run has landed."""
        await self._landed.wait()

    @contextlib.contextmanager
    def held_off(self) -> Iterator[None]:
        """While the block runs nothing begins to land: a worker writes, or somebody waits for
        what is landing."""
        self._writers += 1
        try:
            yield
        finally:
            self._writers -= 1

    def outside(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """What of the ranges is not landing. In any thread."""
        return [part for pair in ranges for part in self._ranges.missing(*pair)]
