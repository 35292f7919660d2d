"""Accounts that leave a running volume."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import Size
from aggfs.errors import BadConfig, NoEntry, NoSpace
from aggfs.model import AccountEntry
from aggfs.stores.faulty import VERBS, Fault, FaultKind, FaultyStore
from tests.support.movements import (
    ask,
    complaint,
    fill,
    fragments_at,
    lose,
    lying,
    nothing_is_lost_or_left_over,
    read_all,
)
from tests.support.running import dump, flush, make_volume, recover, running

MIB = 1 << 20


async def test_a_drained_account_has_only_head_and_header_and_takes_nothing_new(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        made = await fill(volume, 4)
        plan = await volume.control("account-drain", {"name": "a1", "dry_run": True})
        assert plan["fragments"] == fragments_at(volume)["a1"]
        assert (await ask(volume, "account-drain", name="a1"))["state"] == "done"
        assert fragments_at(volume)["a1"] == 0
        assert len(lying(place)["a1"]) == 2
        await nothing_is_lost_or_left_over(volume, place)
        made |= await fill(volume, 2, first=4)
        assert fragments_at(volume)["a1"] == 0
    async with running(place.config, place.state) as volume:
        await fill(volume, 1, first=6)
        assert fragments_at(volume)["a1"] == 0
        assert await read_all(volume, made) == made
        await volume.control("account-keep", {"name": "a1"})
        await fill(volume, 3, first=7)
        assert fragments_at(volume)["a1"] > 0


async def test_a_removed_account_is_empty_and_forgotten(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        made = await fill(volume, 4)
        gone = next(one.id for one in volume.parts.accounts if one.name == "a2")
        assert (await ask(volume, "account-remove", name="a2"))["state"] == "done"
        assert lying(place)["a2"] == {}
        assert [one.name for one in volume.parts.accounts] == ["a0", "a1", "a3"]
        entry = volume.parts.tree.control(b"a" + gone)
        assert entry is not None
        assert isinstance(entry.entry, AccountEntry)
        assert entry.entry.removed
        made |= await fill(volume, 2, first=4)
        await nothing_is_lost_or_left_over(volume, place)
        with pytest.raises(NoEntry):
            await volume.control("account-remove", {"name": "a2"})
    async with running(place.config, place.state) as volume:  # the configuration does not know yet
        assert len(volume.parts.accounts) == 3
        assert await read_all(volume, made) == made
        await flush(volume)
        assert lying(place)["a2"] == {}


async def test_an_account_that_does_not_answer_is_done_without(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        made = await fill(volume, 4)
        account = next(one for one in volume.parts.accounts if one.name == "a0")
        store = FaultyStore(account.store, seed=1)
        account.store = store
        store.inject(Fault(FaultKind.DOWN, VERBS))
        before = lying(place)["a0"]
        assert (await ask(volume, "account-remove", name="a0"))["state"] == "done"
        assert lying(place)["a0"] == before
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)


async def test_an_account_that_is_needed_is_not_removed(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=3)
    async with running(place.config, place.state) as volume:
        await fill(volume, 1)
        with pytest.raises(BadConfig, match="3 providers are needed, there are 2"):
            await volume.control("account-remove", {"name": "a0"})
        assert not any(account.leaving for account in volume.parts.accounts)


async def test_an_account_whose_content_fits_nowhere_is_not_removed(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    accounts = [replace(one, quota_bytes=Size(12 * MIB)) for one in place.config.accounts]
    accounts[3] = replace(accounts[3], quota_bytes=Size(3 * MIB))
    config = replace(place.config, accounts=tuple(accounts))
    async with running(config, place.state) as volume:
        await fill(volume, 10)
        with pytest.raises(NoSpace, match=r"bytes of data are stored; without a0 .* can hold"):
            await volume.control("account-remove", {"name": "a0"})


async def test_what_an_account_held_goes_to_the_one_that_replaces_it(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=5)
    fewer = replace(place.config, accounts=place.config.accounts[:4])
    async with running(fewer, place.state) as volume:
        made = await fill(volume, 6)
    async with running(place.config, place.state) as volume:
        before = fragments_at(volume)
        await ask(volume, "account-remove", name="a1", prefer="a4")
        after = fragments_at(volume)
        assert after["a4"] == before["a1"]
        assert {name: after[name] for name in ("a0", "a2", "a3")} == {
            name: before[name] for name in ("a0", "a2", "a3")
        }
        assert await read_all(volume, made) == made


async def test_a_recovered_device_does_without_an_account_too(tmp_path: Path) -> None:
    """The stripes are those of the lost machine: what is live of them is sealed again."""
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        await fill(volume, 4)
    state, config = await recover(place, tmp_path / "other")
    async with running(config, state) as volume:
        before = await dump(volume)
        assert (await ask(volume, "rebalance"))["moved_bytes"] == 0
        name = next(iter(fragments_at(volume)))
        gone = next(one.id for one in volume.parts.accounts if one.name == name)
        assert (await ask(volume, "account-remove", name=name))["state"] == "done"
        numbers = volume.namespace.numbers_under(1)
        rows = [volume.namespace.by_number(number) for number in numbers]
        used = {sid for row in rows for sid in volume.sids_of(row)}
        states = [volume.parts.blocks.stripe(sid) for sid in used]
        assert all(one is not None and one.full for one in states)
        assert all(one is not None and gone not in one.row.places for one in states)
        await volume.control("evict", {})
        assert await dump(volume) == before


async def test_what_cannot_be_read_any_more_holds_nothing_else_up_and_is_told(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        made = await fill(volume, 4)
        lost = lose(volume, place, b"file0")
        leaving = volume.parts.accounts.get(lost.places[0])
        assert leaving is not None
        await volume.control("account-drain", {"name": leaving.name})
        with trio.fail_after(60):
            while fragments_at(volume)[leaving.name] > 1:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(0.02)
        assert "0 of 2 fragments are good" in await complaint(volume)
        await volume.control("movement-stop", {})
        assert not leaving.leaving
        made.pop(b"file0")
        assert await read_all(volume, made) == made
