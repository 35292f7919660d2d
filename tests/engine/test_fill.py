"""Holes that are filled: by few requests, once for all who want them, under no newer byte."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from aggfs.cache import blocks as block_tables
from aggfs.cache import sums
from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.coding.cipher import XtsUnit
from aggfs.engine import accounts as account_tables
from aggfs.engine.accounts import Ledger
from aggfs.engine.reading.around import FREE_MISSES
from aggfs.engine.reading.fill import RUNS_AHEAD, Filler
from aggfs.engine.reading.reach import FIRST_BLOCKS
from aggfs.engine.reading.target import Target
from aggfs.errors import TooFewFragments
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, STRIPE_BYTES, Extent
from aggfs.stores.faulty import FaultKind
from aggfs.sync.holes import Ranges
from tests.support.fetching import Ground
from tests.support.running import flush, make_volume, new_file, running
from tests.support.stripes import content

INODE = bytes(16)
STRIPES = 4
BLOCK_COUNT = STRIPES * STRIPE_BLOCKS
SIZE = BLOCK_COUNT * BLOCK_BYTES - 1000
DATA = content(SIZE, 3)
CIPHER = XtsUnit(bytes(range(64)))


@dataclass
class Scene:
    """A file of four stripes, none of it here."""

    ground: Ground
    files: SparseFiles
    filler: Filler
    target: Target
    size: int = SIZE

    async def fill(self, start: int, end: int) -> None:
        while missing := self.target.sparse.missing(start, end):
            await self.filler.fill(self.target, self.filler.sources(self.target, missing))

    async def read(self, start: int, end: int) -> bytes:
        self.filler.read_ahead(self.target, start, end)
        await self.fill(start, end)
        return bytes(self.target.sparse.read(start, end - start)[0])


@pytest.fixture
def patient_clock() -> MockClock:
    """Jumps when nothing happens: workers get the time that they need."""
    return MockClock(autojump_threshold=0.05)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    tables = (*account_tables.TABLES, *block_tables.TABLES, sums.TABLE)
    database = Database.open(str(tmp_path / "database"), tables=tables)
    ground = Ground(tmp_path, Ledger(database))
    blocks = Blocks(database)
    for number in range(STRIPES):
        first = number * STRIPE_BLOCKS
        pieces = [
            DATA[at * BLOCK_BYTES : (at + 1) * BLOCK_BYTES]
            for at in range(first, first + STRIPE_BLOCKS)
        ]
        row = ground.store(pieces, bytes([number]) * 24)
        blocks.put_stripe(StripeState(row, (1 << ground.n) - 1, announced=True))
        blocks.lay(INODE, [Extent(first, row.sid, 0, STRIPE_BLOCKS)])
    files = SparseFiles(str(tmp_path / "files"), database, Ranges)
    sparse = files.open(7, 0, size=SIZE, cipher=CIPHER)
    filler = Filler(ground.fetcher, blocks, lambda inode: None)
    scene = Scene(ground, files, filler, Target(INODE, sparse, SIZE, lambda: scene.size))
    yield scene
    scene.target.sparse.close()
    await database.close()


async def test_the_first_random_reads_ask_for_k_cells_of_their_own_block(scene):
    chance = random.Random(1)
    places = [chance.randrange(SIZE // 4096) * 4096 for _ in range(FREE_MISSES)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for place in places:
            assert await scene.read(place, place + 4096) == DATA[place : place + 4096]
        nursery.cancel_scope.cancel()
    touched = {place // BLOCK_BYTES for place in places}
    row = scene.filler._blocks.stripe(bytes(24)).row
    assert scene.ground.requests == scene.ground.k * len(touched)
    lengths = {length for store in scene.ground.counters for _, length in store.ranges}
    assert lengths == {scene.ground.cell_bytes(row, 0)}


async def test_who_reads_here_and_there_is_brought_the_stripes_that_he_reads_in(
    scene, patient_clock
):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=0.1)
    free = [2 * number * BLOCK_BYTES for number in range(FREE_MISSES)]
    places = [number * STRIPE_BYTES for number in range(1, STRIPES)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for place in (*free, *places):
            assert await scene.read(place, place + 4096) == DATA[place : place + 4096]
            await settled(scene)
        nursery.cancel_scope.cancel()
    missing = scene.target.sparse.missing(0, STRIPE_BYTES)
    assert [start for start, _ in missing] == [place + BLOCK_BYTES for place in free]
    assert scene.target.sparse.missing(STRIPE_BYTES, SIZE) == []
    rest = SIZE - STRIPE_BYTES
    assert scene.target.sparse.read(STRIPE_BYTES, rest)[0] == DATA[STRIPE_BYTES:]
    # What comes beside a read is asked for in one piece.
    assert scene.ground.requests == scene.ground.k * (len(free) + 2 * len(places))


async def test_on_a_slow_line_no_stripe_is_tried_after_the_first(scene, patient_clock):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=0.95)
    tried = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for number in range(FREE_MISSES + 2):
            place = number % STRIPES * STRIPE_BYTES + number * BLOCK_BYTES
            assert await scene.read(place, place + 4096) == DATA[place : place + 4096]
            tried.append(bool(scene.target.under_way))
            await settled(scene)
        nursery.cancel_scope.cancel()
    assert tried == [False] * FREE_MISSES + [True, False]


async def settled(scene: Scene) -> None:
    """Nothing is under way any more."""
    with trio.fail_after(60):
        while scene.target.under_way:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.1)


async def test_wants_that_overlap_are_fetched_once(scene):
    span = 6 * BLOCK_BYTES
    async with trio.open_nursery() as nursery:
        for start in (0, BLOCK_BYTES, 2 * BLOCK_BYTES + 5, 0):
            nursery.start_soon(scene.fill, start, start + span)
    cells = sum(length for store in scene.ground.counters for _, length in store.ranges)
    row = scene.filler._blocks.stripe(bytes(24)).row
    assert cells == scene.ground.k * 9 * scene.ground.cell_bytes(row, 0)
    assert scene.target.sparse.read(0, 9 * BLOCK_BYTES)[0] == DATA[: 9 * BLOCK_BYTES]


async def test_a_reader_in_order_gets_whole_stripes_once(scene):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for start in range(0, SIZE, BLOCK_BYTES):
            end = min(start + BLOCK_BYTES, SIZE)
            assert await scene.read(start, end) == DATA[start:end]
        nursery.cancel_scope.cancel()
    # The first two blocks come one by one; then the rest of the stripe, and three more stripes.
    assert scene.ground.requests <= scene.ground.k * (2 + STRIPES)


async def test_a_reader_in_order_finds_the_next_stripe_here_though_accounts_are_slow(
    scene, patient_clock
):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=0.2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for start in (0, 2, 4, 6):  # then it is known what the accounts carry
            await scene.read(start * BLOCK_BYTES, (start + 2) * BLOCK_BYTES)
            await settled(scene)
        assert not scene.target.sparse.missing(0, 2 * STRIPE_BLOCKS * BLOCK_BYTES)
        nursery.cancel_scope.cancel()


async def test_on_a_slow_line_no_more_is_read_ahead_than_comes_soon(scene, patient_clock):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for start in range(STRIPE_BLOCKS):
            await scene.read(start * BLOCK_BYTES, (start + 1) * BLOCK_BYTES)
            assert len(scene.target.under_way) <= FIRST_BLOCKS
        nursery.cancel_scope.cancel()


async def test_what_is_read_ahead_is_bounded_by_the_file(scene):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        start = (BLOCK_COUNT - 3) * BLOCK_BYTES
        assert await scene.read(start, SIZE) == DATA[start:]
        await scene.read(start, SIZE)
        nursery.cancel_scope.cancel()
    assert scene.ground.requests == scene.ground.k


async def test_so_many_runs_ahead_and_no_more_are_under_way(scene, patient_clock):
    scene.ground.break_all(FaultKind.HANG, range(5))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        for start in range(0, SIZE, STRIPE_BLOCKS * BLOCK_BYTES // 2):
            scene.filler.read_ahead(scene.target, start, start + 4 * BLOCK_BYTES)
        arrivals = {id(one) for one in scene.target.under_way.values()}
        assert 1 <= len(arrivals) <= RUNS_AHEAD
        nursery.cancel_scope.cancel()
    assert not scene.target.under_way


async def test_a_write_into_a_hole_under_way_wins(scene, patient_clock):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.fill, 0, 2 * BLOCK_BYTES)
        await trio.sleep(0.5)
        scene.target.sparse.write(1000, b"newer" * 100)
    expected = DATA[:1000] + b"newer" * 100 + DATA[1500 : 2 * BLOCK_BYTES]
    assert scene.target.sparse.read(0, 2 * BLOCK_BYTES)[0] == expected


async def test_what_is_cut_off_while_it_is_under_way_does_not_come_back(scene, patient_clock):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            scene.filler.fill, scene.target, scene.filler.sources(scene.target, [(0, 100)])
        )
        await trio.sleep(0.5)
        scene.size = scene.target.kept_bytes = 10
        scene.target.sparse.cut(10)
    scene.size = 100
    assert scene.target.sparse.missing(0, 100) == [(0, 100)]


async def test_blocks_of_one_content_are_not_for_the_next_one(scene):
    """The file gets another content before the task that fetches has begun."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.filler.run)
        await wait_all_tasks_blocked()
        scene.filler.read_ahead(scene.target, 0, STRIPE_BLOCKS * BLOCK_BYTES)
        assert scene.target.under_way
        scene.files.remove(scene.target.sparse)
        scene.target.sparse = scene.files.open(7, 1, size=SIZE, cipher=CIPHER)
        with trio.fail_after(60):
            while scene.target.under_way:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        assert scene.target.sparse.missing(0, SIZE) == [(0, SIZE)]
        nursery.cancel_scope.cancel()


