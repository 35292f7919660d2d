"""Scrubbing: what should lie in the accounts, looked for before somebody misses it.

Theory of operation. By listing: every account is listed completely and compared with all rows;
what seems missing or has a wrong size is asked for once more by itself, because rows and listing
are of different moments. By reading: every fragment is read and checked whole, byte for byte.
While a stripe is looked at, it is held, so that nobody moves or deletes its fragments meanwhile.

An account that fails, or gives no complete listing, is left out and named: nothing is known of it
then, least of all that something is missing. What is found is told; with `repair` it is noted as
every read would (`Repairs.note`) and made again at once, the same bytes at the same place. What is
good is never written.

Where reading has come to is kept in the table `upkeep`, so that it goes on there after a stop.
"""

import logging
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from aggfs.cache.blocks import StripeState
from aggfs.coding.codec import fragment_bytes
from aggfs.coding.whole import whole_fragment_steps
from aggfs.engine.accounts import Account
from aggfs.engine.care.compare import Compared, compare_steps
from aggfs.engine.care.dying import Dying
from aggfs.engine.care.upkeep import Upkeep
from aggfs.engine.listing import Listing
from aggfs.engine.pool import some_at_once
from aggfs.engine.progress import tell
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, NotFound, StoreError, TooFewFragments, Unreachable
from aggfs.threads import in_slices

AT_ONCE = 4
LOOKS_AT_ONCE = 8
CALL_SECONDS = 60.0
STRIPES_AT_ONCE = 64
NOTED_AT_ONCE = 1000
MISSING, WRONG_SIZE, DAMAGED = "missing", "wrong size", "damaged"
T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """A fragment that is not what it should be. `what` is one of the words above."""

    sid: bytes
    index: int
    account: str
    what: str


@dataclass(slots=True)
class Findings:
    """What a scrub found and did. `left_out` says of which accounts nothing is known, and why;
    `records` are objects of journal and headers that are missing, or have a wrong size, by
    account."""

    stripes: int = 0
    fragments: int = 0
    read_bytes: int = 0
    faults: list[Fault] = field(default_factory=list)
    records: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    repaired_fragments: int = 0
    repaired_bytes: int = 0
    went_on: bool = False


