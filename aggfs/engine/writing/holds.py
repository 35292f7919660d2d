"""One at a time: who changes where the fragments of a stripe are holds the stripe meanwhile."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Holds:
    """The stripes that are held. On the loop."""

    def __init__(self) -> None:
        self._locks: dict[bytes, trio.Lock] = {}

    @asynccontextmanager
    async def hold(self, sid: bytes) -> AsyncIterator[None]:
        """Nobody else holds this stripe while the block runs. Waits for its turn."""
        lock = self._locks.setdefault(sid, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(sid, None)
