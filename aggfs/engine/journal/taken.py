"""Which head of this device's journal each account has taken, and who has gone back since.

A head is the only object that is ever put over an older one. So an account that serves an older
head than it took, or none, is not what it was: its operator brought back a backup, or it was
emptied. Fragments are then missing as well, and nobody would notice before they are wanted. That
an account was found so is kept until what it lacks was looked for, over restarts too.

Table `journal`: b"h" + account -> u64, the count of the head that the account has taken;
b"o" + account -> u64, the count of the older one that was found there, 0 where there was none.
"""

import logging

import trio

from aggfs.cache.database import Database
from aggfs.engine.accounts import Account

_TAKEN, _OLDER = b"h", b"o"
logger = logging.getLogger(__name__)


class TakenHeads:
    """The rows above. On the loop."""

    def __init__(self, database: Database) -> None:
        self._table = database.table("journal")
        self._found = trio.Event()
        if self.gone_back():
            self._found.set()

    def count(self, account: bytes) -> int:
        """The count of the highest head that an account has taken, 0 where nothing is known."""
        value = self._table.get(_TAKEN + account)
        return int.from_bytes(value) if value else 0

    def put(self, account: bytes, count: int) -> None:
        """The account has taken this head."""
        self._table.put(_TAKEN + account, count.to_bytes(8))

    def drop(self, account: bytes) -> None:
        """It is no account of the volume any more."""
        self._table.delete(_TAKEN + account)
        self._table.delete(_OLDER + account)

    def note_older(self, account: Account, count: int) -> None:
        """The account has an older head than it took. Said once, until it is whole again."""
        if self._table.get(_OLDER + account.id) is None:
            text = "account %s has gone back in time: it has head %d of the journal, and took %d"
            logger.warning(text, account.name, count, self.count(account.id))
        self._table.put(_OLDER + account.id, count.to_bytes(8))
        self._found.set()

    def gone_back(self) -> list[bytes]:
        """The accounts that were found so, and may still lack what they had."""
        return [row[1:] for row, _ in self._table.scan(_OLDER)]

    async def wait_gone_back(self) -> None:
        """Return when there are such accounts."""
        await self._found.wait()

    def made_whole(self, account: bytes) -> None:
        """What the account lacks was found, and is made again."""
        self._table.delete(_OLDER + account)
        if not self.gone_back():
            self._found = trio.Event()
