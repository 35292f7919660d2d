"""What stays on this machine, as a feature: limits of local copies, pins, warming, eviction."""

from collections.abc import Mapping
from functools import partial

import trio

from aggfs.engine.pins import Pins
from aggfs.engine.volume import Feature, Parts, Volume
from aggfs.errors import BadConfig

WARM_SECONDS = 2.0
WARM_LIMIT_SECONDS = 3600

Answer = dict[str, object]
Arguments = Mapping[str, object]


def caching(volume: Volume) -> Feature:
    """Local copies within their limits, and those that are to stay."""
    parts = volume.parts
    copies = Copies(parts)
    return Feature(
        verbs={
            "pin": copies.pin,
            "unpin": copies.unpin,
            "pins": copies.pinned,
            "warm": copies.warm,
            "evict": copies.evict,
        },
        jobs={
            "keeping local copies within limits": partial(
                parts.local.run, parts.limits, parts.disk_free_bytes
            ),
            "bringing pinned files": copies.pins.run,
        },
        warnings=copies.warnings,
    )


class Copies:
    """The verbs."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.pins = Pins(
            *(parts.database, parts.tree, parts.namespace, parts.local, parts.pace),
            wall_ns=parts.wall_ns,
            room_bytes=lambda: parts.disk_free_bytes() - parts.limits.minimum_free_bytes,
        )
        parts.local.keep_pinned(self.pins.hold)

    async def pin(self, volume: Volume, arguments: Arguments) -> Answer:
        """Keep a file or a tree here. Answers at once; `warm` tells how far it is."""
        self.pins.add(volume.row_at(arguments))
        await self._parts.database.durable()
        return {}

    async def unpin(self, volume: Volume, arguments: Arguments) -> Answer:
        """Keep it here no longer than anything else. Raises `NoEntry`."""
        self.pins.remove(volume.row_at(arguments))
        await self._parts.database.durable()
        return {}

    async def pinned(self, volume: Volume, arguments: Arguments) -> Answer:
        """What is pinned, and how much of it is here."""
        del arguments
        found: list[Answer] = []
        for row in list(self.pins.rows()):
            size, missing = await self.pins.measure(row)
            path = volume.namespace.path_of(row.number).decode(errors="surrogateescape")
            found.append({"path": path, "size_bytes": size, "missing_bytes": missing})
        return {"pins": found, "trouble": self.pins.trouble}

    async def warm(self, volume: Volume, arguments: Arguments) -> Answer:
        """Bring a file or a tree here, for as long as `seconds` says; how far that came. Asked
        again it goes on where it was. Raises `TooFewFragments`, `NoSpace`."""
        row = volume.row_at(arguments)
        seconds = arguments.get("seconds", WARM_SECONDS)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= WARM_LIMIT_SECONDS:
            raise BadConfig(f"warm: `seconds` must be 0 to {WARM_LIMIT_SECONDS}")
        with trio.move_on_after(seconds):
            await self.pins.bring_under(row)
        size, missing = await self.pins.measure(row)
        return {"size_bytes": size, "missing_bytes": missing}

    async def evict(self, volume: Volume, arguments: Arguments) -> Answer:
        """Drop clean bytes of a file, or of all, that the accounts have; with `force` of what is
        pinned as well, which is brought again then."""
        local, force = self._parts.local, bool(arguments.get("force"))
        if "path" in arguments:
            numbers = list(volume.namespace.numbers_under(volume.row_at(arguments).number))
        else:
            numbers = list(local.cached())
        self._parts.neighbours.forget()
        evicted, kept, pinned = await local.evict(numbers, pinned_too=force)
        if force:
            self.pins.look()
        return {"evicted_bytes": evicted, "kept_bytes": kept, "pinned_files": pinned}

    def warnings(self) -> list[str]:
        """What keeps pinned files from being here."""
        trouble = self.pins.trouble
        return [f"pinned files are not all here: {trouble}"] if trouble else []
