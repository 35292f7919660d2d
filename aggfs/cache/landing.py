"""Clean bytes on their way into holes of a sparse file.

What computes (the cipher, the checksums) runs on the loop, block by block; what may wait for the
disk is one call in a worker for the whole run. Between the two the range is *landing*: it is a
hole still, nobody else may write there or punch it, and who wants to waits until it has landed.

Long runs go past the page cache: the kernel keeps these bytes for the mount, and need not keep
them twice. Whoever reads in order comes for them soon after they landed, so the memory of the
last landings is kept, and he gets them from there.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import trio

from aggfs.cache.presence import Presence
from aggfs.cache.ranges import NewRanges
from aggfs.cache.sums import Unit
from aggfs.cache.unitfile import (
    DIRECT_BYTES,
    GROUP_BYTES,
    UNIT_BYTES,
    Buffer,
    UnitFile,
    checksum,
    group_of,
)
from aggfs.disk import aligned_memory


def memory_bytes(size_bytes: int) -> int:
    """How much memory the landing of a run of `size_bytes` takes."""
    return group_of(0, size_bytes, GROUP_BYTES)[1] + GROUP_BYTES


@dataclass(eq=False, slots=True)
class Landed:
    """The bytes of [start, end), whole groups, as they lie on the disk. None: their memory serves
    another landing."""

    start: int
    end: int
    raw: memoryview | None


class LandingMemory:
    """Page-aligned memory for runs of up to `run_bytes`, `count` of them, which keeps what landed
    last. On the loop."""

    def __init__(self, run_bytes: int, *, count: int) -> None:
        self._size_bytes = memory_bytes(run_bytes)
        self._new = count
        self._free: list[memoryview] = []
        self._kept: deque[tuple[Landed, memoryview]] = deque()

    def take(self) -> memoryview:
        """Memory for a landing, of unknown content, until it is settled. At most `count` at
        a time."""
        if self._free:
            return self._free.pop()
        if self._new:
            self._new -= 1
            return memoryview(aligned_memory(self._size_bytes))
        landed, memory = self._kept.popleft()
        landed.raw = None
        return memory

    def settle(self, landed: Landed | None, memory: memoryview) -> None:
        """The landing in this memory has ended. What landed may be used until the memory is
        needed again."""
        if landed is None:
            self._free.append(memory)
        else:
            self._kept.append((landed, memory))


class Landing:
    """Blocks that follow each other from `start` on, a block's beginning; all but the last are
    whole. `memory` is the caller's, page-aligned, and what it holds is needed until `write` has
    returned."""

    def __init__(self, raw: UnitFile, start: int, memory: memoryview) -> None:
        self._raw = raw
        self._memory = memory
        self.start = start
        self.end = start
        self.sums: dict[int, Unit] = {}

    def add(self, data: Buffer) -> None:
        """The next block's plaintext, which is needed no more after that."""
        at, self.end = self.end, self.end + len(data)
        piece = self._raw.raw_form(at, data, self._memory[at - self.start :])
        for unit in range(at // UNIT_BYTES, -(-self.end // UNIT_BYTES)):
            start = unit * UNIT_BYTES - at
            valid = min(UNIT_BYTES, len(data) - start)
            wide = group_of(0, valid, self._raw.granule)[1]
            self.sums[unit] = valid, checksum(piece[start : start + wide])

    @property
    def wide(self) -> tuple[int, int]:
        """The range of whole groups that `write` changes."""
        return group_of(self.start, self.end, self._raw.granule)

    @property
    def raw(self) -> memoryview:
        """The bytes of `wide`, as they lie on the disk."""
        start, end = self.wide
        return self._memory[: end - start]

    def write(self) -> None:
        """In a worker: everything onto the disk. Raises OSError."""
        self._raw.write_raw(self.start, self.raw)


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
        self._lately: list[Landed] = []

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
            self.forget(*landing.wide)
        return True

    def end(self, landing: Landing, removals: int, *, written: bool) -> Landed | None:
        """What was written is clean, unless the file was cut or evicted meanwhile. What
        `read_cached` may use of it as long as its memory is kept; None of short runs, for others
        to stay."""
        landed = None
        with self._lock:
            self._ranges.remove(*landing.wide)
            if written and self._may_land(removals):
                self._presence.clean.add(landing.start, landing.end)
                for unit, (valid, total) in landing.sums.items():
                    whole = self._presence.valid(unit) == valid
                    self._presence.changed[unit] = (valid, total) if whole else (0, 0)
                if len(landing.raw) >= DIRECT_BYTES:
                    landed = Landed(*landing.wide, landing.raw)
                    self._lately = [one for one in self._lately if one.raw is not None]
                    self._lately.append(landed)
        self._landed.set()
        self._landed = trio.Event()
        return landed

    def read_cached(self, start: int, end: int) -> Buffer | None:
        """The plaintext of [start, end), if it landed lately or the page cache has it."""
        for one in self._lately:
            if one.start <= start and end <= one.end and one.raw is not None:
                return self._raw.decrypt(one.start, one.raw, start, end)
        return self._raw.read_cached(start, end)

    def forget(self, start: int, end: int) -> None:
        """Bytes are going to be put at [start, end). In any thread, the file's lock held."""
        if self._lately:
            start, end = group_of(start, end, self._raw.granule)
            self._lately = [one for one in self._lately if end <= one.start or one.end <= start]

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
