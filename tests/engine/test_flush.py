"""Files that cannot be sent out: they hold nothing else up, and somebody is told."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from aggfs.cache.staging import Staging
from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError, NoSpace
from aggfs.model import STRIPE_BYTES, InodeRow
from aggfs.stores.base import Buffer
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from tests.support.running import flush, make_volume, new_file, running
from tests.support.stripes import content


def spoil(volume: Volume, row: InodeRow, elsewhere: Path) -> None:
    """The disk does not give this file's bytes any more."""
    file = volume.parts.open_files.edited_file(row.number)
    assert file is not None
    descriptor = os.open(elsewhere, os.O_RDONLY | os.O_DIRECTORY)
    os.dup2(descriptor, file.sparse._raw._descriptor)
    os.close(descriptor)


class Cramped:
    """A staging on a disk that has room for so many bytes."""

    def __init__(self, staging: Staging, room_bytes: int) -> None:
        self._staging = staging
        self._room_bytes = room_bytes

    def put(self, name: bytes, pieces: Sequence[Buffer]) -> None:
        if self._staging.size_bytes + sum(map(len, pieces)) > self._room_bytes:
            raise NoSpace(os.strerror(errno.ENOSPC))
        self._staging.put(name, pieces)

    def __getattr__(self, name: str) -> object:
        return getattr(self._staging, name)


@pytest.mark.parametrize("size", [500, 5000])
async def test_a_file_that_cannot_be_read_holds_no_other_up(tmp_path: Path, size: int) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        bad = await new_file(volume, 1, b"bad", content(size))
        spoil(volume, bad, tmp_path)
        good = [await new_file(volume, 1, b"good%d" % i, content(size)) for i in range(3)]
        numbers = {one.number for one in good}
        with trio.fail_after(20):
            while numbers & set(volume._unflushed(None)):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.05)
        assert volume.files.is_dirty(bad.number)
        assert "flushing" not in volume.jobs.troubles
        status = await volume.control("status", {})
        assert any("1 file" in warning for warning in status["warnings"])
        with pytest.raises(AggfsError):
            await volume.files.flush(bad.number)


async def test_a_flush_of_a_file_that_cannot_be_sent_says_why(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        bad = await new_file(volume, 1, b"bad", content(5000))
        spoil(volume, bad, tmp_path)
        with trio.fail_after(20), pytest.raises(AggfsError, match="directory"):
            await volume.control("flush", {"path": "/bad"})


async def test_what_failed_is_tried_again_less_and_less_often(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        bad = await new_file(volume, 1, b"bad", content(5000))
        spoil(volume, bad, tmp_path)
        file = volume.parts.open_files.edited_file(bad.number)
        assert file is not None
        pauses = []
        for failures in range(1, 8):
            await volume.parts.flusher.flush([bad.number], volume._uploads)
            assert file.failures == failures
            pauses.append(round(file.try_again_at - trio.current_time()))
            assert bad.number not in volume.parts.flusher._capture.due()
            file.try_again_at = 0.0
        assert pauses == [5, 10, 20, 40, 60, 60, 60]


async def test_a_file_larger_than_the_local_disk_is_sent_as_room_comes_free(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for account in volume.parts.accounts:
            store = FaultyStore(account.store, seed=1)
            store.inject(Fault(FaultKind.SLOW, WRITES, seconds=0.2))
            account.store = store
        volume.parts.flusher._staging = Cramped(volume.parts.staging, 2 * STRIPE_BYTES + 100_000)
        data = content(5 * STRIPE_BYTES)
        row = await new_file(volume, 1, b"large", data)
        with trio.fail_after(60):
            await flush(volume)
        assert volume.parts.blocks.stripe_count == 5
        await volume.control("evict", {})
        assert bytes(await volume.files.read(row.number, 0, len(data))) == data


async def test_a_flush_that_waited_for_room_goes_on_when_the_last_stripe_gave_its_room_back(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        volume.parts.flusher._staging_limit_bytes = 1
        await new_file(volume, 1, b"large", content(3 * STRIPE_BYTES))
        with trio.fail_after(20):
            await flush(volume)


@pytest.mark.parametrize("path", ["/log", None])
async def test_a_flush_ends_although_the_file_is_written_all_the_time(
    tmp_path: Path, path: str | None
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"log", b"first line\n")

        async def write_on() -> None:
            for number in range(10_000):
                await volume.files.write(row.number, 11 * number, b"%10d\n" % number)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            await trio.sleep(0.1)
            before = volume.namespace.by_number(row.number).size
            with trio.fail_after(15):
                await volume.control("flush", {} if path is None else {"path": path})
            content_of_now = volume.namespace.content_of(row.inode)
            assert content_of_now is not None
            assert content_of_now.size >= before
            nursery.cancel_scope.cancel()