async def test_what_is_evicted_while_it_is_under_way_is_fetched_again(scene, patient_clock):
    """Another version may lie in the accounts by then."""
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=1)
    async with trio.open_nursery() as nursery:
        sources = scene.filler.sources(scene.target, [(0, 100)])
        nursery.start_soon(scene.filler.fill, scene.target, sources)
        await trio.sleep(0.5)
        scene.target.sparse.evict(0, SIZE)
    assert scene.target.sparse.missing(0, 100) == [(0, 100)]


async def test_all_who_wait_hear_of_the_failure_at_once(scene, patient_clock):
    scene.ground.break_all(FaultKind.HANG, range(3))
    began = trio.current_time()
    heard = []

    async def wait() -> None:
        with pytest.raises(TooFewFragments):
            await scene.fill(0, 100)
        heard.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(wait)
    assert len(heard) == 4
    assert max(heard) <= 26


async def test_who_comes_late_does_not_share_the_failure_of_what_began_long_before(
    scene, patient_clock
):
    """The accounts are well again: whoever looks now finds the bytes."""
    scene.ground.break_all(FaultKind.HANG, range(5))
    async with trio.open_nursery() as nursery:

        async def first() -> None:
            with pytest.raises(TooFewFragments):
                await scene.fill(0, BLOCK_BYTES)

        nursery.start_soon(first)
        await trio.sleep(10)
        for store in scene.ground.faulty:
            store.heal()
        await scene.fill(0, BLOCK_BYTES)
    assert scene.target.sparse.read(0, BLOCK_BYTES)[0] == DATA[:BLOCK_BYTES]


