"""A directory with many files comes back from the trash some at a time, and is seen whole."""

import stat
from pathlib import Path

import pytest
import trio

from aggfs.engine.past.undelete import BUILT_PREFIX, FILES_AT_ONCE
from aggfs.engine.volume import Volume
from aggfs.errors import NoEntry
from aggfs.model import InodeRow
from aggfs.threads import without_threads
from tests.engine.test_trash import remove, seen, trashed
from tests.support.running import flush, make_volume, new_file, running
from tests.support.victims import victim

MANY = 10 * FILES_AT_ONCE


async def removed_tree(volume: Volume, files: int = MANY) -> tuple[InodeRow, dict]:
    """A directory with many files, one directory below it, in the trash; what was seen of all."""
    names = volume.namespace
    top = names.create(1, b"d", stat.S_IFDIR | 0o755, 1, 1)
    below = names.create(top.number, b"below", stat.S_IFDIR | 0o755, 1, 1)
    for number in range(files // 2):
        await new_file(volume, top.number, b"f%d" % number, b"number %d" % number)
        await new_file(volume, below.number, b"g%d" % number, b"below %d" % number)
    await flush(volume)
    before = await seen(volume)
    remove(volume, 1, b"d")
    return top, before


def names_in(volume: Volume, number: int = 1) -> list[bytes]:
    return [name for name, _, _ in volume.namespace.readdir(number, 2)]


async def test_others_have_their_turn_after_some_files(tmp_path: Path) -> None:
    place, most, turns = await make_volume(tmp_path), 0, 0
    async with running(place.config, place.state) as volume:
        top, before = await removed_tree(volume)
        without_threads()  # each step of a walk is a slice
        table = volume.parts.database.table("removed")

        async def watch() -> None:
            nonlocal most, turns
            left = len(table.scan(b""))
            while True:
                await trio.lowlevel.checkpoint()
                now = len(table.scan(b""))
                left, most, turns = now, max(most, left - now), turns + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            answer = await volume.control("undelete", {"path": "/d"})
            nursery.cancel_scope.cancel()
        assert 0 < most <= 2 * FILES_AT_ONCE  # trio shuffles: two slices may come between two looks
        assert turns >= 3 * MANY  # which is meant, what is in it, whether it can be read
        assert answer == {"path": "/d", "brought_back": MANY + 2}
        assert await seen(volume) == before
        assert top.inode == volume.namespace.resolve(b"/d").inode


async def test_it_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    place, looks = await make_volume(tmp_path), 0
    async with running(place.config, place.state) as volume:
        _, before = await removed_tree(volume)

        async def watch() -> None:
            nonlocal looks
            while b"d" not in names_in(volume):
                looks += 1
                await trio.lowlevel.checkpoint()
            assert await seen(volume) == before

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await volume.control("undelete", {"path": "/d"})
        assert looks > MANY // FILES_AT_ONCE
        assert names_in(volume) == [b"d"]
        assert await trashed(volume) == []


async def test_what_is_given_up_half_way_goes_on(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        _, before = await removed_tree(volume)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.control, "undelete", {"path": "/d"})
            while not names_in(volume):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        [built] = names_in(volume)
        assert built.startswith(BUILT_PREFIX)
        assert await trashed(volume)
        with trio.fail_after(30):
            while names_in(volume) != [b"d"]:
                await trio.lowlevel.checkpoint()
        assert await seen(volume) == before
        assert await trashed(volume) == []


async def test_it_replaces_nothing_that_was_made_meanwhile(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        _, before = await removed_tree(volume)
        answers: list[dict] = []

        async def bring() -> None:
            answers.append(await volume.control("undelete", {"path": "/d"}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bring)
            while not names_in(volume):
                await trio.lowlevel.checkpoint()
            await new_file(volume, 1, b"d", b"mine")
        assert answers[0]["path"].startswith("/d (conflict ")
        assert answers[0]["brought_back"] == MANY + 2
        assert len(await seen(volume)) == len(before) + 1
        assert volume.namespace.resolve(b"/d").size == len(b"mine")


async def test_it_ends_when_what_is_built_is_removed_again(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await removed_tree(volume)

        async def bring() -> None:
            with pytest.raises(NoEntry):
                await volume.control("undelete", {"path": "/d"})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bring)
            while not names_in(volume):
                await trio.lowlevel.checkpoint()
            remove(volume, 1, names_in(volume)[0])
        assert names_in(volume) == []
        assert not volume.parts.database.table("undeletes").scan(b"")


@pytest.mark.parametrize("files", [20, 90])
async def test_after_a_kill_it_goes_on_and_is_whole(tmp_path: Path, files: int) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        top, before = await removed_tree(volume, 300)
        await flush(volume)
    bringing_back = ("undelete", {"path": "/d"}, top.number, files)
    with victim("dying_verb", (place.config, *bringing_back), str(place.state)) as program:
        assert program.line() == b"there\n"
        program.kill()
    async with running(place.config, place.state) as volume:
        with trio.fail_after(60):
            while names_in(volume) != [b"d"]:
                await trio.lowlevel.checkpoint()
        assert await seen(volume) == before
        assert await trashed(volume) == []
        await flush(volume)
