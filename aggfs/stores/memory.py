"""Accounts in memory, natively async: for simulations, drills and tests. No threads, no clock."""

import bisect
from collections.abc import Sequence

import trio

from aggfs.errors import AlreadyThere, NotFound, QuotaFull
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space

PAGE_OBJECTS = 1000


class MemoryObjects:
    """The objects of one account. Stores of several simulated devices may share them.

    `capacity_bytes` None: no limit.
    """

    def __init__(self, name: str, *, capacity_bytes: int | None = None) -> None:
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.used_bytes = 0
        self._data: dict[str, bytes] = {}
        self._keys: list[str] = []  # sorted

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def read(self, key: str) -> bytes:
        """The bytes under `key`, or `NotFound`."""
        try:
            return self._data[key]
        except KeyError:
            raise NotFound(f"memory {self.name}: there is no object {key}") from None

    def write(self, key: str, data: bytes) -> None:
        """Store or replace; `QuotaFull` beyond the capacity, and then nothing has changed."""
        old = self._data.get(key)
        used = self.used_bytes + len(data) - len(old or b"")
        if self.capacity_bytes is not None and used > self.capacity_bytes:
            raise QuotaFull(f"memory {self.name}: full at {self.capacity_bytes} bytes")
        if old is None:
            bisect.insort(self._keys, key)
        self._data[key] = data
        self.used_bytes = used

    def remove(self, key: str) -> None:
        """Forget the object, if there is one."""
        if key in self._data:
            self.used_bytes -= len(self._data.pop(key))
            del self._keys[bisect.bisect_left(self._keys, key)]

    def keys(self, prefix: str, after: str, limit: int) -> list[str]:
        """At most `limit` keys with this prefix that sort after `after`, in order."""
        first = max(bisect.bisect_right(self._keys, after), bisect.bisect_left(self._keys, prefix))
        return [key for key in self._keys[first : first + limit] if key.startswith(prefix)]


class MemoryStore:
    """One account whose objects are in memory. Every call is a checkpoint, then atomic."""

    def __init__(self, objects: MemoryObjects, *, page_objects: int = PAGE_OBJECTS) -> None:
        self._objects = objects
        self._page_objects = page_objects

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            create_only=True, reports_space=self._objects.capacity_bytes is not None
        )

    @property
    def place(self) -> str:
        return f"memory://{self._objects.name}"

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled: nothing was stored."""
        await trio.lowlevel.checkpoint()
        self._objects.write(key, b"".join(pieces))

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled: nothing was stored."""
        await trio.lowlevel.checkpoint()
        if key in self._objects:
            raise AlreadyThere(f"{self.place}: {key} is there already")
        self._objects.write(key, b"".join(pieces))

    async def get(self, key: str) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._objects.read(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._objects.read(key)[start : start + length]

    async def head(self, key: str) -> ObjectInfo:
        await trio.lowlevel.checkpoint()
        return ObjectInfo(key, len(self._objects.read(key)))

    async def list_page(self, prefix: str, after: str) -> Page:
        await trio.lowlevel.checkpoint()
        keys = self._objects.keys(prefix, after, self._page_objects + 1)
        shown = keys[: self._page_objects]
        objects = tuple(ObjectInfo(key, len(self._objects.read(key))) for key in shown)
        return Page(objects, shown[-1] if len(shown) < len(keys) else None)

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._objects.remove(key)

    async def space(self) -> Space | None:
        await trio.lowlevel.checkpoint()
        capacity = self._objects.capacity_bytes
        if capacity is None:
            return None
        return Space(capacity, max(0, capacity - self._objects.used_bytes))

    async def prepare(self) -> None:
        """There is nothing to make."""

    async def aclose(self) -> None:
        """Nothing to give back: the objects stay."""
