"""Long runs from the accounts: written past the page cache, and read from memory for a while."""

import random
from collections.abc import Iterator

import pytest

from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.landing import Landing, LandingMemory
from aggfs.cache.sparse import SparseFile
from aggfs.cache.sums import TABLE
from aggfs.coding.cipher import XtsUnit
from aggfs.errors import Busy
from aggfs.model import BLOCK_BYTES
from aggfs.sync.holes import Ranges

RUN_BYTES = 5 * BLOCK_BYTES
SIZE = RUN_BYTES - 1000


@pytest.fixture(params=[XtsUnit(bytes(range(64))), None], ids=["encrypted", "plain"])
def files(request, tmp_path) -> Iterator[tuple[SparseFile, SparseFile]]:
    database = Database.open(str(tmp_path / "db"), tables=(TABLE,))
    known = SparseFiles(str(tmp_path / "files"), database, Ranges)
    yield tuple(known.open(number, 1, size=SIZE, cipher=request.param) for number in (1, 2))
    database.abandon()


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


def prepared(file: SparseFile, room: memoryview, data: bytes) -> Landing:
    landing = file.landings.prepare(0, room)
    for at in range(0, len(data), BLOCK_BYTES):
        landing.add(data[at : at + BLOCK_BYTES])
    return landing


def land(file: SparseFile, memory: LandingMemory, data: bytes) -> None:
    room = memory.take()
    landing = prepared(file, room, data)
    assert file.landings.begin(landing, file.removals)
    landing.write()
    landed = file.landings.end(landing, file.removals, written=True)
    memory.settle(landed, room)


def test_what_landed_is_on_the_disk_and_in_memory(files):
    file, data = files[0], noise(1)
    land(file, LandingMemory(RUN_BYTES, count=1), data)
    assert file.read_cached(0, SIZE) == data
    assert file.read_cached(70_001, 5) == data[70_001:70_006]
    assert file.read(0, SIZE) == (data, [])


def test_memory_that_serves_another_landing_is_read_no_more(files):
    first, second = files
    memory = LandingMemory(RUN_BYTES, count=1)
    land(first, memory, noise(1))
    land(second, memory, noise(2))
    assert first.read_cached(0, SIZE) in (None, noise(1))
    assert first.read(0, SIZE) == (noise(1), [])
    assert second.read_cached(0, SIZE) == noise(2)


def test_an_edit_shows_at_once(files):
    file = files[0]
    land(file, LandingMemory(RUN_BYTES, count=1), noise(1))
    file.write(50_000, b"edit")
    expected = noise(1)[:50_000] + b"edit" + noise(1)[50_004:]
    assert file.read_cached(0, SIZE) in (None, expected)
    assert file.read(0, SIZE) == (expected, [])


@pytest.mark.parametrize("size", [SIZE, BLOCK_BYTES])
def test_a_second_landing_replaces_the_first(files, size):
    """The short one is not kept in memory, and goes through the page cache."""
    file, memory = files[0], LandingMemory(RUN_BYTES, count=2)
    land(file, memory, noise(1))
    file.evict(0, SIZE)
    land(file, memory, noise(2)[:size])
    assert file.read_cached(0, size) in (None, noise(2)[:size])
    assert file.read(0, size) == (noise(2)[:size], [])


def test_what_was_evicted_is_not_there(files):
    file = files[0]
    land(file, LandingMemory(RUN_BYTES, count=1), noise(1))
    file.punch(file.evict(0, SIZE))
    assert file.read_cached(0, SIZE) is None
    assert file.missing(0, SIZE) == [(0, SIZE)]


def test_where_something_lands_is_a_hole_that_nobody_else_may_fill_or_edit(files):
    file, removals = files[0], files[0].removals
    memory = LandingMemory(RUN_BYTES, count=2)
    landing, other = (prepared(file, memory.take(), noise(seed)) for seed in (1, 2))
    assert file.landings.begin(landing, removals)
    assert not file.landings.begin(other, removals)
    landing.write()
    assert file.read_cached(0, SIZE) is None
    assert file.read(0, SIZE) == (bytes(SIZE), [(0, SIZE)])
    with pytest.raises(Busy):
        file.write(SIZE - 1, b"x")
    file.fill(0, noise(2))
    assert file.missing(0, SIZE) == [(0, SIZE)]
    file.landings.end(landing, removals, written=True)
    assert file.read(0, SIZE) == (noise(1), [])


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda file: file.evict(0, 1),
        lambda file: file.cut(SIZE - 1),
        lambda file: file.freeze(SIZE),
        lambda file: file.retire(),
    ],
    ids=["evicted", "cut", "frozen", "given up"],
)
def test_what_came_for_a_file_that_is_another_by_now_is_not_there(files, meanwhile):
    file, removals = files[0], files[0].removals
    landing = prepared(file, LandingMemory(RUN_BYTES, count=1).take(), noise(1))
    assert file.landings.begin(landing, removals)
    landing.write()
    meanwhile(file)
    assert file.landings.end(landing, removals, written=True) is None
    assert file.missing(0, SIZE) == [(0, SIZE)]
    assert not file.landings.begin(landing, removals)


def test_what_the_disk_refused_is_a_hole_and_can_land_again(files):
    file, memory = files[0], LandingMemory(RUN_BYTES, count=1)
    room = memory.take()
    landing = prepared(file, room, noise(1))
    assert file.landings.begin(landing, file.removals)
    memory.settle(file.landings.end(landing, file.removals, written=False), room)
    assert file.read_cached(0, SIZE) is None
    assert file.missing(0, SIZE) == [(0, SIZE)]
    land(file, memory, noise(2))
    assert file.read(0, SIZE) == (noise(2), [])
