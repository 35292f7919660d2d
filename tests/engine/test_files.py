"""Writes and truncations of one file at the same time: one after the other, in some order."""

from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from aggfs.cache.landing import memory_bytes
from aggfs.engine.reading.openfiles import OpenFile
from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, InodeRow
from tests.support.running import flush, make_volume, new_file, running, write
from tests.support.stripes import content

BIG = 2 * BLOCK_BYTES + 3
MANY = 40


def opened(volume: Volume, row: InodeRow) -> OpenFile:
    file = volume.parts.open_files.edited_file(row.number)
    assert file is not None
    return file


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.lowlevel.checkpoint()


async def whole(volume: Volume, row: InodeRow) -> bytes:
    return bytes(await volume.files.read(row.number, 0, 4 * BIG))


async def test_a_file_that_is_emptied_while_it_is_written_has_all_or_nothing(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    new = content(BIG, 2)
    async with running(place.config, place.state) as volume:
        for number in range(MANY):
            row = await new_file(volume, 1, b"file%d" % number, b"old" * 1000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.write, row.number, 0, new)
                await until(lambda row=row: opened(volume, row).writers > 0)
                await volume.files.truncate(row.number, 0)
            assert await whole(volume, row) in (b"", new)


async def test_a_file_that_is_cut_while_it_is_written_has_all_of_the_write_or_what_was_cut(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    old, new = content(BIG, 1), content(BIG, 2)
    async with running(place.config, place.state) as volume:
        for number in range(MANY):
            row = await new_file(volume, 1, b"file%d" % number, old)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.write, row.number, BIG, new)
                await until(lambda row=row: opened(volume, row).writers > 0)
                await volume.files.truncate(row.number, 1000)
            assert await whole(volume, row) in (old[:1000], old[:1000].ljust(BIG, b"\0") + new)


async def test_a_write_beyond_a_cut_that_is_under_way_is_there(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    old, new = content(BIG, 1), content(5000, 2)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", old)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.truncate, row.number, 1000)
            await until(lambda: volume.namespace.by_number(row.number).size < BIG)
            await volume.files.write(row.number, BLOCK_BYTES, new)
        assert await whole(volume, row) == old[:1000].ljust(BLOCK_BYTES, b"\0") + new


async def test_many_writers_go_on_after_a_truncation_that_they_waited_for(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"f", content(300_000, 1))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for size in (200_000, 100_000, 250_000):
                    nursery.start_soon(volume.files.truncate, row.number, size)
                for at in range(20):
                    nursery.start_soon(write, volume, row, 300_000 + at, b"x")
        assert volume.namespace.by_number(row.number).size >= 100_000


async def test_a_truncation_waits_for_what_is_landing_and_not_for_what_comes_after(tmp_path):
    """Somebody reads on and on: there is always something that lands."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(3 * BLOCK_BYTES, 1))
        await flush(volume)
        await volume.control("evict", {})
        file = volume.parts.open_files.use(row.number)
        landings, removals = file.sparse.landings, file.sparse.removals
        first, second = (
            landings.prepare(at * BLOCK_BYTES, memoryview(bytearray(memory_bytes(BLOCK_BYTES))))
            for at in range(2)
        )
        first.add(content(BLOCK_BYTES, 1))
        second.add(content(BLOCK_BYTES, 1))
        assert landings.begin(first, removals)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.truncate, row.number, 2 * BLOCK_BYTES + 1)
                await until(lambda: file.unsure)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert not landings.begin(second, removals)
                landings.end(first, removals, written=False)
        assert volume.namespace.by_number(row.number).size == 2 * BLOCK_BYTES + 1
        assert landings.begin(second, file.sparse.removals)
        landings.end(second, file.sparse.removals, written=False)
