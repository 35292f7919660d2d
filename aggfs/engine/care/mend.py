"""Making objects of the journal again that an account has lost: segments, checkpoints, heads, and
the header of the volume.

A segment's fragment is made of k others, as one of data is: the same sealed bytes, under an index
that no other account has. Names tell no index, so all others must answer first. This device's head
is put again by its publisher, another's is copied; a header comes again as it came first; and what
is missing of a checkpoint is replaced by making a new one, which costs no more. What cannot be made
now is left, and told.
"""

import logging
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

import trio

from aggfs.coding.codec import at_once, encode_steps
from aggfs.coding.decode import join_stripe
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.keys import is_header_name
from aggfs.coding.records import open_record
from aggfs.engine.accounts import Account
from aggfs.engine.journal.attend import HeaderRows
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, NotFound, StoreError, TooFewFragments, Unreachable
from aggfs.formats.fragment import Kind
from aggfs.formats.journal import CONTROL, NAMESPACE
from aggfs.formats.record import Buffer
from aggfs.model import AccountId, Layout
from aggfs.threads import in_slices, in_thread

CALL_SECONDS = 60.0
GAP_SEGMENTS = 256  # so many in a row that no account has: there are no later ones
logger = logging.getLogger(__name__)

Place = tuple[AccountId, str]


@dataclass(slots=True)
class Mended:
    """What was put again, and what could not be: keys by account."""

    objects: int = 0
    sent_bytes: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)


