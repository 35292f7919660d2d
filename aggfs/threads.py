"""Calls that block, in worker threads; in a simulation, without threads.

What waits for a disk or a network in a system call goes through `in_thread`. What only computes
stays on the loop, a slice at a time: in Python threads do not compute side by side, they take
the interpreter from one another, and that costs more than the ciphers (decision 0006).

A simulation under a mock clock has no threads: one seed, one trace. `without_threads` switches
the run that it is called in; there is no way back.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable
from functools import partial
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
    """Run a blocking call in a worker thread; as `trio.to_thread.run_sync`, for jobs that ask
    nothing of trio. That names the thread anew for each job, which is two system calls, and each
    is a time that threads fight for the interpreter: 40 us of CPU time a job, and 25 without."""
    if _none.get():
        async with limiter or trio.CapacityLimiter(1):
            await trio.lowlevel.checkpoint()
            return job(*arguments)
    call = _Call(limiter or trio.to_thread.current_default_thread_limiter())
    await call.limiter.acquire_on_behalf_of(call)
    try:
        trio.lowlevel.start_thread_soon(partial(job, *arguments), call.ended)
    except BaseException:
        call.limiter.release_on_behalf_of(call)
        raise
    result: T = await trio.lowlevel.wait_task_rescheduled(
        call.abandon if abandon_on_cancel else _stay
    )
    return result


class _Call:
    """One job in a thread, and the task that waits for it; it holds its token to its end."""

    __slots__ = ("_task", "_token", "limiter")

    def __init__(self, limiter: trio.CapacityLimiter) -> None:
        self.limiter = limiter
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self._token = trio.lowlevel.current_trio_token()

    def ended(self, result: Any) -> None:
        """In the thread."""
        with contextlib.suppress(trio.RunFinishedError):  # it was abandoned
            self._token.run_sync_soon(self._tell, result)

    def _tell(self, result: Any) -> None:
        self.limiter.release_on_behalf_of(self)
        if self._task is not None:
            trio.lowlevel.reschedule(self._task, result)

    def abandon(self, _: object) -> trio.lowlevel.Abort:
        """The task is cancelled, and goes on at once."""
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def _stay(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


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
