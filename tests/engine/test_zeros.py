"""Zeros that are written: where there was nothing they stay nothing; where there was something they
replace it, in the accounts as well."""

from pathlib import Path

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.engine.writing.flush import Work
from aggfs.model import BLOCK_BYTES, InodeRow
from tests.support.running import flush, make_volume, new_file, read, recover, running, write
from tests.support.stripes import content

ZEROS = bytes(BLOCK_BYTES)
NOISE = content(BLOCK_BYTES, 1)


def mapped(volume: Volume, row: InodeRow) -> list[int]:
    """The blocks of a file that lie in stripes, by the content map."""
    found = volume.parts.blocks.extents(row.inode, 0, 1000)
    return [block for one in found for block in range(one.block, one.block + one.count)]


async def test_blocks_of_zeros_in_a_gap_stay_one(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    data = NOISE + 2 * ZEROS + NOISE + bytes(BLOCK_BYTES // 2)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", data)
        await flush(volume)
        row = volume.namespace.by_number(row.number)
        assert mapped(volume, row) == [0, 3]
        assert volume.files.allocated_bytes(row) == 2 * BLOCK_BYTES
        holes, gaps = volume.parts.local.holes(row.number)
        assert holes == []
        assert gaps == [(BLOCK_BYTES, 3 * BLOCK_BYTES), (4 * BLOCK_BYTES, len(data))]
        assert await read(volume, b"file") == data
        evicted, kept, _ = await volume.parts.local.evict([row.number])
        assert (evicted, kept) == (len(data), 0)
        assert await read(volume, b"file") == data
    state, config = await recover(place, tmp_path / "second")
    async with running(config, state) as volume:
        assert await read(volume, b"file") == data


async def test_a_file_of_zeros_needs_no_stripe(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", 40 * ZEROS + b"\0")
        await flush(volume)
        assert volume.parts.blocks.stripe_count == 0
        assert volume.files.allocated_bytes(volume.namespace.by_number(row.number)) == 0
        await volume.control("evict", {})
        assert await read(volume, b"file") == 40 * ZEROS + b"\0"


@pytest.mark.parametrize("size", [500, 2 * BLOCK_BYTES])
async def test_zeros_replace_what_was_there(tmp_path: Path, size: int) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(size, 1))
        await flush(volume)
        await volume.control("evict", {})
        await write(volume, row, 0, 3 * ZEROS)
        await flush(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == 3 * ZEROS
        assert mapped(volume, row) == list(range(-(-size // BLOCK_BYTES)))
    state, config = await recover(place, tmp_path / "second")
    async with running(config, state) as volume:
        assert await read(volume, b"file") == 3 * ZEROS


async def test_zeros_behind_a_cut_stay_a_gap(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(3 * BLOCK_BYTES, 1))
        await flush(volume)
        await volume.files.truncate(row.number, BLOCK_BYTES + 7)
        await write(volume, row, BLOCK_BYTES, 2 * ZEROS)
        await flush(volume)
        assert mapped(volume, row) == [0, 1]  # the cut goes through the second block
        data = content(3 * BLOCK_BYTES, 1)[:BLOCK_BYTES] + 2 * ZEROS
        await volume.control("evict", {})
        assert await read(volume, b"file") == data
    state, config = await recover(place, tmp_path / "second")
    async with running(config, state) as volume:
        assert await read(volume, b"file") == data


async def test_a_version_has_its_zeros_though_the_file_is_cut_while_it_is_sent(
    tmp_path: Path,
) -> None:
    """What they replace is gone from the content map by the time they are sealed."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", 3 * NOISE)
        await flush(volume)
        await write(volume, row, BLOCK_BYTES, ZEROS)
        frozen = await volume.parts.flusher._capture.freeze(row.number)
        assert frozen is not None
        await volume.files.truncate(row.number, 1)
        async with trio.open_nursery() as nursery:
            await volume.parts.flusher._seal_all([Work(frozen)], nursery)
        assert frozen.captured
        version = volume.namespace.content_of(row.inode)
        assert version is not None
        assert [(one.block, one.count) for one in version.extents] == [(1, 1)]
        assert version.kept_bytes == 3 * BLOCK_BYTES
        await flush(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == NOISE[:1]
