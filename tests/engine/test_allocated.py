"""How much of a file is no gap: counted by hand, through edits, versions, cuts and growth."""

from pathlib import Path

import pytest

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, InodeRow
from tests.support.running import flush, make_volume, new_file, running, write
from tests.support.stripes import content

RUNS = 40  # so many that they are not looked up anew for each stat


def blocks_of(volume: Volume, row: InodeRow) -> float:
    """The room that the file takes, in blocks."""
    return volume.files.allocated_bytes(volume.namespace.by_number(row.number)) / BLOCK_BYTES


@pytest.mark.parametrize("runs", [3, RUNS])
async def test_a_file_takes_what_was_written_and_is_not_cut_off(tmp_path: Path, runs: int) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"every other block")
        for number in range(runs):
            await write(volume, row, 2 * number * BLOCK_BYTES, content(BLOCK_BYTES, number))
        for _ in range(2):
            assert blocks_of(volume, row) == runs
            await flush(volume)
        await write(volume, row, BLOCK_BYTES, content(BLOCK_BYTES, 1))
        await write(volume, row, 0, content(BLOCK_BYTES, 2))
        assert blocks_of(volume, row) == runs + 1
        size = volume.namespace.by_number(row.number).size
        await volume.files.truncate(row.number, 3 * BLOCK_BYTES // 2)
        await volume.files.truncate(row.number, size)
        assert blocks_of(volume, row) == 1.5
        await flush(volume)
        assert blocks_of(volume, row) == 2
        await volume.files.truncate(row.number, 3 * BLOCK_BYTES // 2)
        assert blocks_of(volume, row) == 1.5
