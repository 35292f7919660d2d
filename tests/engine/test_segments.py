"""Segments of the journal on their way into accounts that fail, come and go."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.assemble import making
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.slots import recovery_words
from aggfs.engine.accounts import Account
from aggfs.engine.journal import publish
from aggfs.engine.volume import Volume
from aggfs.engine.writing.upload import Spreading
from aggfs.model import AccountId, Stamp
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.threads import without_threads
from tests.support.running import (
    Place,
    dump,
    fill,
    flush,
    make_volume,
    new_file,
    recovered_dump,
    running,
)


def faulty(volume: Volume) -> list[FaultyStore]:
    """Faults can be put before every account from now on."""
    stores = []
    for account in volume.parts.accounts:
        store = FaultyStore(account.store, seed=1)
        account.store = store
        stores.append(store)
    return stores


def account(number: int, provider: str) -> Account:
    store = MemoryStore(MemoryObjects(str(number)))
    return Account(AccountId(number.to_bytes(8)), str(number), "memory", provider, 0, store, dict)


# --- few accounts ---------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=8),
    st.integers(2, 6),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 20),
)
def test_records_of_the_journal_are_spread_as_safely_as_data(held, k, more, q, turn):
    n, q = k + more, min(q, k - 1, more)
    if len(held) * q < n:
        held = held * n
    numbers = iter(range(100))
    accounts = [
        account(number, f"p{provider}")
        for provider, count in enumerate(held)
        for number in islice(numbers, count)
    ]
    spread = Spreading(k, n, 0, q).of(accounts, turn=turn)
    at = [home.provider for home in spread.homes]
    counts = sorted(at.count(provider) for provider in set(at))
    assert len(set(map(id, spread.homes))) == len(spread.homes) <= n
    assert counts[-1] <= min(q, spread.k - 1)
    vanishing = more // q
    assert sum(counts[: len(counts) - vanishing]) >= spread.k


async def two_of_each_provider(root: Path, accounts_of_each: int) -> Place:
    """A volume of three providers that may hold two of six fragments each."""
    place = await make_volume(root / "made", k=2, n=3)  # for its words
    settings = []
    for number in range(3 * accounts_of_each):
        path = root / f"account{number}"
        path.mkdir()
        settings.append(
            replace(
                place.config.accounts[0],
                id=AccountId(os.urandom(8)),
                name=f"a{number}",
                provider=f"p{number % 3}",
                path=str(path),
            )
        )
    used = replace(place.config.classes[0], k=4, n=6)
    config = replace(
        place.config,
        classes=(used,),
        accounts=tuple(settings),
        fragments_per_provider=2,
    )
    state = root / "state"
    state.mkdir()
    await making.create_volume(config, str(state), secrets=[recovery_words(place.words)])
    return Place(root, config, state, place.words)


@pytest.mark.parametrize("accounts_of_each", [1, 2])
@pytest.mark.parametrize("with_checkpoint", [False, True])
async def test_a_volume_with_two_fragments_a_provider_survives_the_loss_of_one(
    tmp_path: Path, accounts_of_each: int, with_checkpoint: bool
) -> None:
    place = await two_of_each_provider(tmp_path, accounts_of_each)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        if with_checkpoint:
            await volume.control("checkpoint", {})
        before = await dump(volume)
    left = [
        replace(one, id=AccountId(bytes(8)))
        for one in place.config.accounts
        if one.provider != "p1"
    ]
    assert await recovered_dump(place, tmp_path / "second", left) == before


# --- accounts that are away -----------------------------------------------------------------------


async def test_publishing_does_not_get_slower_while_an_account_is_away(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        stores = faulty(volume)
        stores[0].inject(Fault(FaultKind.DOWN, WRITES))
        for number in range(60):
            await new_file(volume, 1, b"file%d" % number)
            await volume.parts.publisher.publish()
        assert len(volume.parts.publisher.pending()) >= 60
        assert stores[0].hits[FaultKind.DOWN] < 60 * 6
        assert volume.parts.publisher.state.published[1] >= 60
        stores[0].heal()
        with trio.fail_after(30):
            while volume.parts.publisher.pending():
                await volume.parts.publisher.publish()


async def test_an_account_that_joins_takes_no_fragment_of_a_segment_that_is_under_way(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        stores = faulty(volume)
        await flush(volume)
        stores[0].inject(Fault(FaultKind.DOWN, WRITES))
        await new_file(volume, 1, b"file")
        await volume.parts.publisher.publish()
        (pending,) = volume.parts.publisher.pending()
        joined = MemoryObjects("joined")
        for number in (0, (1 << 64) - 1):  # before all others, and after
            other = account(number, f"new {number}")
            other.store = MemoryStore(joined)
            volume.parts.accounts.add(other)
        stores[0].heal()
        with trio.fail_after(30):
            while volume.parts.publisher.pending():
                await volume.parts.publisher.publish()
        keys, device = volume.parts.keys, place.config.device
        indices = []
        for one in place.config.accounts:
            name = keys.segment_name(1, device, pending.chain, pending.sequence, one.id)
            data = (Path(one.path) / name).read_bytes()
            indices.append(open_header_of_fragment(keys, data).index)
        assert sorted(indices) == [0, 1, 2]


async def test_what_a_full_account_does_not_take_of_a_segment_goes_elsewhere(
    tmp_path: Path, autojump_clock: object
) -> None:
    without_threads()
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        await flush(volume)
        stores = faulty(volume)
        stores[0].inject(Fault(FaultKind.QUOTA, WRITES))
        full = place.config.accounts[0].id
        (crowded,) = (one for one in volume.parts.accounts if one.id == full)
        for number in range(4):
            crowded.full = False  # nobody knows yet
            await new_file(volume, 1, b"file%d" % number)
            await volume.parts.publisher.publish()
        (late, *_) = [one for one in volume.parts.publisher.pending() if full in one.homes]
        with trio.fail_after(300):
            while volume.parts.publisher.pending():  # noqa: ASYNC110 - nobody tells
                await trio.sleep(1)
        keys, device = volume.parts.keys, place.config.device
        indices = []
        for one in place.config.accounts:
            name = keys.segment_name(1, device, late.chain, late.sequence, one.id)
            path = Path(one.path) / name
            assert path.exists() == (one.id != full)
            known = volume.parts.accounts.ledger.object_bytes(one.id, name)
            assert (known is None) == (one.id == full)
            if path.exists():
                indices.append(open_header_of_fragment(keys, path.read_bytes()).index)
        assert sorted(indices) == [0, 1, 2]
        before = stores[0].hits[FaultKind.QUOTA]
        await new_file(volume, 1, b"last")
        await volume.parts.publisher._segments.put_wanted()
        assert stores[0].hits[FaultKind.QUOTA] == before  # new ones do not even try
        assert not volume.parts.publisher.pending()


# --- the promise of the head ----------------------------------------------------------------------


async def test_no_start_goes_back_behind_the_floor_that_a_head_has_promised(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await flush(volume)
        publisher = volume.parts.publisher
        clock = publisher._writer.clock
        clock.observe(Stamp(clock.last + (3_600_000 << 16), bytes(8)))
        publisher._heads.clear()
        await publisher.publish()
        promised = clock.last
    async with running(place.config, place.state) as volume:
        assert publish.last_clock(volume.parts.database) >= promised
        assert volume.parts.publisher._writer.clock.last >= promised


async def test_a_head_is_put_once_more_where_an_older_one_may_still_arrive(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        stores = faulty(volume)
        await flush(volume)
        publisher = volume.parts.publisher
        (account, *_) = volume.parts.accounts
        name = volume.parts.keys.head_name(1, place.config.device, account.id)
        path = Path(place.config.accounts[0].path) / name
        older = path.read_bytes()
        stores[0].inject(Fault(FaultKind.DOWN, WRITES))
        await new_file(volume, 1, b"file")
        await publisher.publish()
        stores[0].heal()
        await publisher.publish()
        newer = path.read_bytes()
        assert newer != older
        path.write_bytes(older)  # the put that was given up arrives
        await publisher.publish()
        assert path.read_bytes() == older
        publisher._once_more[account.id] -= publish.GRACE_SECONDS
        await publisher.publish()
        assert path.read_bytes() != older
        assert not publisher._once_more
