"""A content is put back while others read, write, or the process is killed."""

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.registry import open_store
from tests.support.running import flush, make_volume, new_file, running, write
from tests.support.stripes import content
from tests.support.victims import victim

SIZE = 3 * BLOCK_BYTES
SLOW = Fault(FaultKind.SLOW, frozenset({"get", "get_range"}), seconds=0.3)


class Slowly:
    """Stores that can be made slow."""

    def __init__(self) -> None:
        self.stores: list[FaultyStore] = []

    def open(self, config) -> FaultyStore:
        store = FaultyStore(open_store(config), seed=len(self.stores))
        self.stores.append(store)
        return store

    @property
    def asked(self) -> int:
        return sum(store.hits[FaultKind.SLOW] for store in self.stores)


async def two_versions(volume: Volume) -> tuple[int, list[str]]:
    """A file of two contents, the second shorter; their versions, the first one first."""
    row = await new_file(volume, 1, b"f", content(SIZE, 1))
    await flush(volume)
    await volume.files.truncate(row.number, 0)
    await write(volume, row, 0, content(SIZE - 1000, 2))
    await flush(volume)
    told = (await volume.control("versions", {"path": "/f"}))["versions"]
    return row.number, [one["version"] for one in reversed(told)]


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
async def test_a_read_under_way_ends_with_the_version_that_came_meanwhile(
    tmp_path, before, after
) -> None:
    place, slowly = await make_volume(tmp_path), Slowly()
    contents = [content(SIZE, 1), content(SIZE - 1000, 2)]
    async with running(place.config, place.state, open_store=slowly.open) as volume:
        number, versions = await two_versions(volume)
        await volume.control("restore", {"path": "/f", "version": versions[before]})
        await flush(volume)
        await volume.control("evict", {})
        for store in slowly.stores:
            store.inject(SLOW)
        found = []

        async def read() -> None:
            found.append(bytes(await volume.files.read(number, 0, SIZE)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            while not slowly.asked:
                await trio.lowlevel.checkpoint()
            await volume.control("restore", {"path": "/f", "version": versions[after]})
        assert found == [contents[after]]
        assert await volume.files.read(number, 0, SIZE) == contents[after]


async def test_a_read_that_meets_no_hole_asks_nobody(tmp_path) -> None:
    place, slowly = await make_volume(tmp_path), Slowly()
    async with running(place.config, place.state, open_store=slowly.open) as volume:
        number, _ = await two_versions(volume)
        await volume.control("evict", {})
        for store in slowly.stores:
            store.inject(SLOW)
        await volume.files.read(number, 0, 2 * BLOCK_BYTES)
        asked = slowly.asked
        assert asked
        await volume.files.read(number, BLOCK_BYTES - 10, BLOCK_BYTES)
        assert slowly.asked == asked


async def test_what_was_asked_for_before_a_newer_write_is_discarded(tmp_path) -> None:
    place, slowly = await make_volume(tmp_path), Slowly()
    async with running(place.config, place.state, open_store=slowly.open) as volume:
        number, _ = await two_versions(volume)
        row = volume.namespace.by_number(number)
        await volume.control("evict", {})
        for store in slowly.stores:
            store.inject(SLOW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.files.read, number, 0, SIZE)
            while not slowly.asked:
                await trio.lowlevel.checkpoint()
            await volume.files.truncate(number, 0)
            await write(volume, row, 100, b"newer than what was asked for")
        expected = bytes(100) + b"newer than what was asked for"
        assert await volume.files.read(number, 0, SIZE) == expected
        await flush(volume)
        await volume.control("evict", {})
        assert await volume.files.read(number, 0, SIZE) == expected


async def test_what_waits_for_its_turn_comes_from_the_version_of_then(tmp_path) -> None:
    """Pinned files are brought at a pace: a content that is put back meanwhile is the one to
    bring."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, versions = await two_versions(volume)
        await volume.control("evict", {})

        async def turn(size_bytes: int) -> None:
            del size_bytes
            await volume.control("restore", {"path": "/f", "version": versions[0]})

        await volume.parts.local.bring(number, turn)
        assert await volume.files.read(number, 0, SIZE) == content(SIZE, 1)


async def test_an_edit_that_was_not_sent_is_a_version_before_another_content_comes(
    tmp_path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, versions = await two_versions(volume)
        row = volume.namespace.by_number(number)
        for at in range(10):
            await write(volume, row, 10 * at, b"%02d" % at)
        async with trio.open_nursery() as nursery:
            for at in range(10, 20):
                nursery.start_soon(write, volume, row, 10 * at, b"%02d" % at)
            nursery.start_soon(volume.control, "restore", {"path": "/f", "version": versions[0]})
        told = (await volume.control("versions", {"path": "/f"}))["versions"]
        assert len(told) >= 4
        now = bytes(await volume.files.read(number, 0, SIZE))
        first = content(SIZE, 1)
        assert now[:100] == first[:100]
        for at in range(100, 200, 10):
            assert now[at : at + 2] in (b"%02d" % (at // 10), first[at : at + 2])
        assert now[200:] == first[200:]


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_leaves_the_one_content_or_the_other(tmp_path, seed) -> None:
    place = await make_volume(tmp_path)
    contents = [content(SIZE, 1), content(SIZE - 1000, 2)]
    async with running(place.config, place.state) as volume:
        _, versions = await two_versions(volume)
    with victim("dying_restore", (place.config, versions), str(place.state)) as program:
        for _ in range(1 + 3 * seed):
            assert program.line().startswith(b"restored")
        program.kill()
    async with running(place.config, place.state) as volume:
        row = volume.namespace.resolve(b"/f")
        found = bytes(await volume.files.read(row.number, 0, SIZE))
        assert found in contents
        assert row.size == len(found)
        await flush(volume)
        await volume.control("evict", {})
        assert bytes(await volume.files.read(row.number, 0, SIZE)) == found
