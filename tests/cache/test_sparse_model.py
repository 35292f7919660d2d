"""Sparse files against an array of bytes: edits, fills, freezes, crashes, evictions, cuts."""

import random
import tempfile

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.landing import LandingMemory
from aggfs.cache.sums import TABLE
from aggfs.coding.cipher import XtsUnit
from aggfs.model import BLOCK_BYTES
from aggfs.sync.holes import Ranges

LIMIT = 6 * BLOCK_BYTES
UNIT = 64 * 1024
KEY = bytes(range(64))

borders = st.sampled_from([0, 16, 4096, UNIT, 2 * UNIT, BLOCK_BYTES, 2 * BLOCK_BYTES, LIMIT])
offsets = st.builds(
    lambda border, shift: min(max(0, border + shift), LIMIT - 1), borders, st.integers(-40, 40)
)
lengths = st.sampled_from([1, 7, 16, 33, 4096, 5000, UNIT, UNIT + 3, BLOCK_BYTES, 400_000])


class SparseFileIsAnArray(RuleBasedStateMachine):
    """`content` is what the file should read as wherever something is present; `dirty` flags
    what must be present; `frozen_*` the same at the freeze."""

    cipher: XtsUnit | None = XtsUnit(KEY)

    @initialize(
        size=st.sampled_from([0, 100, UNIT + 5, BLOCK_BYTES, LIMIT - 3, 5 * BLOCK_BYTES]),
        landed=st.booleans(),
    )
    def begin(self, size, landed):
        self.home = tempfile.TemporaryDirectory()
        self.random = random.Random(size)
        self.content = bytearray(self.random.randbytes(size))
        self.dirty = Ranges()
        self.released = Ranges()
        self.frozen = None
        self.memory = LandingMemory(LIMIT, count=2)
        self.start()
        if landed:
            self.land(0, 6, between=False)

    def start(self):
        self.database = Database.open(self.home.name + "/db", tables=(TABLE,))
        self.files = SparseFiles(self.home.name + "/files", self.database, Ranges)
        self.open()

    def open(self):
        self.file = self.files.open(7, 1, size=len(self.content), cipher=self.cipher)

    # --- changes ------------------------------------------------------------------------------

    @rule(offset=offsets, length=lengths, load=st.booleans())
    def write(self, offset, length, load):
        end = min(offset + length, LIMIT)
        data = self.random.randbytes(end - offset)
        if load:
            self.file.load(offset, end)
        self.file.write(offset, data)
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data
        self.dirty.add(offset, end)
        if self.frozen is not None:
            self.newer.add(offset, end)

    @rule(offset=offsets, length=lengths, load=st.booleans())
    def fill(self, offset, length, load):
        end = min(offset + length, len(self.content))
        if offset >= end:
            return
        if load:
            self.file.load(offset, end)
        self.file.fill(offset, self.published(offset, end))
        if load:
            assert self.file.missing(offset, end) == []

    def published(self, start, end):
        """What the accounts have, with noise where it does not matter."""
        data, unknown = self.content[start:end], self.dirty
        if self.frozen is not None:
            # Bytes that are dirty now but were not then: the accounts have what was there then.
            then = self.frozen_content[start:end]
            data[: len(then)] = then
            unknown = self.frozen_dirty.copy()
            unknown.add_all(self.dirty.intersect(len(self.frozen_content), LIMIT))
        for low, high in unknown.intersect(start, end):
            data[low - start : high - start] = self.random.randbytes(high - low)
        return bytes(data)

    @rule(first=st.integers(0, 1), stops_at=st.sampled_from([2, 6]), between=st.booleans())
    def land(self, first, stops_at, between):
        """A run from the accounts, long enough to be kept in memory, or not."""
        start, end = first * BLOCK_BYTES, min(stops_at * BLOCK_BYTES, len(self.content))
        if start >= end:
            return
        self.file.load(start, end)
        landings, removals = self.file.landings, self.file.removals
        memory, landed = self.memory.take(), None
        landing = landings.prepare(start, memory)
        for at in range(start, end, BLOCK_BYTES):
            landing.add(self.published(at, min(at + BLOCK_BYTES, end)))
        if landings.begin(landing, removals):
            landing.write()
            if between:
                self.file.evict(0, LIMIT)
            landed = landings.end(landing, removals, written=True)
        self.memory.settle(landed, memory)

    @rule()
    def settle(self):
        self.file.settle()

    @rule()
    def commit(self):
        self.database.commit_now()
        self.released.clear()

    @rule()
    def sync(self):
        self.file.sync()

    @precondition(lambda self: self.frozen is None)
    @rule(size=offsets)
    def cut(self, size):
        if size >= len(self.content):
            return
        self.commit()
        self.file.cut(size)
        del self.content[size:]
        self.dirty.remove(size, LIMIT)

    @rule(start=offsets, length=lengths, punch=st.booleans())
    def evict(self, start, length, punch):
        gone = self.file.evict(start, start + length)
        if punch:
            self.file.punch(gone)

    # --- freezing -----------------------------------------------------------------------------

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self):
        self.frozen = self.file.freeze(len(self.content))
        self.frozen_content = bytes(self.content)
        self.frozen_dirty = self.dirty.copy()
        self.newer = Ranges()
        self.unread = [b for first, stop in self.frozen.blocks for b in range(first, stop)]
        blocks = range(-(-len(self.content) // BLOCK_BYTES))
        assert self.unread == [
            b for b in blocks if self.dirty.overlaps(b * BLOCK_BYTES, (b + 1) * BLOCK_BYTES)
        ]

    @precondition(lambda self: self.frozen is not None)
    @rule(whole=st.booleans())
    def read_frozen(self, whole):
        for _ in range(3):
            for start, end in self.frozen.missing():
                self.file.fill(start, self.published(start, end))
        assert self.frozen.missing() == []
        while self.unread:
            first = self.unread.pop(0)
            count = 1
            while whole and self.unread and self.unread[0] == first + count:
                self.unread.pop(0)
                count += 1
            for block, data in enumerate(self.frozen.read_blocks(first, count), first):
                start = block * BLOCK_BYTES
                assert data == self.frozen_content[start : start + BLOCK_BYTES]
            if not whole:
                return

    @precondition(lambda self: self.frozen is not None and not self.unread)
    @rule()
    def release(self):
        self.frozen.release()
        self.frozen = None
        self.frozen_dirty.remove_all(self.newer)
        self.dirty.remove_all(self.frozen_dirty)
        self.released.add_all(self.frozen_dirty)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def thaw(self):
        self.frozen.thaw()
        self.frozen = None

    # --- stops --------------------------------------------------------------------------------

    @precondition(lambda self: self.frozen is None)
    @rule()
    def close_and_open(self):
        self.files.close(self.file)
        self.open()

    @rule()
    def stop_and_start(self):
        if self.frozen is not None:
            self.thaw()
        self.files.close(self.file)
        self.commit()
        self.leave()
        self.start()
        assert not self.file.settling

    @rule()
    def crash(self):
        self.frozen = None
        self.leave()
        self.dirty.add_all(self.released)
        self.released.clear()
        self.start()

    def leave(self):
        self.database.abandon()
        del self.file, self.files

    # --- looking ------------------------------------------------------------------------------

    @rule(offset=offsets, length=lengths)
    def read(self, offset, length):
        end = min(offset + length, len(self.content))
        if offset >= end:
            return
        self.file.load(offset, end)
        data, holes = self.file.read(offset, end - offset)
        assert holes == self.file.missing(offset, end)
        self.compare(offset, end, bytes(data), holes)
        cached = self.file.read_cached(offset, end - offset)
        assert cached is None or (cached == data and not holes)

    def compare(self, offset, end, data, holes):
        wanted = bytearray(self.content[offset:end])
        for start, stop in holes:
            wanted[start - offset : stop - offset] = bytes(stop - start)
            assert not self.dirty.overlaps(start, stop)
        assert data == wanted

    @invariant()
    def local_edits_are_known(self):
        if not hasattr(self, "file"):
            return
        presence = self.file._presence
        assert presence.dirty == self.dirty
        assert not any(presence.clean.overlaps(*pair) for pair in presence.dirty)

    def teardown(self):
        if hasattr(self, "file"):
            size = len(self.content)
            data, holes = self.file.read(0, size)
            self.compare(0, size, bytes(data), holes)
            self.frozen = None
            self.leave()
            self.home.cleanup()


class PlainSparseFileIsAnArray(SparseFileIsAnArray):
    """With `cache_encryption = off`."""

    cipher = None


SparseFileIsAnArray.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
PlainSparseFileIsAnArray.TestCase.settings = SparseFileIsAnArray.TestCase.settings
TestSparseFileIsAnArray = SparseFileIsAnArray.TestCase
TestPlainSparseFileIsAnArray = PlainSparseFileIsAnArray.TestCase
