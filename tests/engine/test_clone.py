"""Clones share what lies in the accounts, and nothing else."""

import stat

import pytest
import trio

from aggfs.engine.past.clone import FILES_AT_ONCE
from aggfs.engine.past.remembering import Remembering
from aggfs.engine.volume import Volume
from aggfs.errors import Exists, InvalidMove, NoEntry
from aggfs.model import BLOCK_BYTES
from aggfs.sync.moments import format_moment
from tests.support.running import dump, fill, flush, make_volume, new_file, recover, running, write
from tests.support.stripes import content
from tests.support.victims import victim

INODE, CTIME, NLINK = 0, 9, 6


async def below(volume: Volume, path: bytes) -> dict:
    """What a user sees below a path, but for who it is and when that was made so."""
    found = await dump(volume)
    return {
        name.removeprefix(path): tuple(
            value for at, value in enumerate(values) if at not in (INODE, CTIME, NLINK)
        )
        for name, values in found.items()
        if name.startswith(path)
    }


async def read(volume: Volume, path: bytes) -> bytes:
    row = volume.namespace.resolve(path)
    return bytes(await volume.files.read(row.number, 0, row.size))


async def test_a_cloned_tree_is_the_same_and_moves_no_data(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = volume.parts.blocks.stripe_count
        await volume.control("clone", {"path": "/directory", "to": "/copy"})
        await flush(volume)
        assert volume.parts.blocks.stripe_count == before
        original = await below(volume, b"/directory")
        assert await below(volume, b"/copy") == original
        linked = volume.namespace.resolve(b"/copy/size5000")
        assert linked.inode != volume.namespace.resolve(b"/directory/size5000").inode
        await volume.control("evict", {})
        assert await below(volume, b"/copy") == original
    second, config = await recover(place, tmp_path / "second")
    async with running(config, second) as volume:
        assert await below(volume, b"/copy") == original


async def test_a_write_to_either_is_not_seen_in_the_other(tmp_path) -> None:
    place = await make_volume(tmp_path)
    data = content(3 * BLOCK_BYTES, 1)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"one", data)
        await volume.control("clone", {"path": "/one", "to": "/two"})
        assert await read(volume, b"/two") == data
        await write(volume, row, 10, b"in one")
        await write(volume, volume.namespace.resolve(b"/two"), BLOCK_BYTES + 10, b"in two")
        one = data[:10] + b"in one" + data[16:]
        two = data[: BLOCK_BYTES + 10] + b"in two" + data[BLOCK_BYTES + 16 :]
        for _ in range(2):
            assert await read(volume, b"/one") == one
            assert await read(volume, b"/two") == two
            await flush(volume)
            await volume.control("evict", {})
        gone = volume.namespace.unlink(1, b"one")
        volume.namespace.drop_unlinked(gone.number)
        await volume.control("trash-empty", {})
        await volume.control("gc", {})
        await volume.control("evict", {})
        assert await read(volume, b"/two") == two


async def test_a_tree_of_an_earlier_time_is_cloned(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        then = await below(volume, b"/directory")
        at_ms = volume.parts.wall_ns() // 1_000_000
        await trio.sleep(0.002)  # the time of what follows is another
        for name, row, _ in list(
            volume.namespace.readdir(volume.namespace.resolve(b"/directory").number, 2)
        ):
            if stat.S_ISREG(row.mode):
                await write(volume, row, 0, b"changed")
                volume.namespace.rename(
                    volume.namespace.resolve(b"/directory").number, name, 1, b"m" + name,
                    wait_for_content=False,
                )  # fmt: skip
        await flush(volume)
        path = f"/.aggfs/at/{format_moment(at_ms)}/directory"
        await volume.control("clone", {"path": path, "to": "/again"})
        again = await below(volume, b"/again")
        # An empty file whose first content came soon after is taken to have been on its way.
        assert set(again) ^ set(then) == {b"/size1"}
        for name in again:
            assert again[name][-1] == then[name][-1], name


async def test_what_cannot_be_cloned_is_refused_and_leaves_nothing(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        names = volume.namespace
        directory = names.create(1, b"d", stat.S_IFDIR | 0o755, 1, 1)
        await new_file(volume, directory.number, b"f", content(5000, 1))
        await flush(volume)
        before = await dump(volume)
        for path, to, error in (
            ("/d", "/d/inside", InvalidMove),
            ("/d", "/d", Exists),
            ("/nothing", "/x", NoEntry),
            ("/d", "/nowhere/x", NoEntry),
            ("/.aggfs/at/yesterday/d", "/x", NoEntry),
        ):
            with pytest.raises(error):
                await volume.control("clone", {"path": path, "to": to})
        assert await dump(volume) == before


async def test_the_job_that_removes_half_built_clones_leaves_those_under_way_alone(
    tmp_path,
) -> None:
    """It begins anew after each fault of its own."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        names = volume.namespace
        docs = names.create(1, b"docs", stat.S_IFDIR | 0o755, 1, 1)
        for number in range(2 * FILES_AT_ONCE):
            names.create(docs.number, b"%d" % number, stat.S_IFLNK | 0o777, 1, 1, target=b"x")
        await flush(volume)
        past, under_way = Remembering(volume), volume.parts.database.table("clones")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volume.control, "clone", {"path": "/docs", "to": "/again"})
            while not under_way.scan(b""):
                await trio.lowlevel.checkpoint()
            await past.cloning.remove_unfinished()
        assert await below(volume, b"/again") == await below(volume, b"/docs")


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_leaves_the_whole_clone_or_none_of_it(tmp_path, seed) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        directory = volume.namespace.create(1, b"d", stat.S_IFDIR | 0o755, 1, 1)
        for number in range(600):
            data = b"number %d" % number
            await new_file(volume, directory.number, b"f%d" % number, data)
        await flush(volume)
        original = await below(volume, b"/d")
    cloning = ("clone", {"path": "/d", "to": "/copy"}, None, seed * 150)
    with victim("dying_verb", (place.config, *cloning), str(place.state)) as program:
        assert program.line() == b"there\n"
        program.kill()
    async with running(place.config, place.state) as volume:
        await Remembering(volume).cloning.remove_unfinished()  # as its job does
        names = {name for name, _, _ in volume.namespace.readdir(1, 2)}
        assert names in ({b"d"}, {b"d", b"copy"})
        if b"copy" in names:
            assert await below(volume, b"/copy") == original
        assert await below(volume, b"/d") == original
        await volume.control("clone", {"path": "/d", "to": "/second"})
        await flush(volume)
        assert await below(volume, b"/second") == original
