"""A loss of power: what was committed is there, what was not synced is not.

The files of edits are put back as they were before the edit, beside the database of after it:
the worst that a disk may make of writes that nobody synced.
"""

import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest
import trio
import trio.testing

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.running import Place, flush, make_volume, new_file, read, running, write
from tests.support.stripes import content

BIG = 2 * BLOCK_BYTES + 3


@asynccontextmanager
async def losing_power(place: Place) -> AsyncIterator[Volume]:
    """A volume whose machine loses its power at the end of the block."""
    before, after = place.root / "files before", place.root / "state after"
    async with running(place.config, place.state) as volume:
        shutil.copytree(place.state / "files", before)
        yield volume
        await volume.parts.database.durable()
        shutil.copytree(place.state, after)
    shutil.rmtree(after / "files")
    before.rename(after / "files")
    shutil.rmtree(place.state)
    after.rename(place.state)


async def settled(volume: Volume) -> None:
    """Everything in the accounts, nothing of it here."""
    await flush(volume)
    await volume.control("evict", {})


@pytest.mark.parametrize("size", [5, 1000])
async def test_a_lost_edit_of_an_inline_file_leaves_the_old_bytes(
    tmp_path: Path, size: int
) -> None:
    place = await make_volume(tmp_path)
    old = content(size, 1)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", old)
        await settled(volume)
    async with losing_power(place) as volume:
        await write(volume, volume.namespace.lookup(1, b"file"), 0, content(size, 2))
    async with running(place.config, place.state) as volume:
        await settled(volume)
        assert await read(volume, b"file") == old
        row = volume.namespace.lookup(1, b"file")
        assert volume.namespace.content_of(row.inode).inline == old


