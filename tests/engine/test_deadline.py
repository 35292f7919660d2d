"""One deadline for a read, however often it has to ask: what was fetched may be of no use."""

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from aggfs.cache import blocks as block_tables
from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.engine import accounts as account_tables
from aggfs.engine.accounts import Ledger
from aggfs.engine.reading.oldbytes import OldBytes, OldContent
from aggfs.engine.volume import Volume
from aggfs.engine.works import Works
from aggfs.errors import TooFewFragments
from aggfs.model import BLOCK_BYTES, Content, Extent, InodeRow
from aggfs.stores.faulty import Fault, FaultKind
from tests.support import faults, fetching
from tests.support.faults import READ_SECONDS, flushed, new_ground, until_full
from tests.support.stripes import content

LATE = Fault(FaultKind.SLOW, seconds=20.0)
STRIPES = 3


async def cold_file(ground: faults.Ground, volume: Volume) -> InodeRow:
    """A file of which nothing is here."""
    row = await ground.write_file(volume, b"file")
    await flushed(volume)
    await until_full(volume)
    await volume.control("evict", {})
    return volume.namespace.by_number(row.number)


async def fails_in_time(read: Callable[[], Awaitable[object]]) -> None:
    began = trio.current_time()
    with trio.fail_after(10 * READ_SECONDS), pytest.raises(TooFewFragments):
        await read()
    assert trio.current_time() - began <= READ_SECONDS


async def test_a_read_of_what_is_evicted_meanwhile_ends_at_its_deadline(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        row = await cold_file(ground, volume)
        with ground.clouds.failing(ground.names, LATE):
            async with trio.open_nursery() as nursery:
                read = partial(volume.files.read, row.number, 0, BLOCK_BYTES)
                nursery.start_soon(fails_in_time, read)
                await trio.sleep(LATE.seconds / 2)
                await volume.control("evict", {})


async def test_who_waits_for_what_another_fetches_waits_until_his_own_deadline(
    tmp_path: Path, autojump_clock: object
) -> None:
    """He began before the other did: what he fetched himself was evicted."""
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        row = await cold_file(ground, volume)
        file = volume.parts.open_files.use(row.number)
        filler, start = volume.parts.filler, trio.current_time()
        with ground.clouds.failing(ground.names, LATE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(filler.bring, file.target, [(0, BLOCK_BYTES)])
                await trio.sleep(1)
                sources = filler.sources(file.target, [(0, BLOCK_BYTES)])
                with pytest.raises(TooFewFragments):
                    await filler.fill(file.target, sources, start + 5)
                assert trio.current_time() == start + 5
        volume.parts.open_files.rest(file)


@pytest.fixture
def stripes(tmp_path: Path) -> Iterator[tuple[fetching.Ground, Blocks]]:
    """Accounts with three stripes of one block."""
    tables = (*account_tables.TABLES, *block_tables.TABLES)
    database = Database.open(str(tmp_path / "database"), tables=tables)
    ground, blocks = fetching.Ground(tmp_path, Ledger(database)), Blocks(database)
    for number in range(STRIPES):
        row = ground.store([content(BLOCK_BYTES, number)], bytes([number]) * 24)
        blocks.put_stripe(StripeState(row, (1 << ground.n) - 1, announced=True))
    yield ground, blocks
    database.abandon()


async def test_a_read_of_several_old_stripes_has_one_deadline(
    stripes: tuple[fetching.Ground, Blocks], autojump_clock: object
) -> None:
    ground, blocks = stripes
    extents = tuple(Extent(number, bytes([number]) * 24, 0, 1) for number in range(STRIPES))
    size = STRIPES * BLOCK_BYTES
    former = Content(bytes(16), bytes(16), (), size, size, extents, b"", 0, 0)
    old_bytes = OldBytes(ground.fetcher, blocks, Works())
    ground.break_all(FaultKind.SLOW, range(ground.n), seconds=LATE.seconds)
    await fails_in_time(partial(old_bytes.read, OldContent(former, extents), 0, size))
