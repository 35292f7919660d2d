"""Memory that is used again: fresh memory for every stripe costs more than all its ciphers."""

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

Item = TypeVar("Item")


class Pool(Generic[Item]):
    """A fixed number of items, each lent to one user at a time. On the loop only."""

    def __init__(self, make: Callable[[], Item], *, count: int) -> None:
        self._send, self._receive = trio.open_memory_channel[Item](count)
        for _ in range(count):
            self._send.send_nowait(make())

    async def take(self) -> Item:
        """An item for the caller alone, until he gives it back. Waits until one is free."""
        return await self._receive.receive()

    def give_back(self, item: Item) -> None:
        """Nobody uses it any more, threads included."""
        self._send.send_nowait(item)
