"""Room for what becomes dirty: a write is refused where its bytes could never be stored.

Three bounds. What the accounts can still take, less what waits to go there: beyond it a write
fails at once (an error later would be a silent loss). What may wait on this device, dirty and
staged: beyond it a writer waits until something has been sent, and only then fails. What the
local disk has beyond the room that is left to others: there a writer waits, too, until something
was sent or evicted.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from aggfs.errors import NoSpace

MEASURE_SECONDS = 1.0
WAIT_SECONDS = 60.0
MANY_ENTRIES = 100_000
TOO_MANY_ENTRIES = 400_000
LONGEST_PAUSE_SECONDS = 0.02

MakeRoom = Callable[[int], Awaitable[bool]]


STAGING_BYTES = 8 << 30
CACHE_BYTES = 20 << 30
SHARE_OF_DISK = 10  # per cent: the most that either takes unless told otherwise
MINIMUM_FREE_SHARE = 5  # per cent: no more is left free of a small disk


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a volume may take of this machine: of the local disk for what waits for the
    accounts and for clean copies, what it leaves free there, and how many bytes a second for what
    nobody waits for (0: as many as it goes)."""

    staging_bytes: int
    cache_bytes: int
    minimum_free_bytes: int
    background_rate: int


def limits_on(
    disk_bytes: int, *, staging: int | None, cache: int | None, minimum_free: int, rate: int
) -> Limits:
    """The limits on a disk of this size; None: nothing was said."""
    share = disk_bytes * SHARE_OF_DISK // 100
    return Limits(
        min(STAGING_BYTES, share) if staging is None else staging,
        min(CACHE_BYTES, share) if cache is None else cache,
        min(minimum_free, disk_bytes * MINIMUM_FREE_SHARE // 100),
        rate,
    )


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes that may still become dirty: by the accounts, by the limit of what waits here, and by
    the local disk."""

    accounts_bytes: int
    device_bytes: int
    disk_bytes: int

    def take(self, size_bytes: int) -> bool:
        """Whether so many bytes keep to all of them."""
        return size_bytes <= min(self.accounts_bytes, self.device_bytes, self.disk_bytes)


class Room:
    """Grants room for writes. `measure` is asked once a second; in between what was granted is
    counted here."""

    def __init__(
        self, measure: Callable[[], Bounds], wait_for_progress: Callable[[], Awaitable[None]]
    ) -> None:
        self._measure = measure
        self._wait_for_progress = wait_for_progress
        self._make_room: MakeRoom | None = None
        self._bounds = Bounds(0, 0, 0)
        self._granted = 0
        self._measured_at = -MEASURE_SECONDS

    def helped_by(self, make_room: MakeRoom) -> None:
        """`make_room` gives up what may be given up for so many bytes; it says whether some of
        that will be free soon."""
        self._make_room = make_room

    async def claim(self, size_bytes: int) -> None:
        """Take room for a write. Raises `NoSpace`. Waits while this device is behind."""
        if self._fits(size_bytes):
            self._granted += size_bytes
            return
        self._look()
        with trio.move_on_after(WAIT_SECONDS):
            while not self._fits(size_bytes):
                missing = self._granted + size_bytes - self._bounds.accounts_bytes
                if missing > 0 and not await self._can_make_room(missing):
                    raise NoSpace("the accounts have no room for more")
                await self._wait_for_progress()
                self._look()
            self._granted += size_bytes
            return
        if self._bounds.disk_bytes < self._granted + size_bytes:
            raise NoSpace("the local disk has no room beyond what is to stay free (minimum_free)")
        raise NoSpace("too much waits to be sent to the accounts, and nothing moves")

    async def _can_make_room(self, size_bytes: int) -> bool:
        return self._make_room is not None and await self._make_room(size_bytes)

    def _fits(self, size_bytes: int) -> bool:
        if trio.current_time() - self._measured_at > MEASURE_SECONDS:
            self._look()
        return self._bounds.take(self._granted + size_bytes)

    def _look(self) -> None:
        self._bounds = self._measure()
        self._granted = 0
        self._measured_at = trio.current_time()


class Turns:
    """Turns for changes of names: each is an entry that waits, in memory too, to be published.

    Beyond `many` entries each change waits a little, more and more; beyond `too_many` one that adds
    something waits until some were published, a minute at most, and is refused then. What removes
    something is never refused.
    """

    def __init__(
        self,
        waiting: Callable[[], int],
        wait_for_progress: Callable[[], Awaitable[None]],
        *,
        many: int = MANY_ENTRIES,
        too_many: int = TOO_MANY_ENTRIES,
    ) -> None:
        self._waiting = waiting
        self._wait_for_progress = wait_for_progress
        self._many = many
        self._too_many = too_many

    async def turn(self, *, adds: bool) -> None:
        """Return when one more change may be made. Raises `NoSpace`."""
        count = self._waiting()
        if count < self._many:
            return
        share = (count - self._many) / (self._too_many - self._many)
        await trio.sleep(LONGEST_PAUSE_SECONDS * min(1.0, share))
        if not adds or count < self._too_many:
            return
        with trio.move_on_after(WAIT_SECONDS):
            while self._waiting() >= self._too_many:
                await self._wait_for_progress()
            return
        raise NoSpace("too many changes wait to be published, and nothing moves")
