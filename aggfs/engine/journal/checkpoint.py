"""Checkpoints: the fold of everything published, so that nobody must read a journal from its
beginning.

A checkpoint is made from a snapshot of the database, in a worker, part by part: signed, sealed,
coded, and put under names that follow from device, sequence and part. Each try has a sequence of
its own. Only when every part has its write quorum does the head name it; older ones, failed
tries among them, are deleted after the accounts have that head.

Table `journal`: b"t" -> u64, the last sequence tried; b"k" + sequence u64 + account 8 + key ->
nothing: an object of a checkpoint that is or may be there.
"""

import logging
from collections.abc import Iterator, Sequence

import trio

from aggfs.cache.database import Database, Snapshot
from aggfs.cache.outbox import Outbox
from aggfs.cache.staging import Staging
from aggfs.cache.tree import LmdbTree
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.records import seal_record
from aggfs.engine.accounts import Accounts
from aggfs.engine.journal.publish import JournalState, Publisher, Writer, read_state
from aggfs.engine.writing.upload import Parcel, Spread, Spreading, put_all
from aggfs.errors import Unreachable
from aggfs.formats.checkpoint import CheckpointHead, encode_parts
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import AccountId, Sid
from aggfs.sync.image import image_of
from aggfs.threads import in_thread

SEGMENTS_BETWEEN = 256
LOOK_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Checkpointer:
    """Makes this device's checkpoints."""

    def __init__(
        self,
        keys: VolumeKeys,
        writer: Writer,
        accounts: Accounts,
        database: Database,
        staging: Staging,
        publisher: Publisher,
        spreading: Spreading,
    ) -> None:
        self._keys = keys
        self._writer = writer
        self._accounts = accounts
        self._database = database
        self._staging = staging
        self._publisher = publisher
        self._spreading = spreading
        self._table = database.table("journal")
        self._lock = trio.Lock()

    @property
    def device(self) -> bytes:
        """Whose checkpoints these are."""
        return self._writer.device

    async def run(self) -> None:
        """Make one whenever the journal has grown by enough segments since the last."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            if self._publisher.segments_since_checkpoint >= SEGMENTS_BETWEEN:
                try:
                    await self.make()
                except Unreachable as error:
                    logger.info("a checkpoint is delayed: %s", error)

    async def make(self) -> int:
        """Make one now; how many parts it has. Raises `Unreachable`, `LocalDiskFailed`.

        May be cancelled: what was put until then is deleted after the next success.
        """
        async with self._lock:
            sequence = self._last_tried() + 1
            self._table.put(b"t", sequence.to_bytes(8))
            await self._database.durable()
            staged: list[Sid] = []
            try:
                state = await self._stage_all(sequence, staged)
                for part, sid in enumerate(staged):
                    await self._put_part(sequence, part, sid)
            finally:
                for sid in staged:
                    self._staging.release(sid)
            self._publisher.name_checkpoint(sequence, len(staged), state)
            await self._publisher.publish()
            await self._delete_before(sequence)
            return len(staged)

    async def _stage_all(self, sequence: int, staged: list[Sid]) -> JournalState:
        """Seal all parts into staging: a snapshot must not wait for accounts, nor for commits."""
        with self._database.snapshot() as snapshot:
            records = self._records(snapshot, sequence)
            while (sid := await in_thread(self._stage_next, records)) is not None:
                staged.append(sid)
            return read_state(snapshot.table("journal"))

    def _stage_next(self, records: Iterator[bytes]) -> Sid | None:
        """In a worker: the next part under a fresh id; None at the end."""
        record = next(records, None)
        if record is None:
            return None
        sid = Sid(self._writer.device + self._writer.random_bytes(16))
        sealed = seal_record(self._keys, sid=sid, kind=Kind.CHECKPOINT, record=record)
        self._staging.put(sid, codec.stage_bytes(sealed))
        return sid

    def _last_tried(self) -> int:
        value = self._table.get(b"t")
        return int.from_bytes(value) if value else self._publisher.state.checkpoint

    def _records(self, snapshot: Snapshot, sequence: int) -> Iterator[bytes]:
        """In a worker: the signed parts, as they are made."""
        tree = LmdbTree(snapshot)
        state = read_state(snapshot.table("journal"))
        device = self._writer.device
        tips = ((device, state.control, state.namespace),)
        head = CheckpointHead(device, sequence, tree.cut, tips)
        waiting = [(row.stamp, row.entry) for _, row in Outbox(snapshot).rows()]
        rows = image_of(tree, waiting)
        return encode_parts(head, rows, self._keys.volume, self._writer.sign)

    # --- putting ------------------------------------------------------------------------------

    async def _put_part(self, sequence: int, part: int, sid: bytes) -> None:
        spread = self._spreading.of(self._accounts.staying(), turn=sequence + part)
        pieces = await in_thread(self._encode, sid, spread)
        parcels = []
        for index, account in enumerate(spread.homes):
            key = self._keys.checkpoint_name(
                self._keys.epoch, self._writer.device, sequence, part, account.id
            )
            parcel = Parcel(index, account, key, pieces[index])
            self._table.put(self._row(sequence, account.id, key), b"")
            self._accounts.ledger.put_object(account.id, key, parcel.size_bytes)
            parcels.append(parcel)
        await self._database.durable()
        stored: set[int] = set()
        needed = min(len(parcels), spread.k + 1)
        await put_all(
            parcels, lambda parcel: stored.add(parcel.index), lambda: len(stored) >= needed
        )
        if len(stored) < needed:
            raise Unreachable(f"{len(stored)} of {needed} accounts took a part of a checkpoint")

    def _encode(self, sid: bytes, spread: Spread) -> Sequence[list[Buffer]]:
        """In a worker."""
        sealed = codec.load_staged(self._staging.read(sid))
        fragments = codec.at_once(
            codec.encode_steps(
                self._keys,
                sealed,
                k=spread.k,
                n=len(spread.homes),
                layout=self._spreading.cut,
            )
        )
        return [fragments[index] for index in range(len(spread.homes))]

    @staticmethod
    def _row(sequence: int, account: bytes, key: str) -> bytes:
        return b"k" + sequence.to_bytes(8) + account + key.encode()

    # --- deleting -----------------------------------------------------------------------------

    async def _delete_before(self, sequence: int) -> None:
        """Delete the objects of older checkpoints, now that the head names a newer one."""
        for row, _ in self._table.scan(b"k"):
            number, account_id, key = row[1:9], AccountId(row[9:17]), row[17:].decode()
            account = self._accounts.get(account_id)
            if int.from_bytes(number) >= sequence or account is None:
                continue
            if await account.delete_for_good(key):
                self._accounts.ledger.drop_object(account_id, key)
                self._table.delete(row)
