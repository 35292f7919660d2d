"""What may still come to an account that somebody wants to delete from."""

import math

import pytest
import trio

from aggfs.engine.accounts import Account
from aggfs.engine.arrivals import LATE_SECONDS
from aggfs.errors import Unreachable
from aggfs.model import AccountId
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore

HANG = Fault(FaultKind.HANG, WRITES)
DOWN = Fault(FaultKind.DOWN, WRITES)


def account_behind(*faults: Fault) -> tuple[Account, FaultyStore]:
    store = FaultyStore(MemoryStore(MemoryObjects("a")), seed=1)
    for fault in faults:
        store.inject(fault)
    account = Account(AccountId(bytes(8)), "a", "memory", "p", 0, store, dict)
    return account, store


async def test_what_was_put_is_deleted_at_once(autojump_clock: object) -> None:
    account, _ = account_behind()
    await account.put("key", [b"x"])
    assert await account.delete_for_good("key")


async def test_a_put_under_way_is_waited_for_however_long_it_takes(autojump_clock: object) -> None:
    account, _ = account_behind(HANG)
    account.put_seconds = math.inf
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.put, "key", [b"x"])
        await trio.sleep(10 * LATE_SECONDS)
        assert not await account.delete_for_good("key")
        assert await account.delete_for_good("another")
        nursery.cancel_scope.cancel()
    await trio.sleep(LATE_SECONDS - 1)
    assert not await account.delete_for_good("key")  # it was given up just before
    await trio.sleep(1)
    assert await account.delete_for_good("key")


async def test_a_put_that_failed_may_arrive_though_another_one_was_answered(
    autojump_clock: object,
) -> None:
    account, store = account_behind(DOWN)
    with pytest.raises(Unreachable):
        await account.put("key", [b"x"])
    store.heal()
    await account.put("key", [b"x"])
    assert not await account.delete_for_good("key")
    await trio.sleep(LATE_SECONDS)
    assert await account.delete_for_good("key")


async def test_each_failure_counts_from_its_own_end(autojump_clock: object) -> None:
    account, _ = account_behind(DOWN)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await account.put("key", [b"x"])
        await trio.sleep(LATE_SECONDS / 2)
    assert account.arrivals.may_come("key")
    with pytest.raises(Unreachable):
        await account.put("another", [b"x"])  # what is over is forgotten then
    await trio.sleep(LATE_SECONDS / 2)
    assert not account.arrivals.may_come("key")
    assert account.arrivals.may_come("another")


async def test_puts_of_a_former_run_are_over_a_while_after_the_first_question(
    autojump_clock: object,
) -> None:
    account, _ = account_behind()
    await trio.sleep(LATE_SECONDS)
    assert account.arrivals.former_may_come()
    await trio.sleep(LATE_SECONDS)
    assert not account.arrivals.former_may_come()
