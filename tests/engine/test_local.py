"""Local copies: kept within their limit, and never at the cost of what only this device has."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.assemble import opening
from aggfs.config import MountConfig, Size
from aggfs.engine.reading.room import Limits
from aggfs.errors import LocalDiskFailed
from aggfs.model import FSYNC_XATTR
from tests.support.running import flush, make_volume, new_file, running


async def test_the_oldest_copies_go_until_the_limit_is_kept(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        rows = [await new_file(volume, 1, b"f%d" % n, bytes([n + 1]) * 400_000) for n in range(5)]
        await flush(volume)
        local = volume.parts.local
        evicted = await local.keep_within(1_000_000)
        assert evicted >= 3 * 400_000
        assert [bool(local.holes(row.number)[0]) for row in rows] == [True] * 3 + [False] * 2
        for number, row in enumerate(rows):
            data = await volume.files.read(row.number, 0, 400_000)
            assert bytes(data) == bytes([number + 1]) * 400_000


async def test_the_oldest_copies_go_until_the_disk_has_room(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        rows = [await new_file(volume, 1, b"f%d" % n, bytes([n + 1]) * 400_000) for n in range(5)]
        await flush(volume)
        local = volume.parts.local
        assert await local.keep_within(1 << 40, short_bytes=500_000) == 2 * 400_000
        assert [bool(local.holes(row.number)[0]) for row in rows] == [True] * 2 + [False] * 3


async def test_who_waits_for_room_on_the_disk_gets_it_soon(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"x" * 400_000)
        await flush(volume)
    volume = opening.open_volume(place.config, str(place.state))
    local, limits = volume.parts.local, Limits(0, 1 << 40, 1 << 40, 0)
    free = [limits.minimum_free_bytes]
    async with trio.open_nursery() as nursery:
        await nursery.start(volume.parts.database.run)
        nursery.start_soon(local.run, limits, lambda: free[0])
        await trio.sleep(0.1)
        assert not local.holes(row.number)[0]
        free[0] = 0
        local.press()
        with trio.fail_after(20):
            while not local.holes(row.number)[0]:  # noqa: ASYNC110 - as a writer finds out
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    await volume.parts.database.close()


async def test_a_file_that_goes_while_copies_are_evicted_holds_no_other_up(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        first, last = [await new_file(volume, 1, name, b"x" * 400_000) for name in (b"a", b"c")]
        await flush(volume)
        gone = await new_file(volume, 1, b"b", b"x" * 400_000)
        local, names = volume.parts.local, volume.namespace

        def remove_it(inode: bytes) -> bool:
            if inode == first.inode:
                names.drop_unlinked(names.unlink(1, b"b").number)
            return False

        local.keep_pinned(remove_it)
        numbers = [first.number, gone.number, last.number]
        assert await local.evict(numbers) == (2 * 400_000, 0, 0)


async def test_room_that_a_stop_kept_from_being_given_back_is_given_back_later(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"x" * 400_000)
        await flush(volume)
        volume.parts.open_files.use(row.number).sparse.evict(0, 400_000)  # and no more
    async with running(place.config, place.state) as volume:
        files, local = volume.parts.sparse_files, volume.parts.local
        assert sum(size for _, _, size in files.usage()) >= 400_000
        assert await local.evict([row.number]) == (0, 0, 0)
        assert sum(size for _, _, size in files.usage()) < 40_000


async def test_what_only_this_device_has_is_never_evicted(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"dirty", b"x" * 400_000)
        assert await volume.parts.local.keep_within(0) == 0
        assert volume.parts.local.holes(row.number) == ([], [])


async def test_fsync_to_the_cloud_returns_when_the_accounts_have_it(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    config = replace(place.config, mount=MountConfig(cache_limit_bytes=Size(0), fsync="cloud"))
    async with running(config, place.state) as volume:
        row = await new_file(volume, 1, b"precious", b"x" * 400_000)
        await volume.files.fsync(row.number)
        assert volume.state_of(volume.namespace.by_number(row.number)) == "full"
        assert not volume.namespace.waiting({row.number}, volume.namespace.next_outbox_sequence())


async def test_one_file_or_directory_alone_is_synced_to_the_cloud(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        names = volume.namespace
        outer = names.create(1, b"precious", stat.S_IFDIR | 0o755, 0, 0)
        inner = names.create(outer.number, b"inner", stat.S_IFDIR | 0o755, 0, 0)
        names.set_xattr(outer.number, FSYNC_XATTR, b"cloud")
        below = await new_file(volume, inner.number, b"below", b"x" * 400_000)
        excepted = await new_file(volume, inner.number, b"excepted", b"x" * 400_000)
        names.set_xattr(excepted.number, FSYNC_XATTR, b"local")
        beside = await new_file(volume, 1, b"beside", b"x" * 400_000)
        one = await new_file(volume, 1, b"one", b"x" * 400_000)
        names.set_xattr(one.number, FSYNC_XATTR, b"cloud")
        for row in (excepted, beside):
            await volume.files.fsync(row.number)
            assert volume.state_of(names.by_number(row.number)) == "dirty"
        for row in (below, one):
            await volume.files.fsync(row.number)
            assert volume.is_in_accounts(row.number)


async def test_close_to_the_cloud_returns_when_the_accounts_have_it(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    config = replace(place.config, mount=MountConfig(close="cloud"))
    async with running(config, place.state) as volume:
        row = await new_file(volume, 1, b"precious", b"x" * 400_000)
        await volume.files.flush(row.number)
        assert volume.state_of(volume.namespace.by_number(row.number)) == "full"


async def test_a_sync_that_fails_while_copies_go_ends_all_acknowledging(tmp_path: Path) -> None:
    """The marks of all files lie in one file: what a failed sync lost of it may be anybody's."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"one", b"x" * 5000)
        other = await new_file(volume, 1, b"other", b"x" * 5000)
        await flush(volume)
        volume.parts.open_files.use(row.number).sparse.syncing._failed = True
        with pytest.raises(LocalDiskFailed):
            await volume.control("evict", {})
        with pytest.raises(LocalDiskFailed):
            await volume.files.fsync(other.number)
