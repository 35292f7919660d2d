"""How much of an account others use: objects in it that this volume did not put there.

They are never looked at nor touched; but a quota is a limit for all that lies there together, so
they count as used. What is foreign is what a complete listing has beyond the ledger. Accounts
without a quota are not listed: a disk tells by itself how much room it has left.
"""

import trio

from aggfs.engine.accounts import Account, Accounts
from aggfs.errors import StoreError
from aggfs.stores.base import Store

LOOK_SECONDS = 6 * 3600.0
RETRY_SECONDS = 60.0
TRIES = 3


class ForeignBytes:
    """Measures it, for the accounts with a declared quota."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def run(self) -> None:
        """At the start and a few times a day, for ever."""
        while True:
            measured = [
                await self.measure(account) for account in self._accounts if account.quota_bytes
            ]
            await trio.sleep(LOOK_SECONDS if all(measured) else RETRY_SECONDS)

    async def measure(self, account: Account) -> bool:
        """Whether it could be measured. What is put or deleted meanwhile blurs the figure, so
        that a listing during which something was is made again, a few times."""
        ledger = self._accounts.ledger
        for _ in range(TRIES):
            before = ledger.used_bytes(account.id)
            try:
                total = await _listed_bytes(account.store)
            except StoreError as error:
                account.failed(error)
                return False
            after = ledger.used_bytes(account.id)
            account.foreign_bytes = max(0, total - max(before, after))
            if before == after:
                return True
        return True


async def _listed_bytes(store: Store) -> int:
    """The sizes of all objects together. Raises `StoreError` where the listing is not complete."""
    total = 0
    after: str | None = ""
    while after is not None:
        page = await store.list_page("", after)
        total += sum(found.size_bytes for found in page.objects)
        after = page.next_after
    return total
