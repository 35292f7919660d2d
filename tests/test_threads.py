"""Computing on the loop: in slices, one task at a time, whoever else computes. Calls in threads."""

import threading
import time
from collections.abc import Generator

import pytest
import trio

from aggfs.threads import SLICE_SECONDS, in_slices, in_thread, list_in_slices


def busy(slices: int) -> Generator[None, None, int]:
    """Steps that take a whole slice each."""
    for _ in range(slices):
        until = time.perf_counter() + SLICE_SECONDS
        while time.perf_counter() < until:
            pass
        yield
    return slices


async def test_however_many_compute_the_loop_looks_around_after_each_slice():
    computed = 0
    most = 0

    def counted() -> Generator[None, None, None]:
        nonlocal computed
        for _ in busy(20):
            computed += 1
            yield

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(in_slices, counted())
        while computed < 100:
            before = computed
            await trio.lowlevel.checkpoint()
            most = max(most, computed - before)
    assert most <= 2  # the end of one, and the begin of the next


async def test_those_who_compute_take_turns():
    ended = []

    async def compute(slices: int) -> None:
        ended.append(await in_slices(busy(slices)))

    async with trio.open_nursery() as nursery:
        for slices in (30, 10, 1):
            nursery.start_soon(compute, slices)
    assert ended == [1, 10, 30]


async def test_who_fails_or_is_cancelled_gives_the_turn_back():
    def failing() -> Generator[None, None, None]:
        yield
        raise ValueError("on the way")

    with pytest.raises(ValueError, match="on the way"):
        await in_slices(failing())
    with trio.move_on_after(0) as scope:
        await in_slices(busy(3))
    assert scope.cancelled_caught
    assert await in_slices(busy(2)) == 2
    assert await list_in_slices(iter("abc")) == ["a", "b", "c"]


async def test_a_job_in_a_thread_tells_what_it_returns_or_raises():
    one, two, thread = await in_thread(lambda *given: (*given, threading.get_ident()), 1, 2)
    assert (one, two) == (1, 2)
    assert thread != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_an_abandoned_job_keeps_its_place_until_it_ends():
    limiter = trio.CapacityLimiter(1)
    begun, may_end = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        may_end.wait(20)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                await in_thread(job, limiter=limiter, abandon_on_cancel=True)

            nursery.start_soon(call)
            assert await in_thread(begun.wait, 20)
            scope.cancel()
    assert scope.cancelled_caught
    assert limiter.borrowed_tokens == 1
    may_end.set()
    with trio.fail_after(20):
        await in_thread(int, limiter=limiter)
    assert limiter.borrowed_tokens == 0


async def test_a_job_that_may_not_be_abandoned_is_waited_for():
    begun, may_end = threading.Event(), threading.Event()
    ended = []

    def job() -> None:
        begun.set()
        may_end.wait(20)
        ended.append(True)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(in_thread, job)
            assert await in_thread(begun.wait, 20)
            scope.cancel()
            may_end.set()
    assert ended
