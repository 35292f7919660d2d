"""The trash: what is removed can be brought back until its time is over or its room is needed."""

import stat
from dataclasses import replace

import pytest
import trio

from aggfs.assemble.world import World
from aggfs.engine.past.remembering import Remembering
from aggfs.engine.volume import Volume
from aggfs.errors import Exists, NoEntry, NoSpace
from aggfs.model import BLOCK_BYTES
from aggfs.sync.retention import DAY_MS
from aggfs.threads import without_threads
from tests.support.running import (
    Place,
    checkpoint,
    counted_turns,
    dump,
    fill,
    flush,
    make_volume,
    new_file,
    recover,
    running,
    write,
)
from tests.support.stripes import content

CTIME, MTIME = 9, 8


async def trashed(volume: Volume) -> list[str]:
    """The paths in the trash, the newest first."""
    return [one["path"] for one in (await volume.control("trash", {}))["entries"]]


def remove(volume: Volume, parent: int, name: bytes) -> None:
    """As `rm -rf` does it; nobody has anything open."""
    names = volume.namespace
    row = names.lookup(parent, name)
    if stat.S_ISDIR(row.mode):
        for child, _, _ in list(names.readdir(row.number, 2)):
            remove(volume, row.number, child)
        names.rmdir(parent, name)
    else:
        names.unlink(parent, name)
    names.drop_unlinked(row.number)


async def seen(volume: Volume) -> dict:
    """All that a user sees, but for the times that removing and placing change."""
    found = await dump(volume)
    return {
        path: tuple(
            value
            for at, value in enumerate(values)
            if at != CTIME and not (at == MTIME and stat.S_ISDIR(values[1]))
        )
        for path, values in found.items()
    }


async def test_a_removed_file_comes_back_as_it_was(tmp_path) -> None:
    place = await make_volume(tmp_path)
    data = content(3 * BLOCK_BYTES + 5, 1)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"f", data)
        volume.namespace.set_xattr(row.number, b"user.colour", b"blue")
        await flush(volume)
        await write(volume, row, 10, b"a newer version")
        await flush(volume)
        before = await seen(volume)
        remove(volume, 1, b"f")
        assert await trashed(volume) == ["/f"]
        assert b"/f" not in await dump(volume)
        await volume.control("undelete", {"path": "/f"})
        assert await seen(volume) == before
        assert await trashed(volume) == []
        remove(volume, 1, b"f")
        await flush(volume)
    async with running(place.config, place.state) as volume:
        entry = (await volume.control("trash", {}))["entries"][0]
        await volume.control("undelete", {"id": entry["id"][:10]})
        assert await seen(volume) == before
        await write(volume, volume.namespace.lookup(1, b"f"), 0, b"goes on")
        await flush(volume)
        await volume.control("evict", {})
        assert (await volume.files.read(row.number, 0, 7)) == b"goes on"


async def test_an_edit_that_was_never_sent_does_not_come_back(tmp_path) -> None:
    place = await make_volume(tmp_path)
    data = content(300_000, 1)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"f", data)
        await flush(volume)
        before = await seen(volume)
        await write(volume, row, 299_000, content(50_000, 2))
        remove(volume, 1, b"f")
        await volume.control("undelete", {"path": "/f"})
        assert await seen(volume) == before
        assert volume.state_of(volume.namespace.resolve(b"/f")) != "dirty"
        assert not volume.namespace.resolve(b"/f").unflushed
        await write(volume, row, 0, b"and on")
        await flush(volume)
        await volume.control("evict", {})
        assert await volume.files.read(row.number, 0, 300_000) == b"and on" + data[6:]


async def test_what_was_removed_while_it_was_open_comes_back_with_what_is_written(tmp_path) -> None:
    place = await make_volume(tmp_path)
    data = content(300_000, 1)
    async with running(place.config, place.state) as volume:
        names, files = volume.namespace, volume.files
        row = await new_file(volume, 1, b"f", data)
        await flush(volume)
        await files.opened(row.number, truncate=False)
        names.unlink(1, b"f")
        await files.write(row.number, 0, b"written after the removal")
        await volume.control("undelete", {"path": "/f"})
        await files.released(row.number)
        names.drop_unlinked(row.number)  # as the mount does when nobody has it open any more
        assert not names.is_open(row.inode)
        expected = b"written after the removal" + data[25:]
        assert await files.read(row.number, 0, 300_000) == expected
        await files.fsync(row.number)
    async with running(place.config, place.state) as volume:
        files = volume.files
        assert await files.read(row.number, 0, 300_000) == expected
        await flush(volume)
        await volume.control("evict", {})
        assert await files.read(row.number, 0, 300_000) == expected


