"""The local state, made anew from what lies in the accounts.

Theory of operation. The best checkpoint is loaded, if there is one. The journals of all devices
from there on are read side by side, and their segments applied in about the order of their stamps
(the fold takes any order, but what comes late costs it steps back). When the tree is complete,
what is not in it follows from it: a stripe's row from the control entries and the listings, a
file's map from its versions, the ledger from rows and listings. Nothing is kept in memory but a
few segments and the listings.
"""

import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.cache.tree import LmdbTree
from aggfs.coding.codec import fragment_bytes
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.slots import OpenedHeader
from aggfs.engine.accounts import Ledger
from aggfs.engine.recovery.journals import JournalReader
from aggfs.engine.recovery.sources import Report, Source, identify_by_heads
from aggfs.errors import Damaged
from aggfs.formats.checkpoint import ExtentsImage, ImageRow, InodeImage, Part
from aggfs.formats.journal import CONTROL, NAMESPACE, NO_HASH, Head, Segment, Tip
from aggfs.model import (
    NO_ACCOUNT,
    AccountEntry,
    AccountId,
    Content,
    Entry,
    InodeRow,
    PutStripe,
    Stamp,
    StripeRow,
    spare,
)
from aggfs.sync.image import ImageLoader
from aggfs.sync.merge import apply_batch
from aggfs.sync.versions import block_map, follow_moves, placeholders

SEGMENTS_AT_ONCE = 16
BATCH_ENTRIES = 8192
ROWS_AT_ONCE = 1000
REPORTED_SEGMENTS = 25
STAMP_BYTES = 16

Feed = trio.MemoryReceiveChannel[Segment]
Tips = Mapping[tuple[bytes, int], Tip]


@dataclass(slots=True)
class Health:
    """How many stripes have all, enough, or too few fragments, where accounts that do not answer
    are taken to have what they should."""

    full: int = 0
    degraded: int = 0
    lost: int = 0


@dataclass(slots=True)
class Census:
    """What was found."""

    segments: int = 0
    files: int = 0
    directories: int = 0
    others: int = 0
    size_bytes: int = 0
    incomplete: list[bytes] = field(default_factory=list)
    stripes: Health = field(default_factory=Health)