class Scrubber:
    """Scrubs one volume. On the loop."""

    def __init__(self, parts: Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._upkeep = upkeep
        self._dying = Dying(parts.database)

    # --- by listing ---------------------------------------------------------------------------

    async def by_listing(
        self, *, repair: bool, accounts: Iterable[Account] | None = None
    ) -> Findings:
        """Compare complete listings, of these accounts or of all, with the rows. May be
        cancelled."""
        found = Findings(stripes=self._parts.blocks.stripe_count)
        async with trio.open_nursery() as nursery:
            for account in self._parts.accounts if accounts is None else accounts:
                nursery.start_soon(self._list, account, found)
        if repair:
            await self._repair_all(found)
        return found

    async def _list(self, account: Account, found: Findings) -> None:
        parts = self._parts
        try:
            listing = await Listing.read(account.store)
            objects = parts.accounts.ledger.objects(account.id)
            compared = await in_slices(
                compare_steps(parts.keys, account.id, listing, parts.blocks, self._dying, objects)
            )
            faults = await self._looked_again(account, compared)
            records = await self._records(account, compared)
        except StoreError as error:
            account.failed(error)
            found.left_out[account.name] = str(error)
            return
        found.fragments += compared.fragments
        found.faults += faults
        if records:
            found.records[account.name] = records
        tell(f"account {account.name}: {len(listing)} objects listed")

    async def _looked_again(self, account: Account, compared: Compared) -> list[Fault]:
        """Of what seems wrong, that which is. Raises `StoreError`: then nothing is known."""
        faults: list[Fault] = []
        failures: list[StoreError] = []

        async def look(one: tuple[bytes, int]) -> None:
            sid, index = one
            async with self._parts.repairs.holds.hold(sid):
                if failures:
                    return
                try:
                    what = await self._wrong_with(account, sid, index)
                except StoreError as error:
                    failures.append(error)
                    return
                if what:
                    faults.append(Fault(sid, index, account.name, what))

        await some_at_once(look, (*compared.missing, *compared.wrong_size), LOOKS_AT_ONCE)
        if failures:
            raise failures[0]
        return sorted(faults, key=lambda fault: (fault.sid, fault.index))

    async def _wrong_with(self, account: Account, sid: bytes, index: int) -> str:
        """What is wrong with a fragment by its size, "" if nothing is."""
        state = self._parts.blocks.stripe(sid)
        if state is None or not state.is_in_place(index, account.id):
            return ""
        try:
            info = await _call(account.store.head(self._name(state, index, account)))
        except NotFound:
            return MISSING
        size = fragment_bytes(state.row.sealed_bytes, state.row.k)
        return "" if info.size_bytes == size else WRONG_SIZE

    async def _records(self, account: Account, compared: Compared) -> list[str]:
        """The objects of journal and headers that are still named, and not there as they should
        be. Those that are still under way are none of them."""
        wrong = []
        ledger = self._parts.accounts.ledger
        for key in (*compared.missing_objects, *compared.wrong_objects):
            if key in self._under_way(account):
                continue
            try:
                info = await _call(account.store.head(key))
                size: int | None = info.size_bytes
            except NotFound:
                size = None
            if ledger.object_bytes(account.id, key) not in (None, size):
                wrong.append(key)
        return wrong

    def _under_way(self, account: Account) -> set[str]:
        """What of this device's journal the account is still to get."""
        keys, device = self._parts.keys, self._parts.checkpointer.device
        names = {
            keys.segment_name(keys.epoch, device, one.chain, one.sequence, account.id)
            for one in self._parts.publisher.pending()
        }
        if account in self._parts.publisher.heads_behind():
            names.add(keys.head_name(keys.epoch, device, account.id))
        return names

    def _name(self, state: StripeState, index: int, account: Account) -> str:
        row = state.row
        return self._parts.keys.fragment_name(row.epoch, row.sid, index, account.id)

    # --- by reading ---------------------------------------------------------------------------

    async def by_reading(self, *, repair: bool) -> Findings:
        """Read and check everything; goes on where it was stopped. May be cancelled."""
        found = Findings()
        start = self._upkeep.place("read all")
        found.went_on = start != b""
        total = self._parts.blocks.stripe_count
        for page in self._pages(start):
            await self._read_all(page, found, repair=repair)
            self._upkeep.put_place("read all", page[-1])
            tell(f"{found.stripes} of {total} stripes read, {len(found.faults)} faults")
        self._upkeep.put_place("read all", b"")
        return found

    async def sample(self, part: int) -> Findings:
        """Read and repair one `part`-th of everything, from where the last sample ended."""
        found = Findings()
        wanted = -(-self._parts.blocks.stripe_count // part)
        for page in self._pages(self._upkeep.place("sample")):
            some = page[: max(1, wanted - found.stripes)]
            await self._read_all(some, found, repair=True)
            self._upkeep.put_place("sample", some[-1])
            if found.stripes >= wanted:
                return found
        self._upkeep.put_place("sample", b"")
        return found

    def _pages(self, after: bytes) -> Iterator[list[bytes]]:
        at = after or None
        while page := self._parts.blocks.stripes(at, limit=STRIPES_AT_ONCE):
            at = page[-1].row.sid
            yield [state.row.sid for state in page]

    async def _read_all(self, sids: list[bytes], found: Findings, *, repair: bool) -> None:
        async def read(sid: bytes) -> None:
            faults = await self._read(sid, found)
            found.faults += faults
            if repair and faults:
                for fault in faults:
                    self._parts.repairs.note(sid, fault.index)
                await self._repair(sid, faults, found)

        await some_at_once(read, sids, AT_ONCE)

    async def _read(self, sid: bytes, found: Findings) -> list[Fault]:
        faults: list[Fault] = []
        async with self._parts.repairs.holds.hold(sid):
            state = self._parts.blocks.stripe(sid)
            if state is None:
                return faults
            found.stripes += 1
            for index, place in enumerate(state.row.places):
                account = self._parts.accounts.get(place)
                if account is None or not state.is_in_place(index, account.id):
                    continue
                if account.name not in found.left_out:
                    faults += await self._read_one(state, index, account, found)
        return faults

    async def _read_one(
        self, state: StripeState, index: int, account: Account, found: Findings
    ) -> list[Fault]:
        fault = ""
        try:
            data = await _call(account.store.get(self._name(state, index, account)))
            found.fragments += 1
            found.read_bytes += len(data)
            await in_slices(whole_fragment_steps(self._parts.keys, state.row, index, data))
        except NotFound:
            fault = MISSING
        except Damaged:
            fault = DAMAGED
        except StoreError as error:
            account.failed(error)
            found.left_out[account.name] = str(error)
        return [Fault(state.row.sid, index, account.name, fault)] if fault else []

    # --- repair -------------------------------------------------------------------------------

    async def _repair_all(self, found: Findings) -> None:
        """Make again what was found bad: all of it is noted first, so that it is made even if
        this is cut short."""
        by_stripe: dict[bytes, list[Fault]] = {}
        for count, fault in enumerate(found.faults, 1):
            by_stripe.setdefault(fault.sid, []).append(fault)
            self._parts.repairs.note(fault.sid, fault.index)
            if count % NOTED_AT_ONCE == 0:
                await self._parts.database.throttle()
        await self._parts.database.durable()
        done = 0

        async def repair(one: tuple[bytes, list[Fault]]) -> None:
            nonlocal done
            await self._repair(*one, found)
            done += 1
            tell(f"{done} of {len(by_stripe)} stripes repaired")

        await some_at_once(repair, by_stripe.items(), AT_ONCE)

    async def _repair(self, sid: bytes, faults: list[Fault], found: Findings) -> None:
        """What was noted is made again; what cannot be now stays noted, for the background."""
        try:
            await self._parts.repairs.repair(sid)
        except (StoreError, Damaged, TooFewFragments) as error:
            logger.info("repair of stripe %s must wait: %s", sid.hex(), error)
        state = self._parts.blocks.stripe(sid)
        if state is None:
            return
        mended = sum(state.confirmed >> fault.index & 1 for fault in faults)
        found.repaired_fragments += mended
        found.repaired_bytes += mended * fragment_bytes(state.row.sealed_bytes, state.row.k)


async def _call(call: Awaitable[T]) -> T:
    """What an account answers. Raises `StoreError`; silence is `Unreachable`."""
    try:
        with trio.fail_after(CALL_SECONDS):
            return await call
    except trio.TooSlowError:
        raise Unreachable(f"no answer within {CALL_SECONDS:.0f} s") from None
