"""What goes wrong at the clouds, when, and for how long.

Most of the time at most so many providers are in trouble as a volume survives without an error; now
and then there are storms, and then errors are allowed, and wrong bytes are not.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import trio

from aggfs.stores.faulty import Fault, FaultKind
from tests.simulation.chance import Chance
from tests.simulation.clouds import Cloud

PAUSE_SECONDS = 8.0  # on average, between two changes of weather
SHORTEST_SECONDS, LONGEST_SECONDS = 5.0, 1500.0
STORM_ONCE_IN = 16.0
FORGOTTEN_ONCE_IN = 6.0  # of the accounts that forget writes, so many never show them again
PUT = frozenset({"put", "create"})


@dataclass(frozen=True)
class Weather:
    """Trouble for these clouds. `survivable`: how many providers may be in trouble at once;
    `fragments`: the keys of what may be forgotten for good, since a repair makes it again."""

    clouds: Sequence[Cloud]
    survivable: int
    fragments: Container[str]
    chance: Chance

    async def run(self) -> None:
        """Bad weather until it is cancelled; then all is well at once."""
        try:
            await self._change()
        finally:
            for cloud in self.clouds:
                cloud.heal()
                cloud.remember()

    async def _change(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self.chance.expovariate(1 / PAUSE_SECONDS))
                if self.chance.once_in(STORM_ONCE_IN):
                    some = self.chance.sample(list(self.clouds), self.survivable + 1)
                    seconds = self.chance.between(SHORTEST_SECONDS, LONGEST_SECONDS / 3)
                    for cloud in some:
                        nursery.start_soon(self._trouble, cloud, seconds, self._honest_faults())
                else:
                    cloud = self.chance.choice(self.clouds)
                    if self._may_fail(cloud):
                        seconds = self.chance.between(SHORTEST_SECONDS, LONGEST_SECONDS)
                        nursery.start_soon(self._trouble, cloud, seconds, self._faults())

    def _may_fail(self, cloud: Cloud) -> bool:
        bad = {one.provider for one in self.clouds if one.troubled or one.lost}
        return len(bad | {cloud.provider}) <= self.survivable

    async def _trouble(self, cloud: Cloud, seconds: float, faults: Sequence[Fault]) -> None:
        if cloud.troubled:
            return
        cloud.troubled = True
        for fault in faults:
            cloud.faulty.inject(fault)
        await trio.sleep(seconds)
        cloud.heal()
        forgotten = self.fragments if self.chance.once_in(FORGOTTEN_ONCE_IN) else ()
        cloud.remember(but=forgotten)

    # --- kinds --------------------------------------------------------------------------------

    def _faults(self) -> list[Fault]:
        """What one account suffers from: any kind, sometimes two."""
        return [self._fault(list(FaultKind)) for _ in range(1 + self.chance.once_in(4))]

    def _honest_faults(self) -> list[Fault]:
        """No lies about writes: what was acknowledged must be there when the storm is over."""
        kinds = [kind for kind in FaultKind if kind is not FaultKind.LOST_WRITE]
        return [self._fault(kinds)]

    def _fault(self, kinds: Sequence[FaultKind]) -> Fault:
        chance = self.chance
        kind = chance.choice(kinds)
        share = chance.choice((1.0, 1.0, 0.7, 0.3))
        applied = kind in (FaultKind.RESET, FaultKind.SERVER_ERROR) and chance.once_in(2)
        return Fault(
            kind,
            verbs=PUT if chance.once_in(8) and kind is not FaultKind.STALE else None,
            chance=1.0 if kind in (FaultKind.STALE, FaultKind.LOST_WRITE) else share,
            applied=applied,
            seconds=chance.between(0.05, 40.0),
            jitter_seconds=chance.between(0.01, 5.0),
            retry_after_seconds=chance.between(0.1, 30.0),
            fraction=chance.random(),
            every_bytes=chance.choice((64, 512, 4096, 100_000)),
        )
