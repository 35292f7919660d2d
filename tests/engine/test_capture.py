"""Files that change while their content is on its way into stripes."""

import time
from functools import partial
from pathlib import Path

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.threads import without_threads
from tests.support.running import flush, make_volume, new_file, read, recover, running, write
from tests.support.stripes import content

BIG = 2 * BLOCK_BYTES + 3


def slow(volume: Volume, seconds: float) -> None:
    """Every read of an account takes so long from now on."""
    for account in volume.parts.accounts:
        store = FaultyStore(account.store, seed=1)
        store.inject(Fault(FaultKind.SLOW, frozenset({"get_range"}), seconds=seconds))
        account.store = store


async def frozen(volume: Volume, number: int) -> None:
    file = volume.parts.open_files.edited_file(number)
    assert file is not None
    with trio.fail_after(10):
        while not file.frozen:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.001)


async def test_a_file_that_is_emptied_while_it_is_completed_is_sent_as_it_is_then(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(BIG))
        await flush(volume)
        await volume.control("evict", {})
        slow(volume, 0.3)
        await write(volume, row, 10, b"edit")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, volume)
            await frozen(volume, row.number)
            await volume.files.truncate(row.number, 0)
            await write(volume, row, 3, b"new")
            with trio.fail_after(10):
                await flush(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == b"\0\0\0new"


async def test_a_file_that_is_cut_while_it_is_completed_is_never_sent_with_invented_zeros(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    old = content(BIG)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", old)
        await flush(volume)
        await volume.control("evict", {})
        await volume.files.read(row.number, 20, 1)  # the block of the cut is here, the rest not
        slow(volume, 0.3)
        await write(volume, row, BLOCK_BYTES + 10, b"edit")
        first = volume.namespace.content_of(row.inode)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, volume)
            await frozen(volume, row.number)
            await volume.files.truncate(row.number, 21)
        await flush(volume)
        known = volume.namespace.content_of(row.inode)
        while known.version != first.version:
            assert known.size == 21
            known = volume.parts.tree.version(row.inode, known.bases[0]).content
        await volume.control("evict", {})
        assert await read(volume, b"file") == old[:21]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_file_that_is_emptied_or_removed_while_its_gaps_are_filled_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, removed: bool
) -> None:
    """The next close would tell its program of an error that there was not."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"")
        await write(volume, row, BIG, b"beyond a gap")
        file = volume.parts.open_files.edited_file(row.number)
        assert file is not None
        without_threads()  # what a worker would do comes after a checkpoint
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, volume)
            while not file.frozen:
                await trio.lowlevel.checkpoint()
            if removed:
                volume.namespace.drop_unlinked(volume.namespace.unlink(1, b"file").number)
            else:
                volume.parts.open_files.start_anew(file)
        assert file.error is None
        assert not file.failures
        assert not caplog.messages
        if not removed:
            assert await read(volume, b"file") == b""


async def test_an_inline_content_stays_when_the_file_grew_while_it_was_captured(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    old = content(500)
    async with running(place.config, place.state) as volume:
        capture = volume.parts.flusher._capture
        row = await new_file(volume, 1, b"file", old)
        taken = await capture.freeze(row.number)
        data = await capture.read_frozen(taken)
        await volume.files.truncate(row.number, BIG)
        capture.capture(taken, (), inline=data)
        assert volume.files.is_dirty(row.number)
        await flush(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == old.ljust(BIG, b"\0")
    async with running(place.config, place.state) as volume:
        assert volume.parts.blocks.extents(row.inode, 0, 1)


async def test_a_file_that_is_being_cut_is_not_sent_with_invented_zeros(tmp_path: Path) -> None:
    """It has its new size before its edge is a local edit: frozen then, it would have no bytes."""
    place = await make_volume(tmp_path)
    data = content(2000)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", data)
        await flush(volume)
        disk_is_slow = partial(time.sleep, 0.3)
        volume.parts.database.before_commit("a slow disk", disk_is_slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.truncate, row.number, 900)
            while volume.namespace.by_number(row.number).size != 900:
                await trio.lowlevel.checkpoint()
            await flush(volume)
            stored = volume.namespace.content_of(row.inode)
            assert stored is not None
            assert stored.inline == data[:900]
        await flush(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == data[:900]


async def test_a_cut_whose_edge_the_disk_refused_is_made_whole_though_another_was_at_that_time(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    old, first, second = content(BIG), BIG - 1, 2 * BLOCK_BYTES - 5
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", old)
        await flush(volume)
        await volume.control("evict", {})
        await write(volume, row, 10, b"edit")
        file = volume.parts.open_files.edited_file(row.number)
        assert file is not None

        def cut_without_an_edge(size: int) -> None:
            """What a truncation leaves whose write was refused."""
            volume.namespace.touch_local(row.number, size=size)
            volume.parts.open_files.cut_map(file, size)
            file.sparse.cut(size)
            file.unsure = True

        cut_without_an_edge(first)
        slow(volume, 0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, volume)
            while not file.target.under_way:
                await trio.lowlevel.checkpoint()
            cut_without_an_edge(second)
        await volume.files.truncate(row.number, BIG)
        await flush(volume)
        await volume.control("evict", {})
        expected = old[:10] + b"edit" + old[14:second]
        assert await read(volume, b"file") == expected.ljust(BIG, b"\0")


async def test_times_that_were_set_while_a_file_was_staged_stay_set(tmp_path: Path) -> None:
    """As `cp -p` and `touch` do it: the version tells no older times than the file had then."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        capture = volume.parts.flusher._capture
        row = await new_file(volume, 1, b"file", content(500))
        taken = await capture.freeze(row.number)
        data = await capture.read_frozen(taken)
        set_row = volume.namespace.set_attributes(row.number, mtime_ns=-7)
        capture.capture(taken, (), inline=data)
        found = volume.namespace.by_number(row.number)
        assert (found.mtime_ns, found.ctime_ns) == (-7, set_row.ctime_ns)
        await flush(volume)
    state, config = await recover(place, tmp_path / "second")
    async with running(config, state) as volume:
        assert volume.namespace.lookup(1, b"file").mtime_ns == -7
