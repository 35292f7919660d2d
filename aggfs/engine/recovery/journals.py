"""Reading the journals of all devices from the accounts: heads, and the segments and checkpoints
that they name.

Everything is found by names that are derived from device, chain and sequence. k fragments of a
segment are asked for first, of those accounts whose listing has one; if they do not do, all the
rest. What is read is checked three times: its seal, its device's signature, and the chain of
hashes up to the signed head; so no account can leave out, change or invent anything, it can only
fail to answer.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from aggfs.coding import keys as signatures
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.records import Record, open_record
from aggfs.engine.recovery.sources import Source
from aggfs.errors import Damaged, NotFound, StoreError, TooFewFragments
from aggfs.formats import journal
from aggfs.formats.checkpoint import Part, decode_part
from aggfs.formats.fragment import Kind
from aggfs.formats.journal import Head, Segment, Tip
from aggfs.formats.signed import RECORD_LIMIT_BYTES
from aggfs.model import NO_ACCOUNT, Member
from aggfs.threads import in_thread

OBJECT_LIMIT_BYTES = 2 * RECORD_LIMIT_BYTES
logger = logging.getLogger(__name__)

NameOf = Callable[[int, bytes], str]  # (epoch, account) -> key of the account's fragment
OnFound = Callable[[Source, str, int], None]


@dataclass(frozen=True, slots=True)
class _Copy:
    """An object that should hold a fragment of a record. `size_bytes` None: it was not listed."""

    source: Source
    key: str
    size_bytes: int | None


class JournalReader:
    """Reads what the members of a volume have published."""

    def __init__(
        self,
        keys: VolumeKeys,
        sources: Iterable[Source],
        members: Iterable[Member],
        *,
        fragments: int,
        on_found: OnFound,
    ) -> None:
        """`fragments` is the k that new records have; `on_found` is told of each object of the
        journals that an account lists, and its size."""
        self._keys = keys
        self._sources = [source for source in sources if source.id != NO_ACCOUNT]
        self._signers: Mapping[bytes, bytes] = {one.device: one.signing_key for one in members}
        self._fragments = fragments
        self._on_found = on_found

    def _verify(self, device: bytes, message: bytes, signature: bytes) -> bool:
        signer = self._signers.get(device)
        return signer is not None and signatures.is_signed(signer, message, signature)

    # --- heads --------------------------------------------------------------------------------

    async def head(self, device: bytes) -> Head | None:
        """The highest valid head of a device that any account has; None if there is none.

        An account whose head is missing or older than that is named in its complaints.
        """
        found: dict[str, Head] = {}

        async def look(copy: _Copy) -> None:
            data = await self._get(copy)
            if data is not None:
                head = await in_thread(self._open_head, copy, data)
                if head is not None and head.device == device:
                    found[copy.source.name] = head

        listed, others = self._copies(
            lambda epoch, account: self._head_name(epoch, device, account)
        )
        async with trio.open_nursery() as nursery:
            for copy in (*listed, *others):
                nursery.start_soon(look, copy)
        if not found:
            return None
        highest = max(found.values(), key=_rank)
        for source in self._sources:
            if _rank(found.get(source.name)) < _rank(highest):
                source.complaints.add("its journals end earlier than elsewhere")
        return highest

    def _head_name(self, epoch: int, device: bytes, account: bytes) -> str:
        return self._keys.head_name(epoch, device, account)

    def _open_head(self, copy: _Copy, data: bytes) -> Head | None:
        try:
            record = open_record(self._keys, Kind.HEAD, [data])
            return journal.decode_head(record.data, self._keys.volume, self._verify)
        except (Damaged, TooFewFragments) as error:
            logger.warning("account %s has a damaged head: %s", copy.source.name, error)
            copy.source.complaints.add("some of its objects are damaged")
            return None

    # --- segments -----------------------------------------------------------------------------

    async def read_chain(
        self,
        device: bytes,
        chain: int,
        after: Tip,
        end: Tip,
        send: trio.MemorySendChannel[Segment],
        *,
        window: int,
    ) -> None:
        """Send the segments of a chain that follow `after`, up to `end`, in order; then close.

        `window` are read at a time. Raises `TooFewFragments` where one cannot be had, `Damaged`
        where the chain does not lead from `after` to `end`. An end before `after` is an old head.
        """
        async with send:
            last = after
            if end.sequence < after.sequence:
                return
            while last.sequence < end.sequence:
                stop = min(last.sequence + window, end.sequence)
                records: dict[int, bytes] = {}
                async with trio.open_nursery() as nursery:
                    for sequence in range(last.sequence + 1, stop + 1):
                        nursery.start_soon(self._read_segment, device, chain, sequence, records)
                for sequence in range(last.sequence + 1, stop + 1):
                    segment = await self._checked(records.pop(sequence), device, chain, last)
                    last = segment.tip
                    await send.send(segment.segment)
            if last.hash != end.hash:
                raise Damaged(f"the journal of device {device.hex()} does not lead to its head")

    async def _read_segment(
        self, device: bytes, chain: int, sequence: int, records: dict[int, bytes]
    ) -> None:
        def name_of(epoch: int, account: bytes) -> str:
            return self._keys.segment_name(epoch, device, chain, sequence, account)

        try:
            record = await self.record(Kind.SEGMENT, name_of, turn=sequence)
        except TooFewFragments as error:
            text = f"segment {sequence} of chain {chain} of device {device.hex()}: {error}"
            raise TooFewFragments(text, error.failures) from error
        records[sequence] = record

    async def _checked(self, record: bytes, device: bytes, chain: int, last: Tip) -> "_Checked":
        checked = await in_thread(self._decode_segment, record)
        segment = checked.segment
        if (segment.device, segment.chain, segment.sequence) != (device, chain, last.sequence + 1):
            raise Damaged(f"a segment of device {device.hex()} lies under another one's name")
        if segment.previous != last.hash:
            raise Damaged(f"the journal of device {device.hex()} is broken at {segment.sequence}")
        return checked

    def _decode_segment(self, record: bytes) -> "_Checked":
        segment = journal.decode_segment(record, self._keys.volume, self._verify)
        return _Checked(segment, Tip(segment.sequence, journal.record_hash(record)))

    # --- checkpoints --------------------------------------------------------------------------

    def has_checkpoint(self, head: Head) -> bool:
        """Whether the listings have enough of each part of the checkpoint that a head names."""
        parts = range(head.checkpoint_parts)
        return bool(parts) and all(
            len(self._copies(self._part_names(head, part))[0])
            >= min(self._fragments, len(self._sources))
            for part in parts
        )

    async def part(self, head: Head, number: int) -> Part:
        """One part of the checkpoint that a head names. Raises `TooFewFragments`, `Damaged`."""
        names = self._part_names(head, number)
        record = await self.record(Kind.CHECKPOINT, names, turn=number)
        part = await in_thread(self._decode_part, record)
        place = (part.device, part.head.sequence, part.part, part.is_last)
        if place != (head.device, head.checkpoint, number, number == head.checkpoint_parts - 1):
            raise Damaged("a part of a checkpoint lies under another one's name")
        return part

    def _decode_part(self, record: bytes) -> Part:
        return decode_part(record, self._keys.volume, self._verify)

    def _part_names(self, head: Head, part: int) -> NameOf:
        def name_of(epoch: int, account: bytes) -> str:
            return self._keys.checkpoint_name(epoch, head.device, head.checkpoint, part, account)

        return name_of

    # --- records ------------------------------------------------------------------------------

    async def record(self, kind: Kind, name_of: NameOf, *, turn: int) -> bytes:
        """What a record holds whose fragments lie under these names. `turn` chooses who is asked
        first. Raises `TooFewFragments`."""
        listed, others = self._copies(name_of)
        turn %= max(1, len(listed))
        ordered = [*listed[turn:], *listed[:turn], *others]
        first = ordered[: self._fragments]
        held = await self._get_all(first)
        try:
            return await self._open(kind, held)
        except TooFewFragments:
            held += await self._get_all(ordered[len(first) :])
            return await self._open(kind, held)

    async def _open(self, kind: Kind, held: Sequence[tuple[_Copy, bytes]]) -> bytes:
        objects = [data for _, data in held]
        record: Record = await in_thread(open_record, self._keys, kind, objects)
        for position in record.bad:
            source = held[position][0].source
            logger.warning("account %s has a damaged object %s", source.name, held[position][0].key)
            source.complaints.add("some of its objects are damaged")
        return record.data

    def _copies(self, name_of: NameOf) -> tuple[list[_Copy], list[_Copy]]:
        """Where a record's fragments are by the listings, and where else they might be."""
        listed, others = [], []
        for source in self._sources:
            for epoch in range(self._keys.epoch, 0, -1):
                key = name_of(epoch, source.id)
                size = source.listing.size_of(key)
                if size is not None:
                    listed.append(_Copy(source, key, size))
                    self._on_found(source, key, size)
                    break
            else:
                others.append(_Copy(source, name_of(self._keys.epoch, source.id), None))
        return listed, others

    async def _get_all(self, copies: Iterable[_Copy]) -> list[tuple[_Copy, bytes]]:
        held: list[tuple[_Copy, bytes]] = []

        async def get(copy: _Copy) -> None:
            data = await self._get(copy)
            if data is not None:
                held.append((copy, data))

        async with trio.open_nursery() as nursery:
            for copy in copies:
                nursery.start_soon(get, copy)
        return held

    async def _get(self, copy: _Copy) -> bytes | None:
        """The object, None if it cannot be had: others may do."""
        store, size = copy.source.store, copy.size_bytes
        try:
            if size is None:
                size = (await store.head(copy.key)).size_bytes
            if size <= OBJECT_LIMIT_BYTES:
                return await store.get(copy.key)
            copy.source.complaints.add("some of its objects are damaged")
            return None
        except NotFound:
            return None
        except StoreError as error:
            logger.info("account %s: %s", copy.source.name, error)
            copy.source.complaints.add(f"not all could be read: {error}")
            return None


@dataclass(frozen=True, slots=True)
class _Checked:
    segment: Segment
    tip: Tip


def _rank(head: Head | None) -> tuple[int, int, int]:
    return (
        (0, 0, 0) if head is None else (head.count, head.control.sequence, head.namespace.sequence)
    )