class Mender:
    """Brings back what an account has lost of the journal. On the loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._headers = HeaderRows(parts.database)
        self._journal = parts.database.table("journal")

    async def mend(self, records: Mapping[str, Iterable[str]]) -> Mended:
        """Bring back these objects, named by account. May be cancelled: what was put is good."""
        accounts = {account.name: account for account in self._parts.accounts}
        lost = {(accounts[name].id, key) for name, keys in records.items() for key in keys}
        done = Mended()
        await self._segments(lost, done)
        self._header_objects(lost, done)
        await self._heads(lost, done)
        await self._checkpoints(lost, done)
        for account, key in sorted(lost):
            known = self._parts.accounts.get(account)
            done.left.setdefault(known.name if known else "", []).append(key)
        return done

    # --- segments -----------------------------------------------------------------------------

    async def _segments(self, lost: set[Place], done: Mended) -> None:
        failures: list[Exception] = []
        for places in await in_slices(self._segment_steps(lost)):
            gone = {place for place in places if place in lost}
            try:
                await self._segment(places, gone, done)
            except (StoreError, Damaged, TooFewFragments) as error:
                failures.append(error)
            else:
                lost -= gone
        if failures:
            text = "%d segments of journals cannot be made again now: %s"
            logger.warning(text, len(failures), failures[0])

    def _segment_steps(self, lost: set[Place]) -> Generator[None, None, list[list[Place]]]:
        """Of each segment of which something is lost, the objects that there should be."""
        groups = yield from self.groups_steps()
        return [
            places
            for kind, places in groups
            if kind is Kind.SEGMENT and not lost.isdisjoint(places)
        ]

    def groups_steps(self) -> Generator[None, None, list[tuple[Kind | None, list[Place]]]]:
        """Everything that is no fragment of data, as far as this device knows its names: records
        of each kind, headers (None) each by itself."""
        found: list[tuple[Kind | None, list[Place]]] = []
        ledger = self._parts.accounts.ledger
        for device in self._parts.tree.members():
            for chain in (CONTROL, NAMESPACE):
                sequence, gap = 1, 0
                while gap < GAP_SEGMENTS or sequence <= self._known_end(device, chain):
                    places = self._objects_of(device, chain, sequence)
                    if places:
                        found.append((Kind.SEGMENT, places))
                    gap = 0 if places else gap + 1
                    sequence += 1
                    yield
            heads = [one for one in self._head_places(device) if ledger.object_bytes(*one)]
            found.append((Kind.HEAD, heads))
        found += [(Kind.CHECKPOINT, places) for places in self._checkpoint_places()]
        for account in self._parts.accounts:
            for key, _ in ledger.objects(account.id):
                if is_header_name(key):
                    found.append((None, [(account.id, key)]))
            yield
        return found

    def _known_end(self, device: bytes, chain: int) -> int:
        """The last sequence of this device's own journal: of what was deleted with accounts that
        left, there may be long gaps."""
        if device != self._parts.checkpointer.device:
            return 0
        state = self._parts.publisher.state
        return (state.control if chain == CONTROL else state.namespace).sequence

    def _checkpoint_places(self) -> list[list[Place]]:
        """The objects of each part of this device's checkpoint."""
        parts, state = self._parts, self._parts.publisher.state
        device = parts.checkpointer.device
        return [
            [
                (account.id, key)
                for account in parts.accounts
                for key in (
                    parts.keys.checkpoint_name(epoch, device, state.checkpoint, part, account.id)
                    for epoch in range(parts.keys.epoch, 0, -1)
                )
                if parts.accounts.ledger.object_bytes(account.id, key) is not None
            ]
            for part in range(state.checkpoint_parts)
        ]

    def _objects_of(self, device: bytes, chain: int, sequence: int) -> list[Place]:
        keys, ledger = self._parts.keys, self._parts.accounts.ledger
        named = (
            (account.id, keys.segment_name(epoch, device, chain, sequence, account.id))
            for account in self._parts.accounts
            for epoch in range(keys.epoch, 0, -1)
        )
        return sorted(place for place in named if ledger.object_bytes(*place) is not None)

    async def _segment(self, places: list[Place], gone: set[Place], done: Mended) -> None:
        held = []
        for place in places:
            if place in gone:
                continue
            data = await self.get(*place)
            if data is None:
                raise Unreachable("an account that has another fragment of it does not answer")
            held.append(data)
        made = await in_thread(self._make, held, len(places), len(gone))
        for (account_id, key), pieces in zip(sorted(gone), made, strict=True):
            await self._put(account_id, key, pieces, done)

    def _make(self, held: list[bytes], total: int, count: int) -> list[list[Buffer]]:
        """In a worker: `count` more fragments of the record whose others are held. What a damaged
        one is must be known as well, for it may lie there whole."""
        keys = self._parts.keys
        record = open_record(keys, Kind.SEGMENT, held)
        headers = [open_header_of_fragment(keys, data) for data in held]
        if any(header.sid != record.row.sid for header in headers):
            raise Damaged("an account showed something else than its fragment of it")
        taken = {header.index for header in headers}
        twice = len(held) - len(taken)
        free = [index for index in range(total + twice) if index not in taken][:count]
        good = {
            header.index: data
            for position, (header, data) in enumerate(zip(headers, held, strict=True))
            if position not in record.bad
        }
        sealed = join_stripe(keys, record.row, Kind.SEGMENT, good)
        made = at_once(
            encode_steps(
                keys,
                sealed,
                k=record.row.k,
                n=max(record.row.k, *(index + 1 for index in free)),
                layout=Layout(record.row.layout),
                indices=free,
            )
        )
        return [made[index] for index in free]

    # --- the others ---------------------------------------------------------------------------

    def _header_objects(self, lost: set[Place], done: Mended) -> None:
        """Who looks after the accounts brings it, as to an account that missed it, and deletes what
        is left of the old one."""
        for account_id, key in [place for place in lost if is_header_name(place[1])]:
            self._headers.put(account_id, 0)
            lost.discard((account_id, key))
            done.objects += 1

    async def _heads(self, lost: set[Place], done: Mended) -> None:
        own = self._parts.checkpointer.device
        for device in self._parts.tree.members():
            gone = [place for place in self._head_places(device) if place in lost]
            if not gone:
                continue
            if device == own:
                for account_id, _ in gone:
                    self._parts.publisher.forget_head(account_id)
                await self._parts.publisher.publish()
                done.objects += len(gone)
                lost.difference_update(gone)
            else:
                await self._copy_head(device, gone, lost, done)

    def _head_places(self, device: bytes) -> list[Place]:
        keys = self._parts.keys
        return [
            (account.id, keys.head_name(epoch, device, account.id))
            for account in self._parts.accounts
            for epoch in range(keys.epoch, 0, -1)
        ]

    async def _copy_head(
        self, device: bytes, gone: list[Place], lost: set[Place], done: Mended
    ) -> None:
        """Another device's head is the same object everywhere."""
        for place in self._head_places(device):
            data = None if place in gone else await self.get(*place)
            if data:
                for account_id, key in gone:
                    try:
                        await self._put(account_id, key, [data], done)
                    except StoreError:
                        continue
                    lost.discard((account_id, key))
                return

    async def _checkpoints(self, lost: set[Place], done: Mended) -> None:
        """A new checkpoint replaces what is left of the old one."""
        rows = [(AccountId(row[9:17]), row[17:].decode()) for row, _ in self._journal.scan(b"k")]
        gone = [place for place in rows if place in lost]
        if gone:
            await self._parts.checkpointer.make()
            lost.difference_update(gone)
            done.objects += len(gone)

    # --- objects ------------------------------------------------------------------------------

    async def get(self, account_id: AccountId, key: str) -> bytes | None:
        """The object, None if it cannot be had."""
        account = self._parts.accounts.get(account_id)
        if account is None:
            return None
        try:
            with trio.fail_after(CALL_SECONDS):
                return await account.store.get(key)
        except NotFound:
            return None
        except StoreError as error:
            account.failed(error)
        except trio.TooSlowError:
            logger.info("account %s does not answer", account.name)
        return None

    async def _put(
        self, account_id: AccountId, key: str, pieces: list[Buffer], done: Mended
    ) -> None:
        account: Account | None = self._parts.accounts.get(account_id)
        if account is None:
            return
        size = sum(map(len, pieces))
        self._parts.accounts.ledger.put_object(account_id, key, size)
        await self._parts.database.durable()
        try:
            await account.put(key, pieces)
        except StoreError as error:
            account.failed(error)
            raise
        done.objects += 1
        done.sent_bytes += size
