"""What is stored as k of n becomes K of N, while it is in use."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import Config, MountConfig, Size
from aggfs.engine.volume import Volume
from aggfs.errors import BadConfig, NoSpace
from aggfs.model import BLOCK_BYTES, Layout
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from tests.support.movements import (
    ask,
    complaint,
    fill,
    lose,
    nothing_comes_late,
    nothing_is_lost_or_left_over,
    read_all,
)
from tests.support.running import (
    Place,
    dump,
    flush,
    make_volume,
    new_file,
    recover,
    recovered_dump,
    running,
    write,
)
from tests.support.stripes import content

MIB = 1 << 20


def collecting_at_once(config: Config) -> Config:
    return replace(config, mount=MountConfig(collect_after_seconds=0))


def codes(volume: Volume) -> set[tuple[int, int]]:
    """k and n of every stripe."""
    return {(one.row.k, len(one.row.places)) for one in volume.parts.blocks.stripes()}


def sids(volume: Volume) -> set[bytes]:
    return {one.row.sid for one in volume.parts.blocks.stripes()}


async def collect(volume: Volume) -> None:
    await flush(volume)
    for _ in range(2):
        await volume.control("gc", {})


async def settled(volume: Volume, place: Place, made: dict[bytes, bytes]) -> None:
    """All is readable from the accounts, and nothing else lies there."""
    assert await read_all(volume, made) == made
    await collect(volume)
    await nothing_is_lost_or_left_over(volume, place)
    assert await read_all(volume, made) == made


async def test_more_fragments_are_added_and_taken_away_again(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await fill(volume, 4)
        before = sids(volume)
        plan = await volume.control("re-encode", {"k": 2, "n": 5, "dry_run": True})
        assert plan["stripes"] == 4
        answer = await ask(volume, "re-encode", k=2, n=5)
        assert answer["state"] == "done"
        assert answer["moved_bytes"] == plan["total_bytes"]
        assert codes(volume) == {(2, 5)}
        assert sids(volume) == before
        made |= await fill(volume, 1, first=4)
        assert codes(volume) == {(2, 5)}
        await settled(volume, place, made)
        await ask(volume, "re-encode", k=2, n=3)
        assert codes(volume) == {(2, 3)}
        assert before < sids(volume)
        await settled(volume, place, made)


async def test_copies_come_and_go_by_whole_rounds(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=4, accounts=6, layout=Layout.CONTIGUOUS_COPIES)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await fill(volume, 3)
        before = sids(volume)
        for n in (5, 3, 2):
            with pytest.raises(
                BadConfig, match="in copies: n must be a larger multiple of k: 4, 6"
            ):
                await volume.control("re-encode", {"k": 2, "n": n})
        await ask(volume, "re-encode", k=2, n=6)
        assert codes(volume) == {(2, 6)}
        assert sids(volume) == before
        await settled(volume, place, made)
        await ask(volume, "re-encode", k=2, n=4)
        assert codes(volume) == {(2, 4)}
        await settled(volume, place, made)
        await ask(volume, "re-encode", k=3, n=6)
        await collect(volume)
        assert codes(volume) == {(3, 6)}
        layouts = {one.row.layout for one in volume.parts.blocks.stripes()}
        assert layouts == {Layout.CONTIGUOUS_COPIES}
        assert await read_all(volume, made) == made


async def test_a_fragment_that_is_wanted_again_before_it_was_deleted_stays(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=4)
    config = collecting_at_once(place.config)
    async with running(config, place.state) as volume:
        made = await fill(volume, 1)
        for account in volume.parts.accounts:
            store = FaultyStore(account.store, seed=1)
            store.inject(Fault(FaultKind.DOWN, frozenset({"delete"})))
            account.store = store
        await ask(volume, "re-encode", k=2, n=3)
    async with running(config, place.state) as volume:
        (state,) = volume.parts.blocks.stripes()
        assert [index for index, _ in state.moving] == [3]
        told = await volume.control("gc", {"dry_run": True})
        assert [one["strays"] for one in told["accounts"]] == [0, 0, 0, 0]  # a row names it
        await ask(volume, "re-encode", k=2, n=4)
        await nothing_comes_late(volume)
        assert codes(volume) == {(2, 4)}
        await settled(volume, place, made)


async def test_another_k_makes_new_stripes_and_the_old_ones_go(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    config = collecting_at_once(place.config)
    async with running(config, place.state) as volume:
        made = await fill(volume, 4)
        before = sids(volume)
        assert (await ask(volume, "re-encode", k=3, n=5))["state"] == "done"
        assert await read_all(volume, made) == made
        await collect(volume)
        assert codes(volume) == {(3, 5)}
        assert not before & sids(volume)
        await settled(volume, place, made)
    async with running(config, place.state) as volume:  # the configuration does not know yet
        made |= await fill(volume, 1, first=4)
        assert codes(volume) == {(3, 5)}
        seen = await dump(volume)
        await flush(volume)
    state, recovered = await recover(place, tmp_path / "other")
    assert [(one.k, one.n) for one in recovered.classes] == [(3, 5)]
    async with running(recovered, state) as volume:
        assert await dump(volume) == seen


async def test_a_path_alone_is_coded_anew(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await fill(volume, 2)
        assert (await ask(volume, "re-encode", k=3, n=5, path="/file1"))["state"] == "done"
        await settled(volume, place, made)
        assert codes(volume) == {(2, 3), (3, 5)}
        row = volume.namespace.lookup(1, b"file1")
        (sid,) = volume.sids_of(row)
        state = volume.parts.blocks.stripe(sid)
        assert state is not None
        assert state.row.k == 3
        made |= await fill(volume, 1, first=2)
        assert volume.parts.policy.storage_class.k == 2
        await settled(volume, place, made)


async def test_many_small_files_of_a_stripe_come_along(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = {b"f%d" % n: content(3000 + n, n) for n in range(40)}
        for name, data in made.items():
            await new_file(volume, 1, name, data)
        await flush(volume)
        await ask(volume, "re-encode", k=3, n=4)
        await settled(volume, place, made)
        assert codes(volume) == {(3, 4)}


async def test_a_code_that_the_accounts_cannot_carry_is_refused(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=3)
    accounts = tuple(replace(one, quota_bytes=Size(5 * MIB)) for one in place.config.accounts)
    async with running(replace(place.config, accounts=accounts), place.state) as volume:
        await fill(volume, 4)
        with pytest.raises(BadConfig, match="5 providers are needed, there are 3"):
            await volume.control("re-encode", {"k": 3, "n": 5})
        with pytest.raises(BadConfig, match="k must be >= 2"):
            await volume.control("re-encode", {"k": 1, "n": 3})
        assert volume.parts.policy.storage_class.n == 3


async def test_a_code_for_which_there_is_no_room_is_refused(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=4)
    accounts = tuple(replace(one, quota_bytes=Size(5 * MIB)) for one in place.config.accounts)
    async with running(replace(place.config, accounts=accounts), place.state) as volume:
        await fill(volume, 5)
        with pytest.raises(NoSpace, match=r"bytes would be put .* bytes too few"):
            await volume.control("re-encode", {"k": 3, "n": 4})


async def test_older_versions_and_clones_come_along(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    async with running(collecting_at_once(place.config), place.state) as volume:
        old, new = content(3 * BLOCK_BYTES + 7, 1), content(BLOCK_BYTES, 2)
        row = await new_file(volume, 1, b"file", old)
        await flush(volume)
        await volume.control("clone", {"path": "/file", "to": "/clone"})
        await write(volume, row, BLOCK_BYTES, new)
        await flush(volume)
        before = sids(volume)
        await ask(volume, "re-encode", k=3, n=4)
        await collect(volume)
        assert not before & sids(volume)
        versions = (await volume.control("versions", {"path": "/file"}))["versions"]
        assert isinstance(versions, list)
        first = versions[-1]["version"]
        await volume.control("restore", {"path": "/file", "version": first, "to": "/old"})
        changed = old[:BLOCK_BYTES] + new + old[2 * BLOCK_BYTES :]
        made = {b"file": changed, b"clone": old, b"old": old}
        assert await read_all(volume, made) == made
        await flush(volume)
        seen = await dump(volume)
    assert await recovered_dump(place, tmp_path / "other") == seen


async def test_no_fragment_is_taken_away_while_one_that_stays_is_missing(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=4, accounts=4)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await fill(volume, 1)
        (state,) = volume.parts.blocks.stripes()
        account = volume.parts.accounts.get(state.row.places[0])
        assert account is not None
        store = FaultyStore(account.store, seed=1)
        store.inject(Fault(FaultKind.DOWN))
        account.store = store
        volume.parts.repairs.note(state.row.sid, 0)
        await volume.control("re-encode", {"k": 2, "n": 3})
        with trio.move_on_after(2):
            while codes(volume) == {(2, 4)}:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(0.02)
        assert codes(volume) == {(2, 4)}
        store.heal()
        await volume.control("look", {})
        with trio.fail_after(60):
            while codes(volume) == {(2, 4)}:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await read_all(volume, made) == made


async def test_a_stripe_that_cannot_be_read_holds_no_other_up(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=4)
    async with running(collecting_at_once(place.config), place.state) as volume:
        made = await fill(volume, 4)
        lose(volume, place, b"file0")
        await volume.control("re-encode", {"k": 3, "n": 4})
        assert "0 of 2 fragments" in await complaint(volume)
        await volume.control("movement-stop", {})
        made.pop(b"file0")
        assert await read_all(volume, made) == made
        rows = [volume.namespace.lookup(1, name) for name in made]
        states = [volume.parts.blocks.stripe(sid) for row in rows for sid in volume.sids_of(row)]
        assert {(one.row.k, len(one.row.places)) for one in states if one} == {(3, 4)}