async def test_a_lost_edit_of_an_inline_file_that_grew_leaves_the_old_bytes(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    old = content(700, 1)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", old)
        await settled(volume)
    async with losing_power(place) as volume:
        row = volume.namespace.lookup(1, b"file")
        await volume.files.truncate(row.number, BIG)
    async with running(place.config, place.state) as volume:
        await settled(volume)
        row = volume.namespace.lookup(1, b"file")
        assert volume.parts.blocks.extents(row.inode, 0, 1)
        assert await read(volume, b"file") == old.ljust(BIG, b"\0")


@pytest.mark.parametrize("size", [1, 500, 70_000, BLOCK_BYTES + 1])
async def test_what_a_cut_removed_does_not_come_back(tmp_path: Path, size: int) -> None:
    place = await make_volume(tmp_path)
    old = content(BIG, 1)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", old)
        await settled(volume)
    async with losing_power(place) as volume:
        await volume.files.truncate(volume.namespace.lookup(1, b"file").number, size)
    async with running(place.config, place.state) as volume:
        await settled(volume)
        assert await read(volume, b"file") == old[:size]
        await volume.files.truncate(volume.namespace.lookup(1, b"file").number, BIG)
        await settled(volume)
        assert await read(volume, b"file") == old[:size].ljust(BIG, b"\0")


async def test_an_edit_whose_marks_came_back_without_its_bytes_is_what_was_captured(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    marks, data = place.state / "files" / "marks", place.state / "files" / "data"
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"old")
        await settled(volume)
        await write(volume, row, 0, b"new")
        marked = marks.read_bytes()
        await volume.parts.flusher.flush([row.number], volume._uploads)
        await volume.parts.database.durable()
        shutil.copytree(place.state, place.root / "state after")
    shutil.rmtree(place.state)
    (place.root / "state after").rename(place.state)
    marks.write_bytes(marked)
    for path in data.iterdir():
        path.write_bytes(bytes(path.stat().st_size))
    async with running(place.config, place.state) as volume:
        await settled(volume)
        assert await read(volume, b"file") == b"new"


async def test_marks_that_went_take_nothing_back_that_was_flushed(tmp_path: Path) -> None:
    """The disk has the marks of an edit, and not its bytes: nothing synced either of them."""
    place = await make_volume(tmp_path)
    marks, data = place.state / "files" / "marks", place.state / "files" / "data"
    left: dict[Path, bytes] = {}

    def syncing(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        left[path] = path.read_bytes()

    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"old" * 1000)
        await flush(volume)
        await volume.files.fsync(row.number)
        left = {path: path.read_bytes() for path in data.iterdir()}
        await write(volume, row, 0, b"new" * 1000)
        left[marks] = marks.read_bytes()
        with mock.patch.object(os, "fdatasync", syncing):
            await flush(volume)
            await volume.parts.database.durable()
        shutil.copytree(place.state, place.root / "state after")
    shutil.rmtree(place.state)
    (place.root / "state after").rename(place.state)
    for path in (marks, *data.iterdir()):
        path.write_bytes(left[path])
    async with running(place.config, place.state) as volume:
        assert await read(volume, b"file") == b"new" * 1000


async def test_a_file_that_was_emptied_and_written_anew_is_on_the_disk_when_it_is_closed(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"old" * 1000)
        await flush(volume)
        await volume.files.opened(row.number, truncate=True)
        await volume.files.write(row.number, 0, b"new" * 2000)
        syncing = volume.parts.open_files.use(row.number).sparse.syncing
        assert syncing.needed
        await volume.files.released(row.number)
        assert not syncing.needed
        await write(volume, row, 0, b"more")
        assert syncing.needed


async def test_an_edit_over_bytes_that_only_the_accounts_have_for_certain_waits_for_the_disk(
    tmp_path: Path,
) -> None:
    """Were the edit lost but for its mark, bytes of before the last version would stand there."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"old" * 1000)
        await volume.files.fsync(row.number)
        await write(volume, row, 0, b"new" * 1000)
        await flush(volume)
        sparse = volume.parts.open_files.use(row.number).sparse
        before = sparse._raw.raw(0, 3000).tobytes()
        async with trio.open_nursery() as nursery:
            with sparse.syncing._running:  # the disk takes its time
                nursery.start_soon(volume.files.write, row.number, 0, b"more")
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert sparse._raw.raw(0, 3000) == before
        assert sparse._raw.raw(0, 3000) != before


async def test_what_an_earlier_run_wrote_is_on_the_disk_before_an_edit_over_it(
    tmp_path: Path,
) -> None:
    """Nobody remembers that its bytes may be in the kernel's pages only."""
    place = await make_volume(tmp_path)
    synced: list[str] = []
    fdatasync = os.fdatasync

    def syncing(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fdatasync(descriptor)

    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", content(3 * BLOCK_BYTES, 1))
        await flush(volume)
    async with running(place.config, place.state) as volume:
        row = volume.namespace.lookup(1, b"file")
        name = f"{row.number:016x}.{row.generation:x}"
        with mock.patch.object(os, "fdatasync", syncing):
            await write(volume, row, 100, b"new")
    assert name in synced


async def test_an_edit_after_a_cut_waits_until_the_cut_is_on_the_disk(tmp_path: Path) -> None:
    """Were it lost but for its mark, what was cut off would stand there again."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(BLOCK_BYTES, 1))
        await volume.files.fsync(row.number)
        await volume.files.truncate(row.number, 100)
        sparse = volume.parts.open_files.use(row.number).sparse
        before = sparse._raw.raw(0, 6000).tobytes()
        async with trio.open_nursery() as nursery:
            with sparse.syncing._running:  # the disk takes its time, for another's sake
                nursery.start_soon(volume.files.write, row.number, 5000, b"more")
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert sparse._raw.raw(0, 6000) == before
        assert not sparse.syncing.cut
        assert sparse._raw.raw(0, 6000) != before


async def test_an_edit_waits_for_the_sync_of_a_cut_that_another_has_begun(tmp_path: Path) -> None:
    place, answered = await make_volume(tmp_path), threading.Event()

    def take_its_time(_: int) -> None:
        assert answered.wait(60)

    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(BLOCK_BYTES, 1))
        await volume.files.fsync(row.number)
        await volume.files.truncate(row.number, 100)
        sparse = volume.parts.open_files.use(row.number).sparse
        before = sparse._raw.raw(0, 6000).tobytes()
        with mock.patch.object(os, "fdatasync", take_its_time):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.fsync, row.number)
                while sparse.syncing.needed:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(volume.files.write, row.number, 5000, b"more")
                await trio.testing.wait_all_tasks_blocked(0.1)
                unchanged = sparse._raw.raw(0, 6000) == before
                answered.set()
        assert unchanged


async def test_what_is_gone_is_not_evicted(tmp_path: Path) -> None:
    """It goes as a whole, once that is committed: a machine that dies before has it still."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(BIG, 1))
        await flush(volume)
        path = place.state / "files" / "data" / f"{row.number:016x}.{row.generation:x}"
        volume.namespace.unlink(1, b"file")
        volume.namespace.drop_unlinked(row.number)
        assert row.number not in volume.parts.local.cached()
        await volume.parts.local.evict([row.number])
        assert volume.parts.open_files.known(row.number) is None
        assert path.exists()


async def test_an_edit_waits_for_a_sync_that_another_has_begun(tmp_path: Path) -> None:
    """What the sync is about is not on the disk before it has ended."""
    place, answered = await make_volume(tmp_path), threading.Event()

    def take_its_time(_: int) -> None:
        assert answered.wait(60)

    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"new" * 1000)
        await flush(volume)
        sparse = volume.parts.open_files.use(row.number).sparse
        before = sparse._raw.raw(0, 3000).tobytes()
        with mock.patch.object(os, "fdatasync", take_its_time):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.fsync, row.number)
                while sparse.syncing.needed:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(volume.files.write, row.number, 0, b"more")
                await trio.testing.wait_all_tasks_blocked(0.1)
                unchanged = sparse._raw.raw(0, 3000) == before
                answered.set()
        assert unchanged
        assert sparse._raw.raw(0, 3000) != before
