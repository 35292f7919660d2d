"""Segments of this device's journal on their way into the accounts.

A signed record is sealed and staged once, and it is fixed before the first put which account
takes which fragment: the same bytes go to the same places until all are there, whatever crashes
and whichever accounts come and go. Only what a full account does not take goes elsewhere, when it
is sure that nothing of it will arrive there any more. A segment is *wanted* until it can be read;
from then on it is *late*, and no publishing waits for the accounts that still lack their fragment
of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from aggfs.cache.database import Database
from aggfs.cache.staging import Staging
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.records import seal_record
from aggfs.engine.accounts import Account, Accounts
from aggfs.engine.writing.upload import Parcel, Spreading, put_all
from aggfs.errors import Damaged, Unreachable
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import DeviceId, Sid
from aggfs.threads import in_thread

LATE_ROUND = 64
_WANTED, _LATE, _RECORD = b"p", b"l", b"r"

_encode = msgspec.msgpack.encode


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """Row b"p" (wanted) or b"l" (late) + chain u8 + sequence u64: a segment that is not yet in
    all its accounts. `homes` take its fragments in order, `confirmed` have theirs.

    Until it is staged under `sid`, its signed record lies in row b"r" + chain u8 + sequence u64.
    """

    chain: int
    sequence: int
    sid: bytes = b""
    confirmed: tuple[bytes, ...] = ()
    homes: tuple[bytes, ...] = ()
    k: int = 0


@dataclass(frozen=True, slots=True)
class Sealer:
    """Who seals: the device, and its source of randomness."""

    device: DeviceId
    random_bytes: Callable[[int], bytes]


class Segments:
    """Those that are not in all their accounts. Table `journal`, rows as `Pending` says."""

    def __init__(
        self,
        keys: VolumeKeys,
        sealer: Sealer,
        accounts: Accounts,
        database: Database,
        staging: Staging,
        spreading: Spreading,
    ) -> None:
        self._keys = keys
        self._sealer = sealer
        self._accounts = accounts
        self._database = database
        self._staging = staging
        self._spreading = spreading
        self._table = database.table("journal")
        self._late_turn = _LATE

    def add(self, chain: int, sequence: int, record: bytes) -> None:
        """One more, in the caller's transaction."""
        pending = Pending(chain, sequence)
        self._table.put(_key(_WANTED, pending), _encode(pending))
        self._table.put(_key(_RECORD, pending), record)

    def pending(self) -> list[Pending]:
        """All, the wanted ones first: control before namespace, in order."""
        return [*self._rows(_WANTED), *self._rows(_LATE)]

    def _rows(self, kind: bytes) -> list[Pending]:
        return [msgspec.msgpack.decode(row, type=Pending) for _, row in self._table.scan(kind)]

    # --- putting ------------------------------------------------------------------------------

    async def put_wanted(self) -> None:
        """Return when all can be read. Raises `Unreachable` when too few accounts took one."""
        wanted = self._rows(_WANTED)
        if wanted:
            await self._database.durable()
        for pending in wanted:
            await self._put(pending)

    async def catch_up(self) -> None:
        """Bring some late ones into accounts that answer again. Raises nothing of theirs."""
        rows = self._table.scan(_LATE, self._late_turn, limit=LATE_ROUND)
        self._late_turn = rows[-1][0] if len(rows) == LATE_ROUND else _LATE
        for _, row in rows:
            pending = await self._without_full(msgspec.msgpack.decode(row, type=Pending))
            missing = self._missing(pending).values()
            if any(account.healthy and not account.full for account in missing):
                await self._put(pending)

    async def _without_full(self, pending: Pending) -> Pending:
        """What full accounts did not take gets other homes, at providers that have nothing of the
        segment, where there are such."""
        for index, full in self._missing(pending).items():
            other = self._another(pending) if full.full else None
            name = self._name(pending, full)
            if other is None or not await full.delete_for_good(name):
                continue
            self._accounts.ledger.drop_object(full.id, name)
            homes = (*pending.homes[:index], other.id, *pending.homes[index + 1 :])
            pending = msgspec.structs.replace(pending, homes=homes)
            self._table.put(_key(_LATE, pending), _encode(pending))
        return pending

    def _another(self, pending: Pending) -> Account | None:
        """An account with room, of a provider that has, and may have, nothing of a segment."""
        ledger = self._accounts.ledger
        there = {
            account.provider
            for account in self._accounts
            if account.id in pending.homes
            or ledger.object_bytes(account.id, self._name(pending, account)) is not None
        }
        others = (one for one in self._accounts.staying() if one.provider not in there)
        return next((one for one in others if one.healthy and not one.full), None)

    def _missing(self, pending: Pending) -> dict[int, Account]:
        """The accounts that lack their fragment, by its index."""
        found = {
            index: self._accounts.get(home)
            for index, home in enumerate(pending.homes)
            if home not in pending.confirmed
        }
        return {index: account for index, account in found.items() if account is not None}

    async def _put(self, pending: Pending) -> None:
        if not pending.sid:
            pending = await self._seal(pending)
        if not pending.homes:
            pending = await self._settle_homes(pending)
        pieces = await in_thread(self._encode, pending)
        confirmed = set(pending.confirmed)
        parcels = [
            self._parcel(pending, index, account, pieces[index])
            for index, account in self._missing(pending).items()
        ]
        await self._database.durable()
        await put_all(
            parcels,
            lambda parcel: confirmed.add(parcel.account.id),
            lambda: len(confirmed) >= pending.k,
        )
        self._note(msgspec.structs.replace(pending, confirmed=tuple(sorted(confirmed))))
        if len(confirmed) < pending.k:
            raise Unreachable(f"{len(confirmed)} of {pending.k} accounts took a journal segment")

    def _note(self, pending: Pending) -> None:
        """Keep how far it has come."""
        self._table.delete(_key(_WANTED, pending))
        self._table.delete(_key(_LATE, pending))
        if len(pending.confirmed) < pending.k:
            self._table.put(_key(_WANTED, pending), _encode(pending))
        elif self._missing(pending):
            self._table.put(_key(_LATE, pending), _encode(pending))
        else:
            self._database.after_commit(lambda: self._staging.release(pending.sid))

    def _parcel(
        self, pending: Pending, index: int, account: Account, pieces: list[Buffer]
    ) -> Parcel:
        name = self._name(pending, account)
        parcel = Parcel(index, account, name, pieces)
        self._accounts.ledger.put_object(account.id, name, parcel.size_bytes)
        return parcel

    def _name(self, pending: Pending, account: Account) -> str:
        keys, device = self._keys, self._sealer.device
        return keys.segment_name(keys.epoch, device, pending.chain, pending.sequence, account.id)

    # --- sealing ------------------------------------------------------------------------------

    async def _seal(self, pending: Pending) -> Pending:
        """Seal and stage a record under a fresh sid, which is committed before any put."""
        record = self._table.get(_key(_RECORD, pending))
        if record is None:
            raise Damaged("a journal record that is to be published is gone")
        sid = await in_thread(self._seal_in_worker, record)
        self._table.delete(_key(_RECORD, pending))
        return await self._settle_homes(msgspec.structs.replace(pending, sid=sid))

    async def _settle_homes(self, pending: Pending) -> Pending:
        spread = self._spreading.of(self._accounts.staying(), turn=pending.sequence)
        homes = tuple(account.id for account in spread.homes)
        pending = msgspec.structs.replace(pending, homes=homes, k=spread.k)
        self._table.put(_key(_WANTED, pending), _encode(pending))
        await self._database.durable()
        return pending

    def _seal_in_worker(self, record: bytes) -> Sid:
        sid = Sid(self._sealer.device + self._sealer.random_bytes(16))
        sealed = seal_record(self._keys, sid=sid, kind=Kind.SEGMENT, record=record)
        self._staging.put(sid, codec.stage_bytes(sealed))
        return sid

    def _encode(self, pending: Pending) -> Mapping[int, list[Buffer]]:
        sealed = codec.load_staged(self._staging.read(pending.sid))
        return codec.at_once(
            codec.encode_steps(
                self._keys,
                sealed,
                k=pending.k,
                n=len(pending.homes),
                layout=self._spreading.cut,
            )
        )


def _key(kind: bytes, pending: Pending) -> bytes:
    return kind + bytes((pending.chain,)) + pending.sequence.to_bytes(8)
