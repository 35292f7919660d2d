"""After the local disk has failed a volume can be read, and takes nothing more."""

import stat

import pytest
import trio

from aggfs.errors import LocalDiskFailed
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
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


async def test_a_disk_that_fails_while_stripes_are_sent_ends_no_mount(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        cold = await new_file(volume, 1, b"cold", b"content " * 100_000)
        await flush(volume)
        await volume.control("evict", {})
        for account in volume.parts.accounts:
            store = FaultyStore(account.store, seed=1)
            store.inject(Fault(FaultKind.SLOW, WRITES, seconds=0.3))
            account.store = store
        for number in range(4):
            row = await new_file(volume, 1, b"hot%d" % number, b"content " * 1000)
            await volume.parts.flusher.flush([row.number], volume._uploads)
        await volume.parts.database.durable()
        volume.parts.database.give_up("the disk of this test is bad")
        await trio.sleep(1)
        assert bytes(await volume.files.read(cold.number, 0, 16)) == b"content content "
        status = await volume.control("status", {})
        assert status["read_only"]
