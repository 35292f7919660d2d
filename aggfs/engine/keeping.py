"""What keeps a volume clean, as a feature: the verb `gc`, and the job behind it.

What nothing refers to is looked for twice an hour, what lies astray once a day; what has begun
goes on in between.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict

import trio

from aggfs.engine.collect import Collector
from aggfs.engine.strays import Strays
from aggfs.engine.upkeep import DAY_SECONDS, Upkeep
from aggfs.engine.volume import Feature, Parts, Volume
from aggfs.errors import Busy, StoreError

COLLECTION, STRAYS = "collection", "looking for strays"
ADVANCE_SECONDS = 30.0
ADVANCES = 60
logger = logging.getLogger(__name__)

Answer = dict[str, object]


class Keeper:
    """Keeps one volume clean. On the loop."""

    def __init__(self, parts: Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._upkeep = upkeep
        self.collector = Collector(parts, upkeep)
        self._strays = Strays(parts, upkeep)
        upkeep.expect(COLLECTION, DAY_SECONDS)
        upkeep.expect(STRAYS, 3 * DAY_SECONDS)

    async def run(self) -> None:
        """Collect, for ever."""
        self._upkeep.begin()
        while True:
            for _ in range(ADVANCES):
                await trio.sleep(ADVANCE_SECONDS)
                await self.collector.advance()
            try:
                await self.collector.collect()
                self._upkeep.done(COLLECTION)
                if (self._upkeep.age_seconds(STRAYS) or 0.0) >= DAY_SECONDS:
                    await self._collect_strays()
            except (Busy, StoreError) as error:
                logger.info("collection must wait: %s", error)

    async def _collect_strays(self) -> list[Answer]:
        # An old copy of this state would take for astray what its successor put: it is found out
        # when it publishes.
        await self._parts.publisher.publish()
        found = await self._strays.collect()
        if not any(one.failure for one in found.values()):
            self._upkeep.done(STRAYS)
        return [{"name": name, **asdict(one)} for name, one in found.items()]

    async def gc(self, volume: Volume, arguments: Mapping[str, object]) -> Answer:
        """Collect now, or tell what there is to collect."""
        del volume
        if arguments.get("dry_run"):
            found = await self.collector.look()
            strays = await self._strays.look()
            accounts: list[Answer] = [{"name": name, **asdict(one)} for name, one in strays.items()]
        else:
            found = await self.collector.collect()
            self._upkeep.done(COLLECTION)
            accounts = await self._collect_strays()
            await self._parts.database.durable()
        return {**asdict(found), **self.collector.figures(), "accounts": accounts}


def keeping(volume: Volume) -> Feature:
    """The feature of one volume."""
    upkeep = Upkeep(volume.parts.database, volume.parts.wall_ns)
    keeper = Keeper(volume.parts, upkeep)
    return Feature(
        verbs={"gc": keeper.gc},
        jobs={"collecting": keeper.run},
        figures={"collection": keeper.collector.figures, "upkeep": upkeep.ages},
        warnings=upkeep.overdue,
    )
