"""Small files of one stripe come together, once, and never at the cost of one of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from aggfs.cache.database import Database
from aggfs.coding import codec
from aggfs.engine import accounts as account_tables
from aggfs.engine.accounts import Ledger
from aggfs.engine.reading.fetch import Run
from aggfs.engine.reading.neighbours import (
    KEPT_STRIPES,
    MOMENT_SECONDS,
    SLOW_SECONDS,
    Neighbours,
    are_small,
)
from aggfs.errors import TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.model import BLOCK_BYTES
from aggfs.stores.faulty import FaultKind
from tests.support.fetching import Ground
from tests.support.stripes import content

COUNT = 12
PIECES = [content(4096, number) for number in range(COUNT)]


class Scene:
    """Stripes of small blocks, and who reads them."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.neighbours = Neighbours(ground.fetcher)
        self.row = ground.store(PIECES, bytes(24))

    async def read(self, first, count=1, row=None):
        found = []

        async def use(blocks):
            found.extend(map(bytes, blocks))

        await self.neighbours.blocks(Run(row or self.row, Kind.DATA, first, count), use)
        return found

    def spoil_block(self, index, block):
        """One cell of a fragment is wrong from now on."""
        name, objects = self.ground.name(self.row, index), self.ground.objects[index]
        start, length = codec.cell_range(self.row.sealed_bytes, self.row.k, block)
        data = bytearray(objects.read(name))
        data[start : start + length] = bytes(length)
        objects.write(name, bytes(data))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    database = Database.open(str(tmp_path / "database"), tables=account_tables.TABLES)
    yield Scene(Ground(tmp_path, Ledger(database)))
    database.abandon()


async def test_the_second_of_a_stripe_brings_all_the_others(scene):
    costs = []
    for number in range(COUNT):
        assert await scene.read(number) == [PIECES[number]]
        costs.append(scene.ground.requests)
    assert costs == [scene.ground.k, *[2 * scene.ground.k] * (COUNT - 1)]
    assert await scene.read(3, 5) == PIECES[3:8]


async def test_it_comes_once_however_many_want_it(scene):
    found = {}

    async def read(number):
        found[number] = await scene.read(number)

    await scene.read(0)
    async with trio.open_nursery() as nursery:
        for number in range(COUNT):
            nursery.start_soon(read, number)
    assert found == {number: [piece] for number, piece in enumerate(PIECES)}
    assert scene.ground.requests == 2 * scene.ground.k


async def test_a_stripe_of_a_large_file_never_comes_whole(scene):
    pieces = [content(BLOCK_BYTES, number) for number in range(6)]
    row = scene.ground.store(pieces, b"large".ljust(24))
    assert not are_small(row)
    for turn in range(1, 4):
        assert await scene.read(2, 1, row) == [pieces[2]]
        assert scene.ground.requests == turn * scene.ground.k


async def test_a_file_is_read_though_its_neighbours_are_lost(scene):
    for index in range(scene.ground.n - scene.ground.k + 1):
        scene.spoil_block(index, 7)
    for _ in range(3):
        assert await scene.read(2) == [PIECES[2]]
        with pytest.raises(TooFewFragments):
            await scene.read(7)


async def test_only_so_many_stripes_are_kept_and_none_once_they_are_to_be_forgotten(scene):
    rows = [scene.row]
    rows += [scene.ground.store(PIECES, bytes([n]) * 24) for n in range(1, KEPT_STRIPES + 1)]
    for row in rows:
        await scene.read(0, 1, row)
        await scene.read(1, 1, row)
    before = scene.ground.requests
    await scene.read(2, 1, rows[-1])
    assert scene.ground.requests == before
    await scene.read(2, 1, rows[0])
    assert scene.ground.requests == before + scene.ground.k
    scene.neighbours.forget()
    await scene.read(2, 1, rows[-1])
    assert scene.ground.requests == before + 2 * scene.ground.k


async def test_on_a_slow_line_a_file_comes_alone(scene, autojump_clock):
    await scene.read(0)
    scene.ground.break_all(FaultKind.SLOW, range(scene.ground.n), seconds=1.5)
    for number, seconds in ((1, MOMENT_SECONDS + 1.5), (2, 1.5), (3, 1.5)):
        began = trio.current_time()
        assert await scene.read(number) == [PIECES[number]]
        assert trio.current_time() - began == pytest.approx(seconds)  # of the mock clock
    for store in scene.ground.faulty:
        store.heal()
    await trio.sleep(SLOW_SECONDS)
    await scene.read(4)
    before = scene.ground.requests
    assert await scene.read(5) == [PIECES[5]]
    assert scene.ground.requests == before


async def test_who_waits_for_one_that_gives_up_fetches_himself(scene, autojump_clock):
    await scene.read(0)
    scene.ground.break_all(FaultKind.SLOW, range(scene.ground.n), seconds=2.0)
    found = []

    async def wait():
        found.append(await scene.read(5))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(1.0):
            nursery.start_soon(wait_after, 0.5, wait)
            await scene.read(4)
    assert found == [[PIECES[5]]]


async def wait_after(seconds, job):
    await trio.sleep(seconds)
    await job()
