"""Attending to accounts: one that went away is asked now and then whether it is back, one that
missed a new generation of the header gets it, and all are looked at whether they went back in time.

Without that an account that came back would be noticed only by chance, a removed key would stay
valid where the header is old, a device that joined meanwhile would not be known there, and what an
old backup lacks would be missed when it is needed.

Table `headers`: account 8 -> u64, the generation of the header that it has.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from aggfs.cache.database import Database
from aggfs.coding.keys import is_header_name
from aggfs.coding.slots import OpenedHeader
from aggfs.engine.accounts import NEVER, Account, Accounts, Ledger
from aggfs.engine.journal.headers import put_header
from aggfs.errors import NotFound, StoreError

TABLES = ("headers",)
LOOK_SECONDS = 5.0
ASK_SECONDS = 10.0
NO_OBJECT = "00/" + "0" * 38  # a name of ours that no object has
logger = logging.getLogger(__name__)


class HeaderRows:
    """Which generation of the header each account has. On the loop."""

    def __init__(self, database: Database) -> None:
        self._table = database.table("headers")

    def generation(self, account: bytes) -> int:
        """0 where nothing is known."""
        value = self._table.get(account)
        return int.from_bytes(value) if value else 0

    def put(self, account: bytes, generation: int) -> None:
        """It has this generation now."""
        self._table.put(account, generation.to_bytes(8))

    def drop(self, account: bytes) -> None:
        """It is no account of the volume any more."""
        self._table.delete(account)


async def forget_older_headers(account: Account, ledger: Ledger, newest: str) -> None:
    """Delete what the ledger knows of other headers there. One that stays is deleted with the
    next generation."""
    for key, _ in ledger.objects(account.id):
        if key == newest or not is_header_name(key):
            continue
        if await account.delete(key):
            ledger.drop_object(account.id, key)


class Attendant:
    """Looks after the accounts of a running volume."""

    def __init__(
        self,
        accounts: Accounts,
        database: Database,
        header: Callable[[], OpenedHeader],
        random_bytes: Callable[[int], bytes],
        *,
        look_back: Callable[[Account], Awaitable[None]],
    ) -> None:
        """`header` gives the newest generation that this device knows; `look_back` looks, now and
        then and when an account was away, whether it is what it was."""
        self._accounts = accounts
        self._rows = HeaderRows(database)
        self._header = header
        self._random_bytes = random_bytes
        self._look_back = look_back

    async def run(self) -> None:
        """Look after them for ever."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look after each of them once."""
        async with trio.open_nursery() as nursery:
            for account in self._accounts:
                nursery.start_soon(self._attend, account)

    async def look_closely(self) -> None:
        """Look after each of them once, as if all had been away."""
        for account in self._accounts:
            account.looked_at = NEVER
        await self.look()

    async def _attend(self, account: Account) -> None:
        if not account.healthy:
            await self._ask(account)
        if account.healthy:
            await self._look_back(account)
        if account.healthy and self._rows.generation(account.id) < self._header().generation:
            await self._bring_header(account)

    @staticmethod
    async def _ask(account: Account) -> None:
        """Whether it answers again; that there is no such object is an answer."""
        with trio.move_on_after(ASK_SECONDS):
            try:
                await account.store.head(NO_OBJECT)
            except NotFound:
                pass
            except StoreError as error:
                account.failed(error)
                return
            account.answered()

    async def _bring_header(self, account: Account) -> None:
        opened = self._header()
        try:
            key, size = await put_header(account.store, opened, account.id, self._random_bytes)
        except StoreError as error:
            account.failed(error)
            return
        self._accounts.ledger.put_object(account.id, key, size)
        await forget_older_headers(account, self._accounts.ledger, key)
        self._rows.put(account.id, opened.generation)
        logger.info("account %s has the header of generation %d", account.name, opened.generation)
