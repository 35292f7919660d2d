"""Objects of ours that no row names: put by an attempt that came to nothing, or put so late that
they had already been deleted.

An object is ours when its header opens with our keys, says that this device sealed its stripe,
and its name follows from what it says. (A row stands before the first put of a stripe, so without
a row nobody will ever name it. Of a device that lapsed it is ours when that stripe was dropped.)
It goes when it was found twice, by complete listings, with the grace between. Whatever does not
prove itself is foreign, or somebody else's, and is left alone.

Table `strays`: account 8 + object key -> u64, seconds of work at which it was first found.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from aggfs.coding.headers import open_header_of_fragment
from aggfs.engine.accounts import Account
from aggfs.engine.care.compare import compare_steps
from aggfs.engine.care.dying import Dying
from aggfs.engine.care.upkeep import Upkeep
from aggfs.engine.listing import Listing
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, NotFound, StoreError
from aggfs.formats.fragment import FragmentHeader, Kind
from aggfs.formats.sizes import FRAGMENT_HEADER_BYTES
from aggfs.model import AccountId, DropStripe
from aggfs.stores.base import ObjectInfo
from aggfs.sync.collection import owner_of
from aggfs.threads import in_slices

TABLES = ("strays",)
FOREIGN_LIMIT = 100_000
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What was found at one account. `failure`: it could not be listed completely; then nothing
    is known of it, and nothing was done."""

    strays: int = 0
    stray_bytes: int = 0
    deleted: int = 0
    deleted_bytes: int = 0
    failure: str = ""


class Strays:
    """Finds and deletes them. On the loop."""

    def __init__(self, parts: Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._upkeep = upkeep
        self._dying = Dying(parts.database)
        self._table = parts.database.table("strays")
        self._foreign: set[tuple[AccountId, str]] = set()

    async def look(self) -> dict[str, Found]:
        """What lies astray, by account. Deletes nothing."""
        return await self._all(lambda account, info: False)

    async def collect(self) -> dict[str, Found]:
        """Note what lies astray, and delete what did when it was looked for before the grace. May
        be cancelled at any point."""
        return await self._all(self._is_due)

    async def _all(self, is_due: Callable[[Account, ObjectInfo], bool]) -> dict[str, Found]:
        found: dict[str, Found] = {}

        async def one(account: Account) -> None:
            found[account.name] = await self._account(account, is_due)

        async with trio.open_nursery() as nursery:
            for account in self._parts.accounts:
                nursery.start_soon(one, account)
        return found

    async def _account(
        self, account: Account, is_due: Callable[[Account, ObjectInfo], bool]
    ) -> Found:
        found = Found()
        try:
            listing = await Listing.read(account.store)
            await self._judge(account, listing, found, is_due)
        except StoreError as error:
            account.failed(error)
            found.failure = str(error)
        return found

    async def _judge(
        self,
        account: Account,
        listing: Listing,
        found: Found,
        is_due: Callable[[Account, ObjectInfo], bool],
    ) -> None:
        parts = self._parts
        objects = parts.accounts.ledger.objects(account.id)
        compared = await in_slices(
            compare_steps(parts.keys, account.id, listing, parts.blocks, self._dying, objects)
        )
        self._forget_others(account, {one.key for one in compared.unnamed})
        for info in compared.unnamed:
            if not await self._is_stray(account, info):
                continue
            found.strays += 1
            found.stray_bytes += info.size_bytes
            if is_due(account, info) and await account.delete(info.key):
                self._table.delete(account.id + info.key.encode())
                found.deleted += 1
                found.deleted_bytes += info.size_bytes
                logger.info("account %s: deleted %s, which nothing names", account.name, info.key)

    def _forget_others(self, account: Account, unnamed: set[str]) -> None:
        """What was noted and is named now, or is gone, was none."""
        for key, _ in self._table.scan(account.id):
            if key[len(account.id) :].decode() not in unnamed:
                self._table.delete(key)

    def _is_due(self, account: Account, info: ObjectInfo) -> bool:
        key = account.id + info.key.encode()
        now, first = self._upkeep.seconds(), self._table.get(key)
        if first is None:
            self._table.put(key, now.to_bytes(8))
            return False
        return now - int.from_bytes(first) >= self._parts.collect_after_seconds

    # --- whose it is --------------------------------------------------------------------------

    async def _is_stray(self, account: Account, info: ObjectInfo) -> bool:
        if (account.id, info.key) in self._foreign:
            return False
        try:
            data = await account.store.get_range(info.key, 0, FRAGMENT_HEADER_BYTES)
            header = open_header_of_fragment(self._parts.keys, data)
        except NotFound:
            return False  # gone since it was listed
        except Damaged:
            if len(self._foreign) < FOREIGN_LIMIT:
                self._foreign.add((account.id, info.key))
            return False
        return self._is_ours(account, info, header) and not self._is_named(account, header)

    def _is_ours(self, account: Account, info: ObjectInfo, header: FragmentHeader) -> bool:
        sid = header.sid
        name = self._parts.keys.fragment_name(header.epoch, sid, header.index, account.id)
        if header.kind is not Kind.DATA or name != info.key:
            return False
        device = self._parts.checkpointer.device
        if sid[: len(device)] == device:
            return True
        row = self._parts.tree.control(b"s" + sid)
        dropped = row is not None and isinstance(row.entry, DropStripe)
        return dropped and owner_of(sid, self._parts.tree.members()) == device

    def _is_named(self, account: Account, header: FragmentHeader) -> bool:
        """Whether a row names it now, whatever the rows said when it was listed."""
        dying = self._dying.get(header.sid)
        if dying is not None and (header.index, bytes(account.id)) in dying.left:
            return True
        state = self._parts.blocks.stripe(header.sid)
        return state is not None and (header.index, account.id) in state.copies()
