"""Blocking drivers made async: slots, abandoned calls, buffers on loan."""

import threading

import pytest
import trio
import trio.testing

from aggfs.stores.threaded import Loan, LoanEnded, ThreadedStore, Threads
from tests.support.dictionary_driver import DictionaryDriver


class HangingDriver(DictionaryDriver):
    """Puts wait until `go` is set; what they were given is kept in `seen`."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.seen = []

    def put(self, key, data):
        self.seen.append(key)
        assert self.go.wait(20)
        super().put(key, data)


async def wait_until(condition):
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - abandoned threads tell nobody
            await trio.sleep(0.001)


@pytest.fixture
async def driver():
    driver = HangingDriver()
    yield driver
    driver.go.set()


async def test_a_cancelled_call_returns_at_once_and_keeps_its_slot(driver):
    store = ThreadedStore(driver, writes=1, reads=1)
    with trio.move_on_after(0.05) as scope:
        await store.put("one", [b"x"])
    assert scope.cancelled_caught
    assert store.busy == (1, 0)
    with trio.move_on_after(0.05) as scope:
        await store.put("two", [b"x"])
    assert scope.cancelled_caught
    assert driver.seen == ["one"]  # the second never began

    driver.go.set()
    await wait_until(lambda: store.busy == (0, 0))
    await store.put("three", [b"x"])
    assert await store.get("one") == b"x"


async def test_readers_go_on_while_all_writers_hang(driver):
    store = ThreadedStore(driver, writes=2, reads=1)
    driver.go.set()
    await store.put("key", [b"x"])
    driver.go.clear()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(store.put, f"{number}", [b"y"])
        await wait_until(lambda: store.busy == (2, 0))
        assert await store.get("key") == b"x"
        assert (await store.head("key")).size_bytes == 1
        driver.go.set()


async def test_an_account_uses_no_more_threads_than_its_slots(driver):
    store = ThreadedStore(driver, writes=3, reads=2)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(store.put, f"{number}", [b"x"])
        await wait_until(lambda: len(driver.seen) == 3)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(driver.seen) == 3
        driver.go.set()
    assert len(driver.seen) == 20


async def test_an_abandoned_put_that_owns_its_bytes_may_still_arrive_whole(driver):
    store = ThreadedStore(driver)
    buffer = bytearray(b"the right bytes")
    with trio.move_on_after(0.05):
        await store.put("key", [buffer])
    buffer[:] = b"quite the wrong"
    driver.go.set()
    await wait_until(lambda: store.busy == (0, 0))
    assert await store.get("key") == b"the right bytes"


def test_bytes_read_before_a_loan_ends_are_good_and_later_ones_are_not():
    buffer = bytearray(b"good")
    loan = Loan([buffer, b" bytes"])
    assert loan.joined() == b"good bytes"
    loan.end()
    buffer[:] = b"evil"
    with pytest.raises(LoanEnded):
        loan.joined()


async def test_an_error_in_the_thread_reaches_the_caller_and_frees_the_slot():
    threads = Threads(writes=1, reads=1)

    def fail():
        raise KeyError("told")

    for _ in range(3):
        with pytest.raises(KeyError, match="told"):
            await threads.write(fail)
    assert threads.busy == (0, 0)
