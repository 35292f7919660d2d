"""Looking back: names and contents at an instant are those that were there."""

import stat
from dataclasses import replace

import pytest
import trio

from aggfs.assemble.world import World
from aggfs.cache.tree import LmdbTree
from aggfs.coding.codec import at_once
from aggfs.config import MountConfig
from aggfs.engine.past.lookback import NAMES_AT_ONCE
from aggfs.engine.past.remembering import Remembering
from aggfs.engine.volume import Volume
from aggfs.errors import InThePast, NoEntry
from aggfs.model import InodeRow
from aggfs.mount.facade import VolumeWithPast
from aggfs.mount.operations import VolumeOperations
from aggfs.mount.options import MountOptions
from aggfs.mount.past import OURS, TIMES, PastRows
from aggfs.sync.moments import format_moment
from aggfs.sync.retention import DAY_MS, HOUR_MS
from aggfs.threads import without_threads
from tests.support.movements import FILE_BYTES, ask, fill
from tests.support.running import checkpoint, flush, make_volume, new_file, recover, running, write
from tests.support.stripes import content

BEGIN_MS = 24_000 * DAY_MS + 12 * HOUR_MS + 5 * 60_000
MINUTE_MS = 60_000


class Clock:
    """The wall clock of a test."""

    def __init__(self) -> None:
        self.ms = BEGIN_MS

    def ns(self) -> int:
        return self.ms * 1_000_000

    @property
    def world(self) -> World:
        return World(wall_ns=self.ns)


async def tree_of(volume: VolumeWithPast, number: int, path: bytes = b"") -> dict[bytes, bytes]:
    """Paths and contents, as the mount serves them."""
    found: dict[bytes, bytes] = {}
    for name, row, _ in list(volume.namespace.readdir(number, 2)):
        below = path + b"/" + name
        assert volume.namespace.lookup(number, name).number == row.number
        if stat.S_ISDIR(row.mode):
            found[below] = b"a directory"
            found |= await tree_of(volume, row.number, below)
        elif stat.S_ISREG(row.mode):
            await volume.files.opened(row.number, truncate=False)
            found[below] = bytes(await volume.files.read(row.number, 0, row.size + 1))
            await volume.files.released(row.number)
        else:
            found[below] = row.target
    return found


async def tree_at(volume: Volume, at_ms: int) -> dict[bytes, bytes]:
    served = VolumeWithPast(volume)
    ours = served.namespace.lookup(1, b".aggfs")
    times = served.namespace.lookup(ours.number, b"at")
    then = served.namespace.lookup(times.number, format_moment(at_ms).encode())
    return await tree_of(served, then.number)


async def live_through(volume: Volume, clock: Clock) -> dict[int, dict[bytes, bytes]]:
    """Changes of every kind, an hour apart, and what was there after each."""
    names, seen = volume.namespace, {}

    async def note() -> None:
        await flush(volume)
        clock.ms += MINUTE_MS
        seen[clock.ms] = await tree_of(VolumeWithPast(volume), 1)
        clock.ms += HOUR_MS - MINUTE_MS

    docs = names.create(1, b"docs", stat.S_IFDIR | 0o755, 1, 1)
    letter = await new_file(volume, docs.number, b"letter", content(400_000, 1))
    names.create(docs.number, b"link", stat.S_IFLNK | 0o777, 1, 1, target=b"letter")
    await note()
    await write(volume, letter, 1000, content(300, 2))
    await new_file(volume, 1, b"small", b"inline")
    await note()
    names.rename(docs.number, b"letter", 1, b"moved", wait_for_content=False)
    names.rename(1, b"docs", 1, b"papers", wait_for_content=False)
    await note()
    gone = names.unlink(1, b"small")
    names.drop_unlinked(gone.number)
    await new_file(volume, 1, b"new", content(5000, 3))
    replaced = names.rename(1, b"new", 1, b"moved", wait_for_content=False)
    assert replaced is not None
    names.drop_unlinked(replaced.number)
    await note()
    names.unlink(docs.number, b"link")
    names.drop_unlinked(names.rmdir(1, b"papers").number)
    await note()
    await new_file(volume, 1, b"small", b"another file of that name")
    await note()
    return seen


