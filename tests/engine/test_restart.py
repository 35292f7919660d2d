"""What a death of the daemon leaves behind, and the next start makes of it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from tests.support.running import Place, flush, make_volume, new_file, read, running, write


@asynccontextmanager
async def dying(place: Place) -> AsyncIterator[Volume]:
    """A volume whose daemon is killed at the end of the block, before anything that was done in
    it was committed: the files have it, the database has not."""
    before, after = place.root / "database before", place.root / "state after"
    async with running(place.config, place.state) as volume:
        await volume.parts.database.durable()
        shutil.copytree(place.state / "database", before)
        yield volume
        shutil.copytree(place.state, after)
    shutil.rmtree(after / "database")
    before.rename(after / "database")
    shutil.rmtree(place.state)
    after.rename(place.state)


async def test_a_generation_that_a_death_left_behind_takes_nothing_of_its_successor_away(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"old" * 1000)
        await flush(volume)
    async with dying(place) as volume:
        await volume.files.truncate(row.number, 0)
        await write(volume, row, 0, b"lost" * 2000)
    async with running(place.config, place.state) as volume:
        assert await read(volume, b"file") == b"old" * 1000
        await volume.files.truncate(row.number, 0)
        await write(volume, row, 0, b"new" * 1000)
        await volume.files.fsync(row.number)
        await trio.to_thread.run_sync(volume.parts.sparse_files.purge)
    async with running(place.config, place.state) as volume:
        assert await read(volume, b"file") == b"new" * 1000


async def test_a_start_removes_the_files_that_nobody_knows(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    data = place.state / "files" / "data"
    async with running(place.config, place.state) as volume:
        kept = await new_file(volume, 1, b"kept", b"x" * 5000)
        gone = await new_file(volume, 1, b"gone", b"y" * 5000)
        await flush(volume)
        await volume.files.truncate(kept.number, 0)
        await write(volume, kept, 0, b"z" * 5000)
        volume.namespace.unlink(1, b"gone")
        volume.namespace.drop_unlinked(gone.number)
    (data / "0000000000000fff.0").write_bytes(b"stray")
    async with running(place.config, place.state) as volume:
        with trio.fail_after(10):
            while len(list(data.iterdir())) > 1:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        assert await read(volume, b"kept") == b"z" * 5000


async def test_edits_of_a_file_that_is_gone_are_not_taken_up_again(tmp_path: Path) -> None:
    """Its name was published, so its row stays; its marks go a little later than its row."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        gone = await new_file(volume, 1, b"gone", b"y" * 5000)
        await flush(volume)
        await write(volume, gone, 0, b"z" * 5000)
        volume.namespace.unlink(1, b"gone")
        volume.namespace.drop_unlinked(gone.number)
    async with running(place.config, place.state) as volume:
        assert volume.parts.open_files.edited_count == 0
        assert volume.parts.open_files.dirty_bytes == 0