async def test_a_reader_who_goes_away_leaves_the_others_their_bytes(scene, patient_clock):
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=1)

    async def leave_early() -> None:
        with trio.move_on_after(0.5):
            await scene.fill(0, BLOCK_BYTES)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave_early)
        await wait_all_tasks_blocked()
        await scene.fill(0, BLOCK_BYTES)
        nursery.cancel_scope.cancel()
    assert scene.target.sparse.read(0, BLOCK_BYTES)[0] == DATA[:BLOCK_BYTES]


async def test_several_stripes_that_fail_are_one_error_of_ours(scene, patient_clock):
    scene.ground.break_all(FaultKind.DOWN, range(3))
    with pytest.raises(TooFewFragments):
        await scene.fill(0, SIZE)
    assert not scene.target.under_way


async def test_what_is_fetched_past_a_full_disk_has_one_deadline_however_many_stripes(
    scene, patient_clock
):
    """One stripe after the other is fetched, each in time by itself."""
    scene.ground.break_all(FaultKind.SLOW, range(5), seconds=20)
    began = trio.current_time()
    with pytest.raises(TooFewFragments):
        await scene.filler.pass_by(scene.target, [(0, SIZE)], scene.filler.deadline())
    assert trio.current_time() - began == 25


async def test_who_finds_an_inline_content_missing_looks_again_though_another_has_filled_it(
    tmp_path: Path,
) -> None:
    """Else he would take what he saw, zeros, for what is there."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row, size = await new_file(volume, 1, b"small", b"inline"), len(b"inline")
        await flush(volume)
        file, filler = volume.parts.open_files.use(row.number), volume.parts.filler
        file.sparse.evict(0, size)
        seen = file.sparse.missing(0, size)
        assert seen == [(0, size)]
        assert [filler.fill_inline(file.target, seen) for _ in range(2)] == [True, True]
        assert bytes(file.sparse.read(0, size)[0]) == b"inline"
        assert not filler.fill_inline(file.target, [(size, 10)])
