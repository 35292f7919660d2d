"""Fragments on their way from account to account."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from aggfs.cache.blocks import StripeState
from aggfs.engine.arrivals import LATE_SECONDS
from aggfs.engine.moves.move import Mover
from aggfs.engine.volume import Volume
from aggfs.engine.works import Works
from aggfs.errors import Unreachable
from aggfs.model import AccountId
from aggfs.placement.rebalance import Move
from aggfs.stores.faulty import READS, WRITES, Fault, FaultKind, FaultyStore
from aggfs.threads import without_threads
from tests.support.running import Place, flush, make_volume, new_file, running
from tests.support.stripes import content

DATA = content(3_000_000, 7)


def objects(place: Place) -> dict[str, dict[str, bytes]]:
    """Everything that lies in each account."""
    return {
        account.name: {
            str(path.relative_to(account.path)): path.read_bytes()
            for path in Path(account.path).rglob("*")
            if path.is_file()
        }
        for account in place.config.accounts
    }


def fragments(volume: Volume, state: StripeState, place: Place) -> dict[tuple[int, str], bytes]:
    """(index, account) -> bytes, of every fragment of a stripe that lies anywhere."""
    found = {}
    for name, held in objects(place).items():
        account = next(one for one in place.config.accounts if one.name == name)
        for index in range(len(state.row.places)):
            key = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, index, account.id)
            if key in held:
                found[index, name] = held[key]
    return found


async def filled(volume: Volume) -> StripeState:
    """One file of one stripe, in the accounts."""
    await new_file(volume, 1, b"file", DATA)
    await flush(volume)
    (state,) = volume.parts.blocks.stripes()
    with trio.fail_after(10):
        while state.row.sid in volume.parts.staging:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.01)
    return state


def mover_of(volume: Volume) -> Mover:
    return Mover(volume.parts, Works())


def free_account(volume: Volume, state: StripeState) -> AccountId:
    """An account that has nothing of the stripe."""
    return next(one.id for one in volume.parts.accounts if one.id not in state.row.places)


def a_move(volume: Volume, state: StripeState, index: int = 0) -> Move:
    source = AccountId(state.row.places[index])
    return Move(state.row.sid, index, source, free_account(volume, state), 0)


def now(volume: Volume, state: StripeState) -> StripeState:
    found = volume.parts.blocks.stripe(state.row.sid)
    assert found is not None
    return found


def faulty(volume: Volume, account_id: bytes) -> FaultyStore:
    account = volume.parts.accounts.get(account_id)
    assert account is not None
    store = FaultyStore(account.store, seed=1)
    account.store = store
    return store


async def read(volume: Volume) -> bytes:
    row = volume.namespace.lookup(1, b"file")
    await volume.parts.local.evict([row.number])
    return bytes(await volume.files.read(row.number, 0, len(DATA)))


def ledger_equals_what_lies_there(volume: Volume, place: Place) -> None:
    held = objects(place)
    for account in volume.parts.accounts:
        listed = sum(map(len, held[account.name].values()))
        assert listed == volume.parts.accounts.ledger.used_bytes(account.id), account.name


async def test_a_moved_fragment_is_the_same_bytes_at_its_new_place_only(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        before = fragments(volume, state, place)
        mover, move = mover_of(volume), a_move(volume, state)
        assert await mover.move(move)
        assert now(volume, state).row.places[0] == move.target
        both = fragments(volume, state, place)
        assert Counter(index for index, _ in both) == {0: 2, 1: 1, 2: 1}
        assert (await volume.control("check", {}))["findings"] == []
        assert await mover.settle() == 0
        after = fragments(volume, state, place)
        assert sorted(after.values()) == sorted(before.values())
        assert now(volume, state).full
        assert not now(volume, state).moving
        assert await read(volume) == DATA
        await flush(volume)
        ledger_equals_what_lies_there(volume, place)


async def test_the_old_copy_goes_only_when_the_accounts_know_the_new_place(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        mover, move = mover_of(volume), a_move(volume, state)
        assert await mover.move(move)
        stores = [faulty(volume, one.id) for one in volume.parts.accounts]
        for store in stores:
            store.inject(Fault(FaultKind.DOWN, WRITES))
        with pytest.raises(Unreachable):
            await mover.settle()
        assert len(fragments(volume, state, place)) == 4
        assert now(volume, state).moving == ((0, move.source),)


@pytest.mark.parametrize("trouble", ["away", "damaged", "lost"])
async def test_what_cannot_be_copied_is_made_again(tmp_path: Path, trouble: str) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        before = fragments(volume, state, place)
        mover, move = mover_of(volume), a_move(volume, state, 1)
        account = volume.parts.accounts.get(move.source)
        assert account is not None
        key = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, 1, move.source)
        path = Path(account.store.place.removeprefix("file://")) / key
        if trouble == "away":
            faulty(volume, move.source).inject(Fault(FaultKind.DOWN, READS))
        elif trouble == "damaged":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1  # no cell, but the tail
            path.write_bytes(data)
        else:
            path.unlink()
        assert await mover.move(move)
        await mover.settle()
        target = volume.parts.accounts.get(move.target)
        assert target is not None
        assert fragments(volume, state, place)[1, target.name] == before[1, account.name]
        assert await read(volume) == DATA


async def test_a_provider_never_has_more_than_q_fragments_not_even_for_a_moment(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, accounts=5)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        mover, first = mover_of(volume), a_move(volume, state)
        assert await mover.move(first)
        state = now(volume, state)
        back = Move(state.row.sid, 1, AccountId(state.row.places[1]), first.source, 0)
        assert not await mover.move(back)  # its old copy of fragment 0 is still there
        await mover.settle()
        assert await mover.move(back)
        taken = Move(state.row.sid, 2, AccountId(state.row.places[2]), first.target, 0)
        assert not await mover.move(taken)


async def test_an_account_that_does_not_take_it_changes_nothing(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        mover, move = mover_of(volume), a_move(volume, state)
        faulty(volume, move.target).inject(Fault(FaultKind.DOWN, WRITES))
        with pytest.raises(Unreachable):
            await mover.move(move)
        assert now(volume, state).row.places == state.row.places
        assert now(volume, state).moving == ((0, move.target),)  # it may be there
        assert await mover.settle() == 1  # and may still arrive


async def test_what_a_stop_left_beside_a_place_is_deleted_when_it_cannot_arrive_any_more(
    tmp_path: Path, autojump_clock: object
) -> None:
    without_threads()
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        before = fragments(volume, state, place)
        move = a_move(volume, state)
        store = faulty(volume, move.target)
        store.inject(Fault(FaultKind.HANG, WRITES))
        with trio.move_on_after(0.5):
            await mover_of(volume).move(move)
        other = a_move(volume, state, 1)
        assert now(volume, state).moving == ((0, move.target),)
        assert not await mover_of(volume).move(other)  # its provider may have fragment 0
    async with running(place.config, place.state) as volume:
        mover = mover_of(volume)
        await trio.sleep(LATE_SECONDS)  # open for long, and nobody asked
        assert await mover.settle() == 1
        target = volume.parts.accounts.get(move.target)
        assert target is not None
        key = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, 0, target.id)
        late = Path(target.store.place.removeprefix("file://")) / key
        late.parent.mkdir(exist_ok=True)
        late.write_bytes(b"on its way for two minutes")
        await trio.sleep(LATE_SECONDS)
        assert await mover.settle() == 0
        assert not now(volume, state).moving
        assert fragments(volume, state, place) == before
        await flush(volume)
        ledger_equals_what_lies_there(volume, place)


async def test_a_read_that_began_before_a_move_still_finds_the_old_places(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=5)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        row = volume.namespace.lookup(1, b"file")
        await volume.parts.local.evict([row.number])
        stores = [faulty(volume, account) for account in state.row.places]
        for store in stores:
            store.inject(Fault(FaultKind.SLOW, frozenset({"get_range"}), seconds=5.0))
        mover = Mover(volume.parts, volume.parts.readers)
        read: list[bytes] = []

        async def read_it() -> None:
            read.append(bytes(await volume.files.read(row.number, 0, len(DATA))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_it)
            with trio.fail_after(10):
                while not any(store.hits[FaultKind.SLOW] for store in stores):
                    await trio.lowlevel.checkpoint()
            free = [one.id for one in volume.parts.accounts if one.id not in state.row.places]
            for index, target in enumerate(free):
                source = AccountId(state.row.places[index])
                assert await mover.move(Move(state.row.sid, index, source, target, 0))
            with trio.move_on_after(2):
                await mover.settle()
            assert len(fragments(volume, state, place)) == 5
        assert read == [DATA]
        assert await mover.settle() == 0
        assert now(volume, state).full
        assert len(fragments(volume, state, place)) == 3


async def test_an_account_without_room_gets_nothing(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        state = await filled(volume)
        mover, move = mover_of(volume), a_move(volume, state)
        target = volume.parts.accounts.get(move.target)
        assert target is not None
        target.full = True
        assert not await mover.move(move)
        assert now(volume, state) == state
        target.full = False
        assert await mover.move(move)
