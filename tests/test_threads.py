"""Computing on the loop: in slices, one task at a time, whoever else computes."""

import time
from collections.abc import Generator

import pytest
import trio

from aggfs.threads import SLICE_SECONDS, in_slices, list_in_slices


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
