"""Stripes on their way into accounts that fail, and stripes that fail themselves."""

from collections.abc import Callable
from pathlib import Path

import trio

from aggfs.engine.arrivals import LATE_SECONDS
from aggfs.engine.volume import Volume
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from aggfs.threads import without_threads
from tests.support.running import flush, make_volume, new_file, running
from tests.support.stripes import content


def faulty(volume: Volume) -> list[FaultyStore]:
    """Faults can be put before every account from now on."""
    stores = []
    for account in volume.parts.accounts:
        store = FaultyStore(account.store, seed=1)
        account.store = store
        stores.append(store)
    return stores


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.02)


async def test_a_staged_stripe_that_is_damaged_holds_no_other_up(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state, sound=False) as volume:
        stores = faulty(volume)
        for store in stores:
            store.inject(Fault(FaultKind.DOWN, WRITES))
        rows = []
        for number in range(6):
            rows.append(await new_file(volume, 1, b"file%d" % number, content(5000, number)))
            await volume.parts.flusher.flush([rows[-1].number], volume._uploads)
        blocks = volume.parts.blocks
        assert len(blocks.unfinished()) == 6
        lost = sorted(blocks.unfinished())[2]
        (place.state / "staging" / f"{lost.hex()}.staged").write_bytes(b"rubbish")
        for store in stores:
            store.heal()
        await until(lambda: len(blocks.unfinished()) == 1)
        assert blocks.unfinished() == [lost]
        status = await volume.control("status", {})
        assert any("cannot be sent" in warning for warning in status["warnings"])


async def test_what_a_put_without_an_answer_left_is_deleted_when_its_account_is_back(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, accounts=4)
    async with running(place.config, place.state) as volume:
        for one in volume.parts.accounts:
            one.arrivals.late_seconds = 0.5
        away = faulty(volume)[0]
        away.inject(Fault(FaultKind.RESET, WRITES, applied=True))
        away.inject(Fault(FaultKind.DOWN, frozenset({"delete"})))
        for number in range(8):
            row = await new_file(volume, 1, b"file%d" % number, content(300_000, number))
            await volume.parts.flusher.flush([row.number], volume._uploads)
        stripes = volume.parts.blocks.stripes
        await until(lambda: all(state.full for state in stripes()))
        left = [state for state in stripes() if state.attempts]
        assert left
        away.heal()
        await until(lambda: not volume.parts.blocks.unfinished())
        await flush(volume)
        account = place.config.accounts[0]
        for state in left:
            for index, where in state.attempts:
                key = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, index, where)
                assert where == account.id
                assert not (Path(account.path) / key).exists()


async def test_what_a_former_run_gave_up_may_arrive_later_and_is_deleted_then(
    tmp_path: Path, autojump_clock: object
) -> None:
    without_threads()
    place = await make_volume(tmp_path, accounts=4)
    account = place.config.accounts[0]
    async with running(place.config, place.state) as volume:
        faulty(volume)[0].inject(Fault(FaultKind.DOWN, WRITES))
        for number in range(8):
            row = await new_file(volume, 1, b"file%d" % number, content(300_000, number))
            await volume.parts.flusher.flush([row.number], volume._uploads)
        stripes = volume.parts.blocks.stripes
        await until(lambda: all(state.full for state in stripes()))
        [state, *_] = [state for state in stripes() if state.attempts]
        [(index, where)] = state.attempts
        assert where == account.id
        key = volume.parts.keys.fragment_name(state.row.epoch, state.row.sid, index, where)
    async with running(place.config, place.state) as volume:
        await trio.sleep(LATE_SECONDS / 2)
        late = Path(account.path) / key
        late.parent.mkdir(exist_ok=True)
        late.write_bytes(b"on its way for a minute")
        blocks = volume.parts.blocks
        await until(lambda: not blocks.unfinished(), 2 * LATE_SECONDS)
        assert not late.exists()


async def test_a_flush_of_one_file_ends_while_others_keep_writing(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for store in faulty(volume):
            store.inject(Fault(FaultKind.SLOW, WRITES, seconds=0.2, jitter_seconds=0.2))

        async def write_on(lane: int) -> None:
            for number in range(1000):
                name = b"%d of %d" % (number, lane)
                row = await new_file(volume, 1, name, content(5000, number))
                await volume.parts.flusher.flush([row.number], volume._uploads)
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            for lane in range(3):
                nursery.start_soon(write_on, lane)
            await trio.sleep(1)
            await new_file(volume, 1, b"wanted", content(5000))
            with trio.fail_after(15):
                await volume.control("flush", {"path": "/wanted"})
            nursery.cancel_scope.cancel()


async def test_new_stripes_do_not_wait_behind_those_of_a_lost_account(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        stores = faulty(volume)
        stores[0].inject(Fault(FaultKind.DOWN, WRITES))
        stripes, blocks = volume.parts.stripes, volume.parts.blocks
        for number in range(150):
            row = await new_file(volume, 1, b"old%d" % number, content(2000, number))
            await volume.parts.flusher.flush([row.number], volume._uploads)
        await until(lambda: all(map(stripes.is_stored, blocks.unfinished())))
        for store in stores[1:]:
            store.inject(Fault(FaultKind.DOWN, WRITES))
        for number in range(6):
            row = await new_file(volume, 1, b"new%d" % number, content(2000, number))
            await volume.parts.flusher.flush([row.number], volume._uploads)
        assert not all(map(stripes.is_stored, blocks.unfinished()))
        for store in stores[1:]:
            store.heal()
        await until(lambda: all(map(stripes.is_stored, blocks.unfinished())))


async def test_an_account_that_was_full_is_used_again_when_it_has_room(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        full = faulty(volume)[0]
        full.inject(Fault(FaultKind.QUOTA, WRITES))
        row = await new_file(volume, 1, b"file", content(5000))
        await volume.parts.flusher.flush([row.number], volume._uploads)
        (account, *_) = volume.parts.accounts
        await until(lambda: account.full)
        full.heal()
        await volume.parts.accounts.ask_space()
        assert account.full
        account.full_at -= 1000
        await volume.parts.accounts.ask_space()
        await until(lambda: not volume.parts.blocks.unfinished(), 40)
