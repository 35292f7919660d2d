"""What has waited for too long: the alarm that rings when a background job stops silently.

A job that ended is started again and told of (`engine.jobs`); one that hangs, or does nothing for
a reason that nobody thought of, is known by what it leaves undone. Ages are those of the volume
being open, whatever the clock on the wall says.
"""

from collections.abc import Hashable, Iterable

import trio

from aggfs.engine.volume import Feature, Parts, Volume

LOOK_SECONDS = 30.0
LATE_SECONDS = 600.0


class Watch:
    """Since when each of some things waits. Pure: told the time, and what is there."""

    def __init__(self) -> None:
        self._since: dict[Hashable, float] = {}

    def look(self, now: float, there: Iterable[Hashable]) -> None:
        """What waits now."""
        self._since = {one: self._since.get(one, now) for one in there}

    def age_seconds(self, now: float) -> float:
        """How long the first of them has waited; 0 where nothing waits."""
        return now - min(self._since.values(), default=now)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._since)


class Waiting:
    """Watches the three queues through which every byte goes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._watches = {
            "edits wait to be sealed": Watch(),
            "stripes wait to be stored": Watch(),
            "changes wait to be published": Watch(),
        }

    async def run(self) -> None:
        """Watch, for ever."""
        while True:
            self.look()
            await trio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """See what waits now."""
        parts, now = self._parts, trio.current_time()
        edits, stripes, changes = self._watches.values()
        edits.look(now, [(file.number, file.dirty_since) for file in parts.open_files.edited()])
        staged = map(parts.blocks.stripe, parts.staging.names())
        stripes.look(now, [one.row.sid for one in staged if one is not None and not one.announced])
        first = parts.outbox.first()
        changes.look(now, [] if first is None else [first[0]])

    def ages(self) -> dict[str, float]:
        """How long the first of each queue has waited, in seconds; nothing of empty ones."""
        now = trio.current_time()
        return {name: w.age_seconds(now) for name, w in self._watches.items() if len(w)}

    def warnings(self) -> list[str]:
        """A line for each queue whose first has waited too long."""
        return [
            f"{name}, the first of them for {age / 60:.0f} min"
            for name, age in self.ages().items()
            if age >= LATE_SECONDS
        ]


def waiting(volume: Volume) -> Feature:
    """The alarm: figures for programs, warnings for people."""
    watch = Waiting(volume.parts)
    return Feature(
        jobs={"watching what waits": watch.run},
        figures={"waiting_seconds": watch.ages},
        warnings=watch.warnings,
    )
