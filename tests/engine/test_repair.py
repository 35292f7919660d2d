"""Fragments that reads find damaged or lost, made again."""

import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.errors import TooFewFragments
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from tests.support.running import Place, flush, make_volume, new_file, running
from tests.support.stripes import content

DATA = content(3_000_000, 7)
REPAIR_SECONDS = 30
READS = 200  # the dearest account is asked now and then only


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(1).randrange(200, 300)] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, 150)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def holds(path: Path, data: bytes) -> bool:
    return path.exists() and path.read_bytes() == data


def fragment(volume: Volume, place: Place, index: int) -> Path:
    """Where fragment `index` of the only stripe lies."""
    (state,) = volume.parts.blocks.stripes()
    account = volume.parts.accounts.get(state.row.places[index])
    assert account is not None
    name = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, index, account.id)
    return Path(account.store.place.removeprefix("file://")) / name


async def filled(volume: Volume) -> int:
    """One file of one stripe, in the accounts and not here; its number."""
    row = await new_file(volume, 1, b"file", DATA)
    await flush(volume)
    await forget(volume, row.number)
    return row.number


async def forget(volume: Volume, number: int) -> None:
    await volume.parts.local.evict([number])


async def read_until_noticed(
    volume: Volume, number: int, count: int = 1, mended: Callable[[], bool] = lambda: False
) -> None:
    """Cold reads, always right, until so many fragments are known to be bad, or were (repair may
    be done before the read is)."""
    (state,) = volume.parts.blocks.stripes()
    for _ in range(READS):
        await forget(volume, number)
        assert bytes(await volume.files.read(number, 0, len(DATA))) == DATA
        now = volume.parts.blocks.stripe(state.row.sid)
        if now is not None and len(now.row.places) - now.confirmed_count >= count:
            return
        if mended():
            return
    raise AssertionError(f"not noticed in {READS} reads")


async def until_full(volume: Volume) -> None:
    with trio.fail_after(REPAIR_SECONDS):
        while volume.parts.blocks.unfinished():  # noqa: ASYNC110 - as a user's status looks
            await trio.sleep(0.02)


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
async def test_a_bad_fragment_that_a_read_meets_is_made_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    place = await make_volume(tmp_path, k=2, n=3)
    async with running(place.config, place.state) as volume:
        number = await filled(volume)
        for index in range(3):
            path = fragment(volume, place, index)
            good = path.read_bytes()
            damage(path)
            mended = partial(holds, path, good)
            await read_until_noticed(volume, number, mended=mended)
            await until_full(volume)
            assert mended()


async def test_a_repair_that_meets_another_bad_fragment_makes_that_again_too(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, k=3, n=5)
    async with running(place.config, place.state) as volume:
        await filled(volume)
        paths = [fragment(volume, place, index) for index in (0, 2)]
        good = [path.read_bytes() for path in paths]
        flip(paths[0])
        paths[1].unlink()
        (state,) = volume.parts.blocks.stripes()
        volume.parts.repairs.note(state.row.sid, 0)  # the other one shows itself
        await until_full(volume)
        assert [path.read_bytes() for path in paths] == good


async def test_what_was_found_before_a_stop_is_made_again_after_it(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3)
    async with running(place.config, place.state) as volume:
        await filled(volume)
        path = fragment(volume, place, 1)
        good = path.read_bytes()
        path.unlink()
        (state,) = volume.parts.blocks.stripes()
        volume.parts.repairs.note(state.row.sid, 1)
    async with running(place.config, place.state) as volume:
        await until_full(volume)
    assert path.read_bytes() == good


async def test_what_is_there_after_all_is_not_put_again(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3)
    async with running(place.config, place.state) as volume:
        await filled(volume)
        (state,) = volume.parts.blocks.stripes()
        path = fragment(volume, place, 1)
        before = path.stat().st_mtime_ns
        volume.parts.blocks.put_stripe(msgspec.structs.replace(state, confirmed=0b101))
    async with running(place.config, place.state) as volume:
        await until_full(volume)
    assert path.stat().st_mtime_ns == before


async def test_without_k_good_fragments_nothing_is_put(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3)
    async with running(place.config, place.state) as volume:
        number = await filled(volume)
        paths = [fragment(volume, place, index) for index in range(3)]
        good = paths[0].read_bytes()
        for path in paths[:2]:
            flip(path)
        bad = [path.read_bytes() for path in paths]
        with pytest.raises(TooFewFragments):
            await volume.files.read(number, 0, len(DATA))
        await volume.parts.repairs.repair_all()
        assert [path.read_bytes() for path in paths] == bad
        paths[0].write_bytes(good)
        assert bytes(await volume.files.read(number, 0, len(DATA))) == DATA


async def test_what_is_staged_still_is_left_to_who_puts_it(tmp_path: Path) -> None:
    """Who repairs it beside a put may put a fragment where it is no more to be."""
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        away, *_ = volume.parts.accounts
        store = FaultyStore(away.store, seed=1)
        away.store = store
        store.inject(Fault(FaultKind.HANG, WRITES))
        await new_file(volume, 1, b"file", DATA)
        await flush(volume)
        (state,) = volume.parts.blocks.stripes()
        assert not state.full
        before = store.hits.total()
        away.answered()
        with trio.fail_after(5):
            await volume.parts.repairs.repair(state.row.sid)
        assert store.hits.total() == before
        store.heal()
