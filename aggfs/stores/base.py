"""The store contract: one account, seen as a flat set of objects.

Every driver and every wrapper obeys it; `tests/stores/test_conformance.py` judges them all.
Calls are async and cancellable. A cancelled or failed `put` may have left the object, whole, or
nothing: never a part of it (a reader sees the old bytes, the new bytes or no object).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a listing, in key order. `next_after` is None when the listing is complete."""

    objects: tuple[ObjectInfo, ...]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class Space:
    """What the account itself says of its room."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver promises. `create_only`: `create` is a real exclusive create."""

    create_only: bool
    reports_space: bool


class Store(Protocol):
    """One account. Raises `Unreachable`, `Refused`, `QuotaFull`, `NotFound`, `AlreadyThere`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def place(self) -> str:
        """What makes two accounts the same place, e.g. `s3://endpoint/bucket/prefix`."""

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Store the concatenation of `pieces` under `key`, durably on return; replaces.

        The buffers may be reused by the caller as soon as this returns or raises, whatever a
        driver thread still does: a driver that can be abandoned half way copies first.
        """

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """As `put`, but `AlreadyThere` when the key exists: of two racing calls, one wins."""

    async def get(self, key: str) -> bytes:
        """The whole object, or `NotFound`."""

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer only where the object ends. `NotFound` if absent."""

    async def head(self, key: str) -> ObjectInfo:
        """The object's size, or `NotFound`."""

    async def list_page(self, prefix: str, after: str) -> Page:
        """Objects whose key starts with `prefix` and sorts after `after`, in key order.

        Never a silent part: a page that could not be had raises.
        """

    async def delete(self, key: str) -> None:
        """Remove the object. Removing what is absent succeeds."""

    async def space(self) -> Space | None:
        """The account's own word on its room, None where the driver has none."""

    async def prepare(self) -> None:
        """Make what the first call would otherwise have to make; asks the account nothing, and
        raises nothing."""

    async def aclose(self) -> None:
        """Give back connections and threads. Never raises."""
