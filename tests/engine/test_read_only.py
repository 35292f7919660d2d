"""After the local disk has failed a volume can be read, and takes nothing more."""

import stat

import pytest

from aggfs.errors import LocalDiskFailed
from tests.support.running import dump, flush, make_volume, new_file, running, write


async def test_nothing_is_taken_after_the_local_disk_has_failed(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"content " * 1000)
        await flush(volume)
        before = await dump(volume)
        volume.parts.database.give_up("the disk of this test is bad")
        with pytest.raises(LocalDiskFailed):
            volume.namespace.create(1, b"directory", stat.S_IFDIR | 0o755, 1, 1)
        with pytest.raises(LocalDiskFailed):
            volume.namespace.unlink(1, b"file")
        with pytest.raises(LocalDiskFailed):
            await write(volume, row, 0, b"more")
        assert await dump(volume) == before
