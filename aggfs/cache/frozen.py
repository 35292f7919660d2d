"""The dirty bytes of a sparse file at one instant, while edits go on.

The frozen bytes stay where they are. A block that is edited before it was read out is first
copied to a nameless file (no memory, and free where the file system shares blocks). Once all
blocks are safe elsewhere, `release` makes them clean, except for bytes edited since.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aggfs.cache.presence import Pairs, Presence
from aggfs.cache.ranges import NewRanges, RangeSet
from aggfs.cache.sums import UNITS_PER_BLOCK, Unit
from aggfs.cache.unitfile import UNIT_BYTES, Buffer, NewMemory, UnitFile, checksum, group_of
from aggfs.errors import Damaged
from aggfs.model import BLOCK_BYTES


class FrozenBytes:
    """What `Frozen` and `SparseFile` share about one freeze. The lock is the file's; methods
    that say so need it held."""

    def __init__(
        self, raw: UnitFile, presence: Presence, directory: str, size: int, new_ranges: NewRanges
    ) -> None:
        self._raw = raw
        self._presence = presence
        self._new_ranges = new_ranges
        self._directory = directory
        self._aside: UnitFile | None = None
        self._aside_present = new_ranges()
        self.size = size
        self.blocks = new_ranges()
        for start, end in presence.dirty.intersect(0, size):
            self.blocks.add(start // BLOCK_BYTES, -(-end // BLOCK_BYTES))
        self.waiting = self.blocks.copy()
        self.aside = new_ranges()
        self.newer = new_ranges()
        self.sums: dict[int, Unit] = {}

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """The bytes of blocks [first, stop)."""
        return first * BLOCK_BYTES, min(stop * BLOCK_BYTES, self.size)

    def spare(self, start: int, end: int) -> None:
        """Before an edit of [start, end), lock held: put blocks that wait aside. Raises
        OSError."""
        first, stop = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        for low, high in self.waiting.intersect(first, stop):
            for part in self.aside.missing(low, high):
                self._put_aside(*part)

    def _put_aside(self, first: int, stop: int) -> None:
        start, end = self.span(first, stop)
        if self._aside is None:
            self._aside = self._raw.nameless(self._directory)
        missing = self._presence.holes(start, end)
        self._aside.copy_from(self._raw, start, end)
        self._aside_present.add(start, end)
        self._aside_present.remove_all(missing)
        self.aside.add(first, stop)

    def fill(self, offset: int, data: memoryview) -> None:
        """Clean bytes came, lock held: blocks put aside want them too. Raises OSError."""
        if self._aside is None:
            return
        end = offset + len(data)
        first, stop = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        for low, high in self.aside.intersect(first, stop):
            span_start, span_end = self.span(low, high)
            wanted = self._aside_present.missing(max(offset, span_start), min(end, span_end))
            for start, stop_at in wanted:
                wide_start, wide_end = group_of(start, stop_at, self._raw.granule)
                self._aside.write(
                    start,
                    data[start - offset : stop_at - offset],
                    keep_head=self._aside_present.overlaps(wide_start, start),
                    keep_tail=self._aside_present.overlaps(stop_at, wide_end),
                )
                self._aside_present.add(start, stop_at)

    def missing(self, first: int, stop: int) -> Pairs:
        """What is not there of blocks that are frozen, lock held."""
        found: Pairs = []
        for low, high in self.aside.missing(first, stop):
            found += self._presence.holes(*self.span(low, high))
        for low, high in self.aside.intersect(first, stop):
            found += self._aside_present.missing(*self.span(low, high))
        return sorted(found)

    def read_aside(self, block: int) -> Buffer:
        """A block that was put aside. Raises Damaged when it is not complete."""
        start, end = self.span(block, block + 1)
        if self._aside is None or not self._aside_present.contains(start, end):
            raise Damaged("a frozen block is not complete: fill what is missing first")
        return self._aside.read(start, end)

    def note_sums(self, start: int, raw: memoryview, end: int) -> None:
        """Remember the checksums of the units of whole blocks read out raw from `start`."""
        for at in range(start, end, UNIT_BYTES):
            valid = min(UNIT_BYTES, end - at)
            wide = group_of(0, valid, self._raw.granule)[1]
            self.sums[at // UNIT_BYTES] = valid, checksum(raw[at - start : at - start + wide])

    def clean(self, done: RangeSet) -> RangeSet:
        """Blocks `done` are safe elsewhere, lock held: what was not edited since is clean; those
        bytes."""
        presence, cleaned = self._presence, self._new_ranges()
        kept = [part for pair in self.newer for part in presence.dirty.intersect(*pair)]
        for first, stop in done:
            start, end = self.span(first, stop)
            cleaned.add(start, end)
            cleaned.remove_all(presence.holes(start, end))
            presence.dirty.remove(start, end)
        presence.dirty.add_all(kept)
        cleaned.remove_all(self.newer)
        presence.clean.add_all(cleaned)
        presence.changed.update(self._clean_units(done))
        return cleaned

    def _clean_units(self, done: RangeSet) -> dict[int, Unit]:
        """The rows of units that were read out, belong to `done`, and hold no newer edit."""
        found = dict(self.sums)
        beyond = max(found, default=-1) + 1
        for first, stop in self.blocks:
            for low, high in done.missing(first, stop):
                _drop(found, low * UNITS_PER_BLOCK, high * UNITS_PER_BLOCK)
        for start, end in self.newer:
            _drop(found, start // UNIT_BYTES, min(-(-end // UNIT_BYTES), beyond))
        return found

    def close(self) -> None:
        """Give up what was put aside."""
        self._aside = None


def _drop(rows: dict[int, Unit], first: int, stop: int) -> None:
    for unit in range(first, stop):
        rows.pop(unit, None)


@dataclass(frozen=True, slots=True)
class Fetched:
    """The bytes [start, end) of frozen blocks as they lie on the disk, in whole groups; or, where
    edits came between, the blocks in plain."""

    start: int
    end: int
    raw: memoryview | None
    blocks: list[Buffer]


class Frozen:
    """The frozen dirty blocks of one file. Ends with `release` or `thaw`; until then the file
    cannot be frozen again.

    `blocks` are the dirty blocks, `size` the file's size at that instant.
    """

    def __init__(
        self,
        shared: FrozenBytes,
        raw: UnitFile,
        presence: Presence,
        lock: threading.Lock,
        load: Callable[[int, int], None],
        prove: Callable[[int, int], None],
        end: Callable[[RangeSet | None], None],
        new_ranges: NewRanges,
    ) -> None:
        self._shared = shared
        self._raw = raw
        self._presence = presence
        self._lock = lock
        self._load = load
        self._prove = prove
        self._end = end
        self._new_ranges = new_ranges

    @property
    def size(self) -> int:
        """The size of the file when it was frozen."""
        return self._shared.size

    @property
    def blocks(self) -> RangeSet:
        """The indices of its dirty blocks. Do not change it."""
        return self._shared.blocks

    def missing(self) -> Pairs:
        """On the loop: what must be filled in (with `SparseFile.fill`) before the blocks can be
        read; only blocks that are partly dirty have such."""
        found: Pairs = []
        for first, stop in self._shared.blocks:
            start, end = self._shared.span(first, stop)
            with self._lock:
                unknown = self._presence.holes(start, end)
            for part in unknown:
                self._load(*part)
            with self._lock:
                found += self._shared.missing(first, stop)
        return found

    def read_blocks(self, first: int, count: int) -> list[Buffer]:
        """In a worker: as `fetch`, and at once `open`."""
        return self.open(self.fetch(first, count))

    def fetch(self, first: int, count: int, new_memory: NewMemory = bytearray) -> "Fetched":
        """In a worker: some frozen blocks, as they were, for `open`; each only once. They lie in
        what `new_memory` gave for a number of bytes, or in memory of their own.

        Raises Damaged when bytes are missing (ask `missing` again), NoSpace never.
        """
        shared, stop = self._shared, first + count
        start, end = shared.span(first, stop)
        with self._lock:
            self._prove(start, end)
            self._assert_complete(first, stop)
            apart = shared.aside.overlaps(first, stop)
        if not apart:
            raw_end = group_of(start, end, self._raw.granule)[1]
            raw = self._raw.raw(start, raw_end, memoryview(new_memory(raw_end - start)))
            with self._lock:
                apart = shared.aside.overlaps(first, stop)
                if not apart:
                    shared.waiting.remove(first, stop)
            if not apart:
                return Fetched(start, end, raw, [])
        if count > 1:
            parts = [self.read_blocks(block, 1)[0] for block in range(first, stop)]
            return Fetched(start, end, None, parts)
        with self._lock:
            shared.waiting.remove(first, stop)
        return Fetched(start, end, None, [shared.read_aside(first)])

    def open(self, fetched: "Fetched", new_memory: NewMemory = bytearray) -> list[Buffer]:
        """The plaintext of the blocks. It only computes; with a cipher it lies in what
        `new_memory` gave."""
        start, end, raw = fetched.start, fetched.end, fetched.raw
        if raw is None:
            return fetched.blocks
        self._shared.note_sums(start, raw, end)
        if not self._raw.encrypted:
            return self._cut(raw[: end - start])
        return self._cut(self._raw.decrypt(start, raw, start, end, new_memory))

    def _assert_complete(self, first: int, stop: int) -> None:
        if self._shared.missing(first, stop):
            raise Damaged("a frozen block is not complete: fill what is missing first")

    @staticmethod
    def _cut(plain: Buffer) -> list[Buffer]:
        view = memoryview(plain)
        return [view[at : at + BLOCK_BYTES] for at in range(0, len(view), BLOCK_BYTES)]

    def release(self, done: Iterable[tuple[int, int]] | None = None) -> None:
        """On the loop, together with the rows that make the blocks safe: ranges of blocks `done`
        (all, if None) are clean now, except for what was edited since; the rest stays dirty.
        The marks on disk go when those rows are committed."""
        if done is None:
            self._end(self._shared.blocks)
            return
        blocks = self._new_ranges()
        for pair in done:
            blocks.add(*pair)
        self._end(blocks)

    def thaw(self) -> None:
        """Give up: everything is as dirty as before."""
        self._end(None)
