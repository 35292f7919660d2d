"""Putting fragments: how long the slow are waited for."""

import pytest
import trio

from aggfs.engine.accounts import PUT_LIMIT_SECONDS, PUT_SECONDS, Account
from aggfs.engine.writing.upload import LITTLE_PATIENCE_SECONDS, PATIENCE_SECONDS, Parcel, put_all
from aggfs.errors import LocalDiskFailed, Unreachable
from aggfs.model import AccountId
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore


def account(name: str, *, hangs: bool = False, healthy: bool = True) -> Account:
    store = FaultyStore(MemoryStore(MemoryObjects(name)), seed=1)
    if hangs:
        store.inject(Fault(FaultKind.HANG))
    made = Account(AccountId(name.encode()), name, "memory", name, 0, store, dict)
    if not healthy:
        made.failed(Unreachable("no answer"))
    return made


async def put(*accounts: Account, enough: int) -> tuple[set[str], float]:
    """Whose puts were stored, and after how long all was over."""
    stored: set[str] = set()
    parcels = [Parcel(index, one, "key", [b"data"]) for index, one in enumerate(accounts)]
    began = trio.current_time()
    await put_all(
        parcels, lambda parcel: stored.add(parcel.account.name), lambda: len(stored) >= enough
    )
    return stored, trio.current_time() - began


async def test_a_hanging_account_is_waited_for_a_while_once_enough_is_stored(autojump_clock):
    hanging = account("c", hangs=True)
    stored, seconds = await put(account("a"), account("b"), hanging, enough=2)
    assert stored == {"a", "b"}
    assert seconds == pytest.approx(PATIENCE_SECONDS, abs=0.1)
    assert not hanging.healthy


async def test_an_account_that_hung_before_gets_little_more(autojump_clock):
    hanging = account("c", hangs=True, healthy=False)
    stored, seconds = await put(account("a"), account("b"), hanging, enough=2)
    assert stored == {"a", "b"}
    assert seconds == pytest.approx(LITTLE_PATIENCE_SECONDS, abs=0.1)


async def test_what_is_only_caught_up_with_does_not_wait_for_the_silent(autojump_clock):
    _, seconds = await put(account("c", hangs=True, healthy=False), enough=0)
    assert seconds == pytest.approx(LITTLE_PATIENCE_SECONDS, abs=0.1)


async def test_an_account_that_is_back_is_healthy_again(autojump_clock):
    back = account("c", healthy=False)
    stored, _ = await put(back, enough=0)
    assert stored == {"c"}
    assert back.healthy


async def test_a_line_that_needs_longer_gets_longer_the_next_time(autojump_clock):
    slow = account("c")
    slow.store.inject(Fault(FaultKind.SLOW, seconds=1.5 * PUT_SECONDS))
    stored, seconds = await put(slow, enough=1)
    assert (stored, seconds) == (set(), pytest.approx(PUT_SECONDS))
    stored, seconds = await put(slow, enough=1)
    assert (stored, seconds) == ({"c"}, pytest.approx(1.5 * PUT_SECONDS))


async def test_however_often_an_account_hangs_the_wait_has_an_end(autojump_clock):
    hanging = account("c", hangs=True)
    for _ in range(20):
        _, seconds = await put(hanging, enough=1)
    assert seconds == pytest.approx(PUT_LIMIT_SECONDS)


async def test_an_account_that_is_quick_again_is_waited_for_as_before(autojump_clock):
    back = account("c")
    back.store.inject(Fault(FaultKind.HANG))
    await put(back, enough=1)
    back.store.heal()
    for _ in range(10):
        await put(back, enough=1)
    back.store.inject(Fault(FaultKind.HANG))
    _, seconds = await put(back, enough=1)
    assert seconds == pytest.approx(PUT_SECONDS)


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_disk_that_takes_no_row_is_told_when_all_is_over_and_a_stop_is_a_stop(
    autojump_clock, stopped
):
    def refuse(parcel: Parcel) -> None:
        if stopped:
            scope.cancel()
        raise LocalDiskFailed("the disk")

    parcels = [
        Parcel(index, one, "key", [b"data"])
        for index, one in enumerate((account("a"), account("b", hangs=True)))
    ]
    told = None
    with trio.CancelScope() as scope:
        try:
            await put_all(parcels, refuse, lambda: True)
        except LocalDiskFailed as error:
            told = error
    assert (told is None) == stopped
