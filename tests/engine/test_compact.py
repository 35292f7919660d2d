"""Compaction: what is left of mostly dead stripes moves together; readers see nothing of it."""

from dataclasses import replace
from pathlib import Path

from aggfs.config import Config, MountConfig
from aggfs.model import BLOCK_BYTES
from tests.support.movements import (
    forget_the_past,
    nothing_is_lost_or_left_over,
    read_all,
    sparse_files,
)
from tests.support.running import dump, flush, make_volume, recovered_dump, running, write


def collecting_at_once(config: Config) -> Config:
    return replace(config, mount=MountConfig(collect_after_seconds=0))


async def test_what_is_left_of_sparse_stripes_is_packed_together(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await sparse_files(volume)
        assert volume.parts.blocks.stripe_count == 8
        await forget_the_past(volume)
        done = await volume.control("compact", {})
        assert done["stripes"] == 4
        assert volume.parts.blocks.stripe_count == 9  # 16 blocks of four stripes, in one
        assert await read_all(volume, made) == made
        await flush(volume)
        for _ in range(2):
            await volume.control("gc", {})
        assert volume.parts.blocks.stripe_count == 5
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)
        assert (await volume.control("compact", {}))["stripes"] == 0


async def test_what_older_versions_hold_is_live(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(collecting_at_once(place.config), place.state) as volume:
        await sparse_files(volume, 1)
        assert (await volume.control("compact", {}))["stripes"] == 0


async def test_a_recovered_device_finds_what_was_compacted(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(collecting_at_once(place.config), place.state) as volume:
        await sparse_files(volume)
        before = await dump(volume)
        await forget_the_past(volume)
        await volume.control("compact", {})
        await flush(volume)
        for _ in range(2):
            await volume.control("gc", {})
        assert await dump(volume) == before
        await flush(volume)
    assert await recovered_dump(place, tmp_path / "other") == before


async def test_a_file_that_is_edited_meanwhile_keeps_its_edits(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await sparse_files(volume, 2)
        await forget_the_past(volume)
        row = volume.namespace.lookup(1, b"file0")
        await write(volume, row, 5 * BLOCK_BYTES + 7, b"an edit")  # in a block that is moved
        await volume.control("compact", {})
        data = bytearray(made[b"file0"])
        data[5 * BLOCK_BYTES + 7 : 5 * BLOCK_BYTES + 14] = b"an edit"
        made[b"file0"] = bytes(data)
        await flush(volume)
        assert await read_all(volume, made) == made
        for _ in range(2):
            await volume.control("gc", {})
        assert await read_all(volume, made) == made
