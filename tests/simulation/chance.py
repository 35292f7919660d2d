"""Simulated time and chance: one seed, one run, to the last request.

What makes a run of trio depend on anything but its program is taken away here: the clock jumps
from deadline to deadline, batches of tasks that are ready are shuffled by a generator of our seed
(trio shuffles them by one of its own; `_ALLOW_DETERMINISTIC_SCHEDULING` makes it sort them first,
which is what trio does for Hypothesis), and nothing runs in a thread. Time of day, random bytes
and the jitter of retries come from the seed as well, see `world`.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio
from trio._core import _run as trio_run
from trio.testing import MockClock

from aggfs.assemble.world import World
from aggfs.threads import without_threads

Result = TypeVar("Result")

FIRST_DAY_NS = 1_800_000_000 * 10**9
DAY_NS = 86_400 * 10**9


class Chance(random.Random):
    """All chance of one part of a simulation."""

    def __init__(self, seed: int, part: str) -> None:
        super().__init__(f"{seed} {part}")

    def once_in(self, times: float) -> bool:
        """True once in so many calls."""
        return self.random() * times < 1

    def between(self, low: float, high: float) -> float:
        """A number whose size is as likely near `low` as near `high`: log-uniform."""
        return low * (high / low) ** self.random()


class WallClock:
    """The time of day, which may be wrong: `skew_ns` is what it is off by."""

    def __init__(self) -> None:
        self.skew_ns = 0

    def __call__(self) -> int:
        return FIRST_DAY_NS + self.skew_ns + int(trio.current_time() * 1e9)


def new_world(seed: int, part: str, wall: WallClock) -> World:
    """Time and chance for a volume."""
    secrets, jitter = Chance(seed, f"{part} secrets"), Chance(seed, f"{part} jitter")
    return World(wall, secrets.randbytes, jitter.random)


def run(seed: int, main: Callable[[], Awaitable[Result]]) -> Result:
    """Run `main` as a simulation of this seed: hours pass in seconds."""

    async def without() -> Result:
        without_threads()
        return await main()

    with _seeded_scheduler(seed):
        return trio.run(without, clock=MockClock(autojump_threshold=0))


@contextmanager
def _seeded_scheduler(seed: int) -> Iterator[None]:
    before, sorted_first = trio_run._r.getstate(), trio_run._ALLOW_DETERMINISTIC_SCHEDULING
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = sorted_first
        trio_run._r.setstate(before)
