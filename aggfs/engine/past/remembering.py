"""The past of a volume, as a feature: versions, the trash, clones, and letting go in time.

What the trash holds counts as free: `df` says so, and where room is needed the oldest goes first.
Collection takes its time (the grace), so room is made ahead of need: a part of the whole is kept
really free as long as there is something in the trash.
"""

from collections.abc import Mapping

import trio

from aggfs.cache.past import Past
from aggfs.engine.past.clone import Cloning
from aggfs.engine.past.history import History
from aggfs.engine.past.lookback import Lookback
from aggfs.engine.past.trash import Trash
from aggfs.engine.past.undelete import Undelete, told
from aggfs.engine.volume import Feature, Volume
from aggfs.errors import Busy, StoreError
from aggfs.placement.plan import usable_bytes, usable_free_bytes
from aggfs.sync.clock import reading
from aggfs.threads import list_in_slices

LOOK_SECONDS = 60.0
TRIM_SECONDS = 600.0
KEPT_FREE = 20  # one part of so many is kept really free, at the cost of the trash
PLACES_AT_ONCE = 500

Answer = dict[str, object]
Arguments = Mapping[str, object]


class Remembering:
    """What is kept of the past of one volume. On the loop."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._parts = parts = volume.parts
        self.history = History(volume)
        self.trash = Trash(parts, self.history.versions)
        self.undelete = Undelete(volume, self.trash, self.history)
        self.cloning = Cloning(volume, self.history, self._lookback())
        self._making_room = trio.Lock()
        self._promised = 0  # bytes given up whose room comes by `_promised_until`
        self._promised_until = 0.0

    def _lookback(self) -> Lookback:
        parts = self._parts
        past, versions = Past(parts.database), self.history.versions
        return Lookback(parts.tree, past, versions, parts.history, self._now_ms)

    # --- the trash ----------------------------------------------------------------------------

    async def list_trash(self, volume: Volume, arguments: Arguments) -> Answer:
        """`trash`: what may be brought back, the newest first."""
        del volume, arguments
        found = await list_in_slices(told(one, self.trash) for one in self.trash.entries())
        return {"entries": found[::-1], "size_bytes": self.trash.size_bytes()}

    async def empty_trash(self, volume: Volume, arguments: Arguments) -> Answer:
        """`trash-empty`: let go of everything in it now. What others may still mention stays."""
        del arguments
        await volume.flush(None)  # until then even our own removals may be named by somebody
        gone = await self.trash.trim(self._now_ms() + 1)
        await self._parts.database.durable()
        return {"gone": gone, "kept": len(await list_in_slices(self.trash.entries()))}

    # --- letting go in time -------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._parts.wall_ns() // 1_000_000

    async def run(self) -> None:
        """The job: let go of what the retention does not keep, and keep some room free."""
        await self.cloning.remove_unfinished()
        looks = int(TRIM_SECONDS // LOOK_SECONDS)
        while True:
            await self.trim()
            for _ in range(looks):
                await self._keep_some_free()
                await trio.sleep(LOOK_SECONDS)

    async def trim(self) -> None:
        """Let go of old versions, of what was in the trash long enough, and of places that links
        left before anybody can look back to."""
        now_ms, table = self._now_ms(), self._parts.history
        await self.history.versions.trim(now_ms, table)
        await self.trash.trim(now_ms - table.trash_ms)
        await self._trim_places(now_ms - table.span_ms)

    async def _trim_places(self, before_ms: int) -> None:
        past = Past(self._parts.database)
        before = min(reading(before_ms * 1_000_000), self._parts.tree.cut).to_bytes(8)
        after: bytes | None = None
        while places := past.places(after, PLACES_AT_ONCE):
            after = places[-1][0]
            for key, until in places:
                if until < before:
                    past.forget_place(key)
            await self._parts.database.throttle()
            await trio.lowlevel.checkpoint()

    # --- room ---------------------------------------------------------------------------------

    async def _keep_some_free(self) -> None:
        policy, states = self._parts.policy, self._parts.accounts.states()
        used = policy.storage_class
        total = usable_bytes(states, n=used.n, k=used.k, q=policy.per_provider)
        free = usable_free_bytes(states, n=used.n, k=used.k, q=policy.per_provider)
        if free < total // KEPT_FREE and self.trash.size_bytes():
            await self.make_room(total // KEPT_FREE - free)

    async def make_room(self, wanted_bytes: int) -> bool:
        """Give up the oldest in the trash for so many bytes; whether that room is there now. Where
        collection has a grace, it comes later: what was given up for that is not asked for again
        meanwhile."""
        async with self._making_room:
            if trio.current_time() >= self._promised_until:
                self._promised = 0
            missing = wanted_bytes - self._promised
            if missing > 0:
                freed = await self.trash.make_room(missing)
                if not freed:
                    return False
                self._promised += freed
                self._promised_until = trio.current_time() + self._parts.collect_after_seconds
                await self._collect()
            return self._parts.collect_after_seconds == 0

    async def _collect(self) -> None:
        try:
            await self._volume.control("gc", {"strays": False})
        except (Busy, StoreError):
            return  # the collector tries again by itself


def remembering(volume: Volume) -> Feature:
    """The feature of one volume."""
    past = Remembering(volume)
    volume.parts.room.helped_by(past.make_room)
    return Feature(
        verbs={
            "clone": past.cloning.clone,
            "versions": past.history.list_versions,
            "restore": past.history.restore,
            "trash": past.list_trash,
            "trash-empty": past.empty_trash,
            "undelete": past.undelete.undelete,
        },
        jobs={"letting go of the past": past.run, "undeleting": past.undelete.run},
        figures={"trash_bytes": past.trash.size_bytes},
        reclaimable_bytes=past.trash.size_bytes,
    )
