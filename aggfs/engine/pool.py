"""Memory that is used again: fresh memory for every stripe costs more than all its ciphers. And
hands that are used again: as many tasks as work side by side, however much there is to do."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")
ALIGNMENT = 64


class Pool(Generic[Item]):
    """A fixed number of items, each lent to one user at a time. On the loop only."""

    def __init__(self, make: Callable[[], Item], *, count: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Item](count)
        for _ in range(count):
            self._send.send_nowait(make())

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Item]:
        """An item for as long as the block runs."""
        item = await self.take()
        try:
            yield item
        finally:
            self.give_back(item)

    async def take(self) -> Item:
        """An item for the caller alone, until he gives it back. Waits until one is free."""
        return await self._receive.receive()

    def give_back(self, item: Item) -> None:
        """Nobody uses it any more, threads included."""
        self._send.send_nowait(item)


async def some_at_once(
    job: Callable[[Item], Awaitable[object]], items: Iterable[Item], count: int
) -> None:
    """Do a job for each item, in order, so many side by side. Raises as the jobs do; may be
    cancelled."""
    left = iter(items)

    async def work() -> None:
        for item in left:
            await job(item)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(work)


class Shelf:
    """Memory that is handed out piece by piece, and taken back all at once. One user at a time."""

    def __init__(self, size_bytes: int) -> None:
        self._memory = memoryview(bytearray(size_bytes))
        self._used_bytes = 0

    def piece(self, size_bytes: int) -> memoryview | bytearray:
        """`size_bytes` of unknown content; fresh memory where the shelf is full."""
        start = self._used_bytes
        if start + size_bytes > len(self._memory):
            return bytearray(size_bytes)
        self._used_bytes = start + size_bytes + -size_bytes % ALIGNMENT
        return self._memory[start : start + size_bytes]

    def clear(self) -> None:
        """Nobody uses the pieces any more."""
        self._used_bytes = 0