class Refill:
    """Fills an empty database with a volume."""

    def __init__(
        self, sources: Sequence[Source], opened: OpenedHeader, database: Database, report: Report
    ) -> None:
        self._sources = sources
        self._opened = opened
        self._keys = VolumeKeys(opened.keyring, suite=opened.policy.suite)
        self._database = database
        self._report = report
        self._ledger = Ledger(database)
        self._blocks = Blocks(database)
        self.tree = LmdbTree(database)
        self.clock = 0  # the highest clock reading of all entries
        self.heads: Mapping[bytes, Head] = {}  # by device: where its journal ended
        self.census = Census()
        self._reader = JournalReader(
            self._keys,
            sources,
            opened.members,
            fragments=opened.policy.k,
            on_found=lambda source, key, size: self._ledger.put_object(source.id, key, size),
        )

    async def run(self) -> None:
        """Fill it. Raises `TooFewFragments` where less than k fragments of something can be had,
        `Damaged` where a journal contradicts itself."""
        heads = self.heads = await self._heads()
        tips = await self._load_checkpoint(heads.values())
        await self._replay(heads, tips)
        identify_by_heads(self._sources, self._keys, heads, self.accounts())
        await self._fill_stripes()
        await self._fill_maps()
        await self._database.durable()

    def accounts(self) -> dict[AccountId, AccountEntry]:
        """The accounts that the volume has, as its devices wrote them down."""
        return {
            AccountId(row.entry.account): row.entry
            for _, row in self.tree.control_under(b"a")
            if isinstance(row.entry, AccountEntry) and not row.entry.removed
        }

    # --- journals -----------------------------------------------------------------------------

    async def _heads(self) -> dict[bytes, Head]:
        heads: dict[bytes, Head] = {}
        for member in self._opened.members:
            head = await self._reader.head(member.device)
            if head is None:
                self._report(f"device {member.name}: has published nothing")
                continue
            heads[member.device] = head
            count = head.control.sequence + head.namespace.sequence
            self._report(f"device {member.name}: {count} journal segments")
        return heads

    async def _load_checkpoint(self, heads: Iterable[Head]) -> Tips:
        """Begin with the checkpoint that has the highest cut, if there is any: the segments, by
        device and chain, that it spares."""
        best: tuple[int, Head, Part] | None = None
        for head in heads:
            if self._reader.has_checkpoint(head):
                first = await self._reader.part(head, 0)
                if best is None or first.head.cut > best[0]:
                    best = first.head.cut, head, first
        if best is None:
            return {}
        cut, head, part = best
        loader = ImageLoader(self.tree)
        for number in range(head.checkpoint_parts):
            self._report(f"checkpoint: part {number + 1} of {head.checkpoint_parts}")
            if number > 0:
                part = await self._reader.part(head, number)
            if part.head != best[2].head:
                raise Damaged("the parts of a checkpoint do not fit together")
            for row in part.rows:
                loader.take(row)
                self.clock = max(self.clock, newest_clock(row))
            await self._database.durable()
        for _ in loader.finish(cut):
            await self._database.durable()
        return {
            (device, chain): tip
            for device, control, namespace in part.head.tips
            for chain, tip in ((CONTROL, control), (NAMESPACE, namespace))
        }

    async def _replay(self, heads: Mapping[bytes, Head], tips: Tips) -> None:
        """Every segment of every chain into the tree, but those that `tips` spare."""
        chains = [
            (device, chain, tips.get((device, chain), Tip(0, NO_HASH)), end)
            for device, head in heads.items()
            for chain, end in ((CONTROL, head.control), (NAMESPACE, head.namespace))
        ]
        total = sum(max(0, end.sequence - tip.sequence) for _, _, tip, end in chains)
        feeds: list[Feed] = []
        async with trio.open_nursery() as nursery:
            for device, chain, tip, end in chains:
                send, receive = trio.open_memory_channel[Segment](0)
                feeds.append(receive)
                read = partial(
                    self._reader.read_chain, window=max(1, SEGMENTS_AT_ONCE // len(chains))
                )
                nursery.start_soon(read, device, chain, tip, end, send)
            await self._apply(feeds, total)

    async def _apply(self, feeds: Sequence[Feed], total: int) -> None:
        """Apply what the feeds bring, the segment with the lowest stamp first."""
        waiting: dict[Feed, Segment] = {}
        for feed in feeds:
            await _take(feed, waiting)
        batch: list[tuple[Stamp, Entry]] = []
        while waiting:
            feed = min(waiting, key=lambda one: _begin(waiting[one]))
            segment = waiting.pop(feed)
            batch += [(Stamp(clock, segment.device), entry) for clock, entry in segment.entries]
            if len(batch) >= BATCH_ENTRIES:
                await self._apply_batch(batch)
                batch = []
            self.census.segments += 1
            if self.census.segments % REPORTED_SEGMENTS == 0:
                self._report(f"{self.census.segments} of {total} journal segments")
            await _take(feed, waiting)
        await self._apply_batch(batch)

    async def _apply_batch(self, batch: Sequence[tuple[Stamp, Entry]]) -> None:
        if batch:
            self.clock = max(self.clock, *(stamp.clock for stamp, _ in batch))
            apply_batch(self.tree, batch)
            await self._database.durable()

    # --- stripes ------------------------------------------------------------------------------

    async def _fill_stripes(self) -> None:
        """A row for each stripe, with what the listings have of it."""
        used: Counter[AccountId] = Counter()
        held = {source.id: source for source in self._sources if source.id != NO_ACCOUNT}
        for count, (_, control) in enumerate(self.tree.control_under(b"s")):
            if isinstance(control.entry, PutStripe):
                self._fill_stripe(control.entry.row, held, used)
            if count % ROWS_AT_ONCE == 0:
                await self._database.throttle()
                await trio.lowlevel.checkpoint()
        for account, size in used.items():
            self._ledger.add(account, size)

    def _fill_stripe(
        self, row: StripeRow, held: Mapping[AccountId, Source], used: Counter[AccountId]
    ) -> None:
        size = fragment_bytes(row.sealed_bytes, row.k)
        confirmed = 0
        away: list[int] = []
        for index, place in enumerate(row.places):
            if not place:
                continue
            account = AccountId(place)
            used[account] += size  # an account that is away may have it
            source = held.get(account)
            if source is None:
                away.append(index)
                continue
            name = self._keys.fragment_name(row.epoch, row.sid, index, account)
            if source.listing.size_of(name) == size:
                confirmed |= 1 << index
        state = StripeState(row, confirmed, announced=True)
        self._blocks.put_stripe(state)
        health = self.census.stripes
        if state.full:
            health.full += 1
        elif spare(row, (*state.in_place, *away)) >= 0:
            health.degraded += 1
        else:
            health.lost += 1

    # --- maps of files ------------------------------------------------------------------------

    async def _fill_maps(self) -> None:
        """The content map of each file that has a name."""
        moved_to = self._moved_to()
        for count, row in enumerate(self.tree.all_inodes()):
            if row.nlink:
                self._count(row)
                if stat.S_ISREG(row.mode) and row.heads:
                    self._fill_map(row, moved_to)
            if count % ROWS_AT_ONCE == 0:
                await self._database.throttle()
                await trio.lowlevel.checkpoint()

    def _count(self, row: InodeRow) -> None:
        if stat.S_ISREG(row.mode):
            self.census.files += 1
            self.census.size_bytes += row.size
        elif stat.S_ISDIR(row.mode):
            self.census.directories += 1
        else:
            self.census.others += 1

    def _fill_map(
        self, row: InodeRow, moved_to: Callable[[bytes, int], tuple[bytes, int] | None] | None
    ) -> None:
        shown = self._content(row.inode, row.heads[0])
        if shown is None:
            self.census.incomplete.append(row.inode)
            return
        found = block_map(shown, partial(self._content, row.inode))
        extents = found.extents
        if moved_to is not None:
            extents = tuple(follow_moves(extents, moved_to))
        self._blocks.lay(row.inode, extents)
        if found.unknown:
            self.census.incomplete.append(row.inode)
            self._blocks.lay(row.inode, tuple(placeholders(found.unknown)))

    def _content(self, inode: bytes, version: bytes) -> Content | None:
        row = self.tree.version(inode, version)
        return None if row is None else row.content

    def _moved_to(self) -> Callable[[bytes, int], tuple[bytes, int] | None] | None:
        """Where blocks were moved to; None when no block ever was."""
        if next(self.tree.all_relocations(), None) is None:
            return None

        def moved_to(sid: bytes, index: int) -> tuple[bytes, int] | None:
            row = self.tree.relocation(sid, index)
            return None if row is None else (row.sid, row.index)

        return moved_to


def newest_clock(row: ImageRow) -> int:
    """The highest clock reading of the stamps in a row of a checkpoint."""
    if isinstance(row, ExtentsImage):
        return 0
    stamps = row.registers if isinstance(row, InodeImage) else row.when
    clocks = (stamps[at : at + 8] for at in range(0, len(stamps), STAMP_BYTES))
    return int.from_bytes(max(clocks))


async def _take(feed: Feed, waiting: dict[Feed, Segment]) -> None:
    """Let the next segment of a feed wait, if there is one."""
    try:
        waiting[feed] = await feed.receive()
    except trio.EndOfChannel:
        return


def _begin(segment: Segment) -> int:
    return min((clock for clock, _ in segment.entries), default=0)
