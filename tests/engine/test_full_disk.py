"""Reading where the local disk has no room for what is fetched."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.reading.files import laid_over
from aggfs.model import BLOCK_BYTES
from tests.support.running import flush, make_volume, new_file, running, write
from tests.support.stripes import content

SIZE = 5 * BLOCK_BYTES + 1000
DATA = content(SIZE, 1)


@given(
    st.integers(0, 3 * BLOCK_BYTES),
    st.integers(1, BLOCK_BYTES),
    st.lists(st.tuples(st.integers(0, BLOCK_BYTES), st.integers(1, 1000)), max_size=4),
)
def test_only_holes_are_filled_from_blocks(offset, length, edits):
    whole = bytearray(content(5 * BLOCK_BYTES, 2))
    blocks = {
        number: bytes(whole[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
        for number in range(5)
    }
    here = bytearray(length)
    present = set()
    for start, size in edits:
        start, stop = min(start, length), min(start + size, length)
        here[start:stop] = b"x" * (stop - start)
        whole[offset + start : offset + stop] = b"x" * (stop - start)
        present.update(range(start, stop))
    holes, at = [], 0
    for end in [*sorted(present), length]:
        if at < end:
            holes.append((offset + at, offset + end))
        at = end + 1
    assert laid_over(here, offset, holes, blocks) == whole[offset : offset + length]


if os.geteuid() == 0:  # only root can make a small disk

    @pytest.fixture
    def tiny_disk(tmp_path: Path) -> Iterator[Path]:
        """Where the local copies of the volume in `tmp_path` will be: room for one block."""
        place = tmp_path / "state" / "files"
        yield place
        subprocess.run(["umount", "-l", str(place)], timeout=10, check=True)

    def shrink(place: Path) -> None:
        options = ["-t", "tmpfs", "-o", "size=512k"]
        subprocess.run(["mount", *options, "tmpfs", str(place)], timeout=10, check=True)

    async def test_a_cold_read_on_a_full_disk_gives_the_bytes(
        tmp_path: Path, tiny_disk: Path
    ) -> None:
        place = await make_volume(tmp_path)
        async with running(place.config, place.state) as volume:
            row = await new_file(volume, 1, b"file", DATA)
            small = await new_file(volume, 1, b"small", b"inline")
            await flush(volume)
            await volume.control("evict", {})
        shrink(tiny_disk)
        async with running(place.config, place.state) as volume:
            for offset in range(0, SIZE, 300_000):
                read = await volume.files.read(row.number, offset, 300_000)
                assert bytes(read) == DATA[offset : offset + 300_000]
            assert bytes(await volume.files.read(small.number, 0, 100)) == b"inline"
            assert bytes(await volume.files.read(row.number, 0, SIZE)) == DATA
            assert volume.parts.local.holes(row.number)[0]

    async def test_an_edit_shows_in_a_read_that_finds_no_room(
        tmp_path: Path, tiny_disk: Path
    ) -> None:
        place = await make_volume(tmp_path)
        async with running(place.config, place.state) as volume:
            row = await new_file(volume, 1, b"file", DATA)
            await flush(volume)
            await volume.control("evict", {})
        shrink(tiny_disk)
        async with running(place.config, place.state) as volume:
            await write(volume, row, 2 * BLOCK_BYTES + 5000, b"the newest bytes")
            await volume.files.truncate(row.number, SIZE - 500)
            expected = bytearray(DATA[:-500])
            expected[2 * BLOCK_BYTES + 5000 : 2 * BLOCK_BYTES + 5016] = b"the newest bytes"
            assert bytes(await volume.files.read(row.number, 0, SIZE)) == expected
