"""Ways to lose data that are known from others: what of them has no better place for its test.

docs/semantics.md lists all of them, each with its test.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.assemble import opening
from aggfs.assemble.world import THIS_WORLD, World
from aggfs.config import AccountConfig
from aggfs.engine.volume import Volume
from aggfs.errors import Busy, TooFewFragments
from aggfs.stores.base import Store
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.registry import open_store
from tests.support.running import dump, flush, make_volume, new_file, recovered_dump, running, write
from tests.support.stripes import content

DAY_NS = 24 * 3600 * 10**9
BIG = 3_000_000


class Slow:
    """Opens accounts whose every put takes a while."""

    def __init__(self, seconds: float) -> None:
        self._fault = Fault(FaultKind.SLOW, seconds=seconds, verbs=frozenset({"put", "create"}))

    def __call__(self, settings: AccountConfig) -> Store:
        store = FaultyStore(open_store(settings), seed=1)
        store.inject(self._fault)
        return store


def world_at(offset_ns: int) -> World:
    return replace(THIS_WORLD, wall_ns=lambda: time.time_ns() + offset_ns, kernel_ns=None)


async def test_a_file_may_change_in_every_way_while_it_is_uploaded(tmp_path: Path) -> None:
    """Written to, cut, renamed, replaced, unlinked, with all puts under way: what is there in the
    end is what was done last, also as seen from the accounts."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state, open_store=Slow(0.2)) as volume:
        names, files = volume.namespace, volume.files
        made = [await new_file(volume, 1, b"f%d" % n, content(BIG, n)) for n in range(5)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flush, volume)
            await until_uploading(volume)
            await write(volume, made[0], 100_000, content(400_000, 10))
            await files.truncate(made[1].number, 700_001)
            names.rename(1, b"f2", 1, b"renamed", wait_for_content=False)
            names.rename(1, b"f3", 1, b"f0", wait_for_content=files.is_dirty(made[3].number))
            names.unlink(1, b"f4")
            names.drop_unlinked(made[4].number)
            names.drop_unlinked(made[0].number)
        await flush(volume)
        await volume.control("evict", {})
        expected = {
            b"f0": content(BIG, 3),
            b"f1": content(BIG, 1)[:700_001],
            b"renamed": content(BIG, 2),
        }
        assert {name for name, _, _ in names.readdir(1, 2)} == set(expected)
        for name, data in expected.items():
            row = names.lookup(1, name)
            assert bytes(await files.read(row.number, 0, BIG + 1)) == data


async def until_uploading(volume: Volume) -> None:
    """Until a stripe is staged and not yet stored."""
    with trio.fail_after(20):
        while not volume.parts.staging.size_bytes:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)


@pytest.mark.parametrize("jump_ns", [-DAY_NS, DAY_NS, -400 * DAY_NS])
async def test_a_clock_that_is_wrong_by_a_day_brings_nothing_old_back(
    tmp_path: Path, jump_ns: int
) -> None:
    """What is done after the jump comes after what was done before it, for everybody."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(5000, 1))
        await new_file(volume, 1, b"gone", content(5000, 2))
        await flush(volume)
    async with running(place.config, place.state, world=world_at(jump_ns)) as volume:
        await write(volume, row, 0, content(5000, 3))
        await new_file(volume, 1, b"new", content(900, 4))
        volume.namespace.unlink(1, b"gone")
        await flush(volume)
    async with running(place.config, place.state) as volume:
        await write(volume, row, 2000, content(100, 5))
        volume.namespace.rename(1, b"new", 1, b"newer", wait_for_content=False)
        await flush(volume)
        wanted = await dump(volume)
    assert set(wanted) == {b"/", b"/file", b"/newer"}
    assert await recovered_dump(place, tmp_path / "second") == wanted


async def test_two_daemons_on_one_state_directory_are_one_too_many(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", content(5000, 1))
        with pytest.raises(Busy):
            opening.open_volume(place.config, str(place.state))
        await flush(volume)
        assert b"/file" in await dump(volume)


async def test_accounts_that_are_all_set_back_give_errors_and_no_old_bytes(tmp_path: Path) -> None:
    """This device knows what it wrote: what was there then is not taken for what is there now."""
    place = await make_volume(tmp_path)
    paths = [Path(one.path) for one in place.config.accounts]
    old, new = content(BIG, 1), content(BIG, 2)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", old)
        await flush(volume)
    for path in paths:
        shutil.copytree(path, tmp_path / "before" / path.name)
    async with running(place.config, place.state) as volume:
        await write(volume, row, 0, new)
        await new_file(volume, 1, b"later", content(5000, 3))
        await flush(volume)
    for path in paths:
        shutil.rmtree(path)
        (tmp_path / "before" / path.name).rename(path)
    async with running(place.config, place.state, sound=False) as volume:
        assert {name for name, _, _ in volume.namespace.readdir(1, 2)} == {b"file", b"later"}
        assert bytes(await volume.files.read(row.number, 0, BIG)) == new
        await volume.parts.local.evict([row.number])
        with pytest.raises(TooFewFragments):
            await volume.files.read(row.number, 0, BIG)