async def test_every_instant_shows_what_was_there(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        seen = await live_through(volume, clock)
        whole_hours = {ms // HOUR_MS * HOUR_MS + HOUR_MS: then for ms, then in seen.items()}
        for hour, then in list(whole_hours.items())[:-1]:
            assert await tree_at(volume, hour) == then
            assert await tree_at(volume, hour + 4 * MINUTE_MS) == then
        await Remembering(volume).trim()
        await volume.control("gc", {})
        for hour, then in list(whole_hours.items())[:-1]:
            assert await tree_at(volume, hour) == then
        with pytest.raises(NoEntry):
            await tree_at(volume, clock.ms + MINUTE_MS)
        with pytest.raises(NoEntry):
            await tree_at(volume, clock.ms - 31 * DAY_MS)
        assert await tree_at(volume, BEGIN_MS - HOUR_MS) == {}
        await checkpoint(volume, place)
    second, config = await recover(place, tmp_path / "second")
    async with running(config, second, world=clock.world) as volume:
        for hour, then in list(whole_hours.items())[:-1]:
            assert await tree_at(volume, hour) == then


async def test_within_the_hour_every_moment_is_seen(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        row = await new_file(volume, 1, b"f", b"version 0")
        moments = []
        for number in range(1, 6):
            await flush(volume)
            moments.append(clock.ms)
            clock.ms += MINUTE_MS
            await write(volume, row, 8, b"%d" % number)
            volume.namespace.rename(
                1, b"f" if number == 1 else b"f%d" % (number - 1), 1, b"f%d" % number,
                wait_for_content=False,
            )  # fmt: skip
        for number, moment in enumerate(moments):
            name = b"/f%d" % number if number else b"/f"
            assert await tree_at(volume, moment + 1000) == {name: b"version %d" % number}


async def test_a_view_ends_when_its_instant_is_kept_no_more(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        await new_file(volume, 1, b"f", b"old")
        await flush(volume)
        clock.ms += 20 * MINUTE_MS
        served = VolumeWithPast(volume)
        times = served.namespace.lookup(served.namespace.lookup(1, b".aggfs").number, b"at")
        name = format_moment(clock.ms - 5 * MINUTE_MS).encode()
        then = served.namespace.lookup(times.number, name)
        file = served.namespace.lookup(then.number, b"f")
        clock.ms += 2 * HOUR_MS
        for number in (then.number, file.number):
            with pytest.raises(NoEntry):
                served.namespace.by_number(number)
        assert served.namespace.lookup(times.number, name).number != then.number


async def test_a_view_shows_what_is_left_after_something_was_let_go_of(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        served = VolumeWithPast(volume)
        for name in (b"a", b"b", b"c"):
            await new_file(volume, 1, name, b"what " + name + b" holds")
        await flush(volume)
        clock.ms += MINUTE_MS
        times = served.namespace.lookup(served.namespace.lookup(1, b".aggfs").number, b"at")
        then = served.namespace.lookup(times.number, format_moment(clock.ms).encode())
        clock.ms += MINUTE_MS
        everything = await tree_of(served, then.number)
        assert len(everything) == 3
        volume.namespace.drop_unlinked(volume.namespace.unlink(1, b"b").number)
        assert await tree_of(served, then.number) == everything
        assert (await volume.control("trash-empty", {}))["gone"] == 1
        del everything[b"/b"]
        assert await tree_of(served, then.number) == everything
        with pytest.raises(NoEntry):
            served.namespace.lookup(then.number, b"b")
        path = "/.aggfs/at/" + format_moment(clock.ms - MINUTE_MS)
        assert (await volume.control("clone", {"path": path, "to": "/again"}))["cloned"] == 3


class CountedTree:
    """A tree that counts how many inodes it is asked for."""

    def __init__(self, tree: LmdbTree) -> None:
        self._tree = tree
        self.asked = 0

    def inode(self, inode: bytes) -> InodeRow | None:
        self.asked += 1
        return self._tree.inode(inode)

    def __getattr__(self, name: str) -> object:
        return getattr(self._tree, name)


async def test_a_listing_goes_on_where_it_was_and_looks_at_nothing_before(tmp_path) -> None:
    """As the kernel asks: some names at a time. All of them each time would take for ever."""
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        for number in range(50):
            await new_file(volume, 1, b"f%02d" % number, b"")
        clock.ms += MINUTE_MS
        rows = PastRows(volume)
        then = rows.lookup(TIMES, format_moment(clock.ms - 1).encode())
        for top in (then.number, TIMES, OURS):
            whole = list(rows.readdir(top, 0))
            assert [cookie for _, _, cookie in whole] == list(range(1, len(whole) + 1))
            for after in (0, 1, 2, 3, 20, len(whole)):
                assert list(rows.readdir(top, after)) == whole[after:]
        tree = rows.lookback._tree = CountedTree(volume.parts.tree)
        next(rows.readdir(then.number, 40))
        rows.lookup(then.number, b"f07")
        assert tree.asked < 10


async def test_others_have_their_turn_while_a_large_directory_of_a_view_is_listed(tmp_path) -> None:
    """Names, and a directory, as the kernel asks for them."""
    place, clock = await make_volume(tmp_path), Clock()
    names, most, turns = 20 * NAMES_AT_ONCE, 0, 0
    async with running(place.config, place.state, world=clock.world) as volume:
        docs = volume.namespace.create(1, b"docs", stat.S_IFDIR | 0o755, 1, 1)
        for number in range(names):
            volume.namespace.create(docs.number, b"f%d" % number, stat.S_IFLNK | 0o777, 1, 1)
        clock.ms += MINUTE_MS
        served = VolumeWithPast(volume)
        operations = VolumeOperations(served, MountOptions())
        then = served.namespace.lookup(TIMES, format_moment(clock.ms - 1).encode())
        past_docs = served.namespace.lookup(then.number, b"docs")
        rows = served.look_back.__self__
        tree = rows.lookback._tree = CountedTree(volume.parts.tree)
        without_threads()  # each step is a slice

        async def watch() -> None:
            nonlocal most, turns
            asked = tree.asked
            while True:
                await trio.lowlevel.checkpoint()
                most, asked, turns = max(most, tree.asked - asked), tree.asked, turns + 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            entry = await operations.lookup(past_docs.number, b"f7", None)
            nursery.cancel_scope.cancel()
        assert entry.st_ino == served.namespace.lookup(past_docs.number, b"f7").number
        assert tree.asked > names
        assert turns >= names // NAMES_AT_ONCE
        assert most <= 3 * NAMES_AT_ONCE
        assert len(list(served.namespace.readdir(past_docs.number, 2))) == names


async def test_what_moves_while_a_directory_is_listed_is_seen_once_where_it_was(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        names = volume.namespace
        docs = names.create(1, b"docs", stat.S_IFDIR | 0o755, 1, 1)
        known = [b"f%d" % number for number in range(4 * NAMES_AT_ONCE)]
        for name in known:
            names.create(docs.number, name, stat.S_IFLNK | 0o777, 1, 1)
        clock.ms += MINUTE_MS
        lookback = PastRows(volume).lookback
        instant = lookback.instant(clock.ms - 1)
        steps = lookback._list_steps(instant, docs.inode)
        next(steps)  # the first names were met, the last were not
        for name in (known[0], known[-1]):
            names.rename(docs.number, name, 1, name, wait_for_content=False)
        names.rename(docs.number, known[1], docs.number, b"g", wait_for_content=False)
        assert sorted(at_once(steps).inodes) == sorted(known)


async def test_an_open_file_of_a_view_is_read_though_its_blocks_were_sealed_again(tmp_path) -> None:
    place, clock = await make_volume(tmp_path, accounts=5), Clock()
    config = replace(place.config, mount=MountConfig(collect_after_seconds=0))
    async with running(config, place.state, world=clock.world) as volume:
        made = await fill(volume, 2)
        clock.ms += MINUTE_MS
        served = VolumeWithPast(volume)
        times = served.namespace.lookup(served.namespace.lookup(1, b".aggfs").number, b"at")
        then = served.namespace.lookup(times.number, format_moment(clock.ms).encode())
        held = [served.namespace.lookup(then.number, name).number for name in made]
        for number in held:
            await served.files.opened(number, truncate=False)
        gone = volume.namespace.unlink(1, b"file1")
        volume.namespace.drop_unlinked(gone.number)
        await ask(volume, "re-encode", k=3, n=5)
        await volume.control("trash-empty", {})
        for _ in range(2):
            await flush(volume)
            await volume.control("gc", {})
        assert volume.parts.blocks.stripe_count == 1
        assert await served.files.read(held[0], 0, FILE_BYTES) == made[b"file0"]
        with pytest.raises(NoEntry):
            await served.files.read(held[1], 0, FILE_BYTES)
        for number in held:
            await served.files.released(number)


async def test_a_view_cannot_be_changed_and_hides_behind_one_name(tmp_path) -> None:
    place, clock = await make_volume(tmp_path), Clock()
    async with running(place.config, place.state, world=clock.world) as volume:
        await new_file(volume, 1, b"f", b"old")
        await flush(volume)
        served = VolumeWithPast(volume)
        names, files = served.namespace, served.files
        assert {name for name, _, _ in names.readdir(1, 0)} == {b".", b"..", b"f"}
        ours = names.lookup(1, b".aggfs")
        times = names.lookup(ours.number, b"at")
        then = names.lookup(times.number, format_moment(clock.ms).encode())
        file = names.lookup(then.number, b"f")
        for change in (
            lambda: names.create(1, b".aggfs", stat.S_IFDIR, 0, 0),
            lambda: names.create(times.number, b"x", stat.S_IFDIR, 0, 0),
            lambda: names.create(then.number, b"x", stat.S_IFREG, 0, 0),
            lambda: names.unlink(then.number, b"f"),
            lambda: names.rename(1, b"f", then.number, b"g", wait_for_content=False),
            lambda: names.rename(1, b"f", 1, b".aggfs", wait_for_content=False),
            lambda: names.rename_noreplace(then.number, b"f", 1, b"g"),
            lambda: names.exchange(1, b"f", then.number, b"f"),
            lambda: names.link(file.number, 1, b"g"),
            lambda: names.rmdir(1, b".aggfs"),
            lambda: names.set_attributes(file.number, mode=0),
            lambda: names.set_xattr(file.number, b"user.a", b""),
            lambda: names.remove_xattr(file.number, b"user.a"),
        ):
            with pytest.raises(InThePast):
                change()
        with pytest.raises(InThePast):
            await files.write(file.number, 0, b"new")
        with pytest.raises(InThePast):
            await files.truncate(file.number, 0)
