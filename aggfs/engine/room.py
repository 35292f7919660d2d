"""Room for what becomes dirty: a write is refused where its bytes could never be stored.

Two bounds. What the accounts can still take, less what waits to go there: beyond it a write
fails at once (an error later would be a silent loss). What may wait on this device, dirty and
staged: beyond it a writer waits until something has been sent, and only then fails.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from aggfs.errors import NoSpace

MEASURE_SECONDS = 1.0
WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bytes that may still become dirty: by the accounts, and on this device."""

    accounts_bytes: int
    device_bytes: int


class Room:
    """Grants room for writes. `measure` is asked once a second; in between what was granted is
    counted here."""

    def __init__(
        self, measure: Callable[[], Bounds], wait_for_progress: Callable[[], Awaitable[None]]
    ) -> None:
        self._measure = measure
        self._wait_for_progress = wait_for_progress
        self._bounds = Bounds(0, 0)
        self._granted = 0
        self._measured_at = -MEASURE_SECONDS

    async def claim(self, size_bytes: int) -> None:
        """Take room for a write. Raises `NoSpace`. Waits while this device is behind."""
        if self._fits(size_bytes):
            self._granted += size_bytes
            return
        self._look()
        with trio.move_on_after(WAIT_SECONDS):
            while not self._fits(size_bytes):
                if self._bounds.accounts_bytes < self._granted + size_bytes:
                    raise NoSpace("the accounts have no room for more")
                await self._wait_for_progress()
                self._look()
            self._granted += size_bytes
            return
        raise NoSpace("too much waits to be sent to the accounts, and nothing moves")

    def _fits(self, size_bytes: int) -> bool:
        if trio.current_time() - self._measured_at > MEASURE_SECONDS:
            self._look()
        wanted = self._granted + size_bytes
        return wanted <= self._bounds.accounts_bytes and wanted <= self._bounds.device_bytes

    def _look(self) -> None:
        self._bounds = self._measure()
        self._granted = 0
        self._measured_at = trio.current_time()
