"""`truncate -s 999999999999999 f; rm f`: what is there is walked, never the range."""

from pathlib import Path

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.running import flush, make_volume, new_file, running
from tests.support.stripes import content

HUGE = 999_999_999_999_999
A_FEW = 20


def rows(volume: Volume) -> int:
    """How many the local database has, in all tables."""
    return sum(len(table.scan(b"")) for table in volume.parts.database._tables.values())


async def test_a_gap_of_a_petabyte_costs_a_few_rows_to_make_and_none_to_remove(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(3 * BLOCK_BYTES))
        await flush(volume)
        before = rows(volume)
        await volume.files.truncate(row.number, HUGE)
        assert rows(volume) - before <= A_FEW
        await flush(volume)
        assert rows(volume) - before <= A_FEW
        assert len(list(volume.parts.blocks.extents(row.inode, 0, HUGE // BLOCK_BYTES + 1))) == 1
        assert bytes(await volume.files.read(row.number, HUGE // 2, 10)) == bytes(10)
        await volume.files.truncate(row.number, BLOCK_BYTES)
        await volume.files.truncate(row.number, HUGE)
        gone = volume.namespace.unlink(1, b"file")
        volume.namespace.drop_unlinked(gone.number)
        await flush(volume)
        assert rows(volume) - before <= A_FEW
