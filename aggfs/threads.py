"""Calls that block, in worker threads; in a simulation, without threads.

What waits for a disk or a network in a system call goes through `in_thread`. What only computes
stays on the loop, a slice at a time: in Python threads do not compute side by side, they take
the interpreter from one another, and that costs more than the ciphers (decision 0006).

A simulation under a mock clock has no threads: one seed, one trace. `without_threads` switches
the run that it is called in; there is no way back.
"""

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

SLICE_SECONDS = 0.001

_none = trio.lowlevel.RunVar("without threads", default=False)
_computing: trio.lowlevel.RunVar[trio.Lock] = trio.lowlevel.RunVar("who computes")


async def in_thread(
    job: Callable[..., T],
    *arguments: Any,
    limiter: trio.CapacityLimiter | None = None,
    abandon_on_cancel: bool = False,
) -> T:
    """Run a blocking call in a worker thread; as `trio.to_thread.run_sync`."""
    if _none.get():
        async with limiter or trio.CapacityLimiter(1):
            await trio.lowlevel.checkpoint()
            return job(*arguments)
    return await trio.to_thread.run_sync(
        job, *arguments, limiter=limiter, abandon_on_cancel=abandon_on_cancel
    )


def without_threads() -> None:
    """From now on, `in_thread` of this trio run calls in place."""
    _none.set(True)


async def in_slices(steps: Generator[object, None, T]) -> T:
    """Compute on the loop, and let others have their turn after each millisecond or so (in a
    simulation: after each step); what the steps return, or raise. Cancelled, it stops between
    two steps.

    However many compute, one slice is all that stands between two looks for requests: who
    computes takes turns with the others.
    """
    each = _none.get()
    turn = _turn()
    while True:
        try:
            turn.acquire_nowait()
        except trio.WouldBlock:
            await turn.acquire()
        try:
            until = time.perf_counter() + SLICE_SECONDS
            while True:
                next(steps)
                if each or time.perf_counter() >= until:
                    break
            await trio.lowlevel.checkpoint()  # the turn in hand: nobody else computes before that
        except StopIteration as done:
            found: T = done.value
            return found
        finally:
            turn.release()


def _turn() -> trio.Lock:
    """The turn to compute, of this trio run."""
    try:
        return _computing.get()
    except LookupError:
        _computing.set(trio.Lock())
        return _computing.get()


async def list_in_slices(each: Iterable[T]) -> list[T]:
    """The list of what is computed one after the other, as `in_slices`."""

    def steps() -> Generator[None, None, list[T]]:
        found: list[T] = []
        for one in each:
            found.append(one)
            yield
        return found

    return await in_slices(steps())