async def test_a_tree_comes_back_whole_also_on_another_machine(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await seen(volume)
        remove(volume, 1, b"directory")
        await flush(volume)
        await checkpoint(volume, place)
    second, config = await recover(place, tmp_path / "second")
    async with running(config, second) as volume:
        await volume.control("undelete", {"path": "/directory"})
        after = await seen(volume)
    # This file has another name still: it was never in the trash.
    assert {path for path in before if path not in after} == {b"/directory/size5000"}
    assert b"/directory/doomed" in set(after) - set(before)  # it was in the trash before
    for path in set(before) & set(after) - {b"/", b"/other name"}:
        assert after[path] == before[path]


async def test_a_file_brings_its_directories_back_and_nothing_else(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        names = volume.namespace
        one = names.create(1, b"a", stat.S_IFDIR | 0o750, 1, 1)
        two = names.create(one.number, b"b", stat.S_IFDIR | 0o755, 1, 1)
        await new_file(volume, two.number, b"wanted", content(5000, 1))
        await new_file(volume, two.number, b"other", content(5000, 2))
        await flush(volume)
        remove(volume, 1, b"a")
        assert await trashed(volume) == ["/a", "/a/b", "/a/b/other", "/a/b/wanted"]
        await volume.control("undelete", {"path": "/a/b/wanted"})
        assert set(await dump(volume)) == {b"/", b"/a", b"/a/b", b"/a/b/wanted"}
        assert await trashed(volume) == ["/a/b/other"]
        names.rename(two.number, b"wanted", 1, b"moved", wait_for_content=False)
        assert names.resolve(b"/a/b").inode == two.inode  # it is there, not only shown


async def test_others_have_their_turn_while_the_trash_is_looked_through(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for number in range(30):
            await new_file(volume, 1, b"f%d" % number, b"x")
        await flush(volume)
        for number in range(30):
            remove(volume, 1, b"f%d" % number)
        async with counted_turns() as turns:
            with pytest.raises(NoEntry):
                await volume.control("undelete", {"path": "/nothing"})
        assert turns.count >= 20


async def test_of_two_who_bring_the_same_back_one_does(tmp_path) -> None:
    place = await make_volume(tmp_path)
    outcomes: list[object] = []
    async with running(place.config, place.state) as volume:
        docs = volume.namespace.create(1, b"docs", stat.S_IFDIR | 0o755, 1, 1)
        for name in (b"f", b"g"):
            await new_file(volume, docs.number, name, name * 1000)
        await flush(volume)
        before = await seen(volume)
        remove(volume, 1, b"docs")
        without_threads()

        async def bring() -> None:
            try:
                answer = await volume.control("undelete", {"path": "/docs"})
                outcomes.append(answer["brought_back"])
            except NoEntry:
                outcomes.append("it is not in the trash")

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(bring)
        assert sorted(outcomes, key=str) == [3, "it is not in the trash"]
        assert await seen(volume) == before
        assert await trashed(volume) == []


async def test_what_nobody_ever_heard_of_and_what_was_never_stored_is_no_trash(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"temporary", content(100_000, 1))
        remove(volume, 1, b"temporary")
        row = await new_file(volume, 1, b"never stored")
        await new_file(volume, 1, b"empty")
        await flush(volume)
        await write(volume, row, 0, b"too late")
        remove(volume, 1, b"never stored")
        assert await trashed(volume) == []
        remove(volume, 1, b"empty")
        await volume.control("undelete", {"path": "/empty"})
        assert volume.namespace.lookup(1, b"empty").size == 0


async def test_what_was_replaced_by_a_rename_is_in_the_trash(tmp_path) -> None:
    place = await make_volume(tmp_path)
    old, new = content(4000, 1), content(9000, 2)
    async with running(place.config, place.state) as volume:
        names = volume.namespace
        first = await new_file(volume, 1, b"f", old)
        await new_file(volume, 1, b"f.new", new)
        await flush(volume)
        names.rename(1, b"f.new", 1, b"f", wait_for_content=False)
        names.drop_unlinked(first.number)
        assert await trashed(volume) == ["/f"]
        with pytest.raises(Exists, match="--to"):
            await volume.control("undelete", {"path": "/f"})
        await volume.control("undelete", {"path": "/f", "to": "/f.old"})
        found = names.lookup(1, b"f.old")
        assert await volume.files.read(found.number, 0, 9000) == old
        assert await volume.files.read(names.lookup(1, b"f").number, 0, 9000) == new
        with pytest.raises(NoEntry):
            await volume.control("undelete", {"path": "/f"})


async def test_a_file_with_another_name_left_is_not_in_the_trash(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"one", content(5000, 1))
        volume.namespace.link(row.number, 1, b"two")
        await flush(volume)
        remove(volume, 1, b"one")
        assert await trashed(volume) == []
        remove(volume, 1, b"two")
        assert await trashed(volume) == ["/two"]
        await flush(volume)
        await volume.control("trash-empty", {})
        assert volume.parts.tree.inode(row.inode) is None
        assert list(volume.parts.tree.all_links()) == []


async def test_after_its_time_nothing_is_left_of_it_and_the_rest_is_as_it_was(tmp_path) -> None:
    place = await make_volume(tmp_path)
    now = [1_900_000_000_000_000_000]
    async with running(place.config, place.state, world=World(wall_ns=lambda: now[0])) as volume:
        row = await new_file(volume, 1, b"f", content(300_000, 1))
        await flush(volume)
        await volume.control("restore", {"path": "/f", "at": "2100-01-01", "to": "/copy"})
        await flush(volume)
        before = await seen(volume)
        del before[b"/f"]
        remove(volume, 1, b"f")
        await flush(volume)
        past = Remembering(volume)
        now[0] += 29 * DAY_MS * 1_000_000
        await past.trim()
        assert await trashed(volume) == ["/f"]
        now[0] += 2 * DAY_MS * 1_000_000
        await past.trim()
        assert await trashed(volume) == []
        assert volume.parts.tree.inode(row.inode) is None
        assert volume.parts.tree.versions(row.inode) == []
        assert list(volume.parts.tree.all_past()) == []
        await volume.control("gc", {})
        await volume.control("evict", {})
        after = await seen(volume)
        assert {path for path in after if path != b"/"} == {b"/copy"}
        assert after[b"/copy"] == before[b"/copy"]


async def test_the_trash_counts_as_free(tmp_path) -> None:
    place = await small_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        size = 4 << 20
        for number in range(3):
            await new_file(volume, 1, b"f%d" % number, content(size, number))
        await flush(volume)
        used = volume.statfs()[0] - volume.statfs()[1]
        assert used >= 3 * size
        remove(volume, 1, b"f0")
        await volume.control("flush", {})
        volume._statfs = None
        total, free, _ = volume.statfs()
        assert total - free <= used - size + (1 << 20)
        assert (await volume.control("trash", {}))["size_bytes"] == size


async def test_where_room_is_needed_the_oldest_in_the_trash_goes_first(tmp_path) -> None:
    place = await small_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        size = 8 << 20
        for number in range(4):
            await new_file(volume, 1, b"f%d" % number, content(size, number))
            await flush(volume)
        for number in (2, 0, 1):
            remove(volume, 1, b"f%d" % number)
            await flush(volume)
        for number in range(4, 6):
            await new_file(volume, 1, b"f%d" % number, content(size, number))
            await flush(volume)
        left = await trashed(volume)
        assert left in (["/f1"], ["/f1", "/f0"])
        with pytest.raises(NoSpace):
            await fill_up(volume, size)
        assert await trashed(volume) == []
        row = volume.namespace.lookup(1, b"f3")
        await volume.control("evict", {})
        assert await volume.files.read(row.number, 0, size) == content(size, 3)


async def fill_up(volume: Volume, size: int) -> None:
    for number in range(6, 12):
        await new_file(volume, 1, b"f%d" % number, content(size, number))
        await flush(volume)


async def small_volume(path) -> Place:
    """Three accounts of 20 MiB, 2-of-3: room for about 38 MiB; collection without a grace."""
    place = await make_volume(path)
    accounts = tuple(replace(one, quota_bytes=20 << 20) for one in place.config.accounts)
    mount = replace(place.config.mount, collect_after_seconds=0)
    return replace(place, config=replace(place.config, accounts=accounts, mount=mount))
