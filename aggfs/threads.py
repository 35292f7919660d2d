"""Calls that block, in worker threads; in a simulation, without threads.

What waits for a disk or a network in a system call goes through `in_thread`. What only computes
stays on the loop, a slice at a time: in Python threads do not compute side by side, they take
the interpreter from one another, and that costs more than the ciphers (decision 0006).

A simulation under a mock clock has no threads: one seed, one trace. `without_threads` switches
the run that it is called in; there is no way back.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

_none = trio.lowlevel.RunVar("without threads", default=False)


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
