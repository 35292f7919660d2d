"""A store that cannot be used as things are on this machine: every call says why.

It stands for an account whose credentials are named and not there. Nothing is tried: a volume
works without the account until it is mounted again with what was missing.
"""

from collections.abc import Sequence
from typing import NoReturn

import trio

from aggfs.errors import Refused
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space


class AbsentStore:
    """Every call that asks the account raises `Refused` with `reason`."""

    def __init__(self, place: str, reason: str) -> None:
        self._place = place
        self._reason = reason

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create_only=False, reports_space=False)

    @property
    def place(self) -> str:
        return self._place

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._refuse()

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._refuse()

    async def get(self, key: str) -> bytes:
        await self._refuse()

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        await self._refuse()

    async def head(self, key: str) -> ObjectInfo:
        await self._refuse()

    async def list_page(self, prefix: str, after: str) -> Page:
        await self._refuse()

    async def delete(self, key: str) -> None:
        await self._refuse()

    async def space(self) -> Space | None:
        await self._refuse()

    async def prepare(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def _refuse(self) -> NoReturn:
        await trio.lowlevel.checkpoint()
        raise Refused(self._reason)
