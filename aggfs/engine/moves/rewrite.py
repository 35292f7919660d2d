"""Live blocks of some stripes are sealed again, into a stripe of their own: compaction, and coding
with another k.

Theory of operation. The blocks are brought in and opened, sealed under a fresh id, staged, and
sent, as those of a file that was written; nothing refers to the new stripe until then, and should
the program end there, it is collected. When its write quorum is in place, one transaction has the
relocate entries and the content maps that named the old blocks. The entries apply wherever else
the old blocks are referred to (older versions, other devices). The old stripes stay as they are:
once nothing refers to them any more, they are collected.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import trio
from msgspec.structs import replace

from aggfs.cache.blocks import StripeState
from aggfs.coding import codec
from aggfs.engine.moves.live import Live, live_steps
from aggfs.engine.reading.fetch import Run
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, TooFewFragments, Unreachable
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.formats.table import (
    ROWS_LIMIT_BYTES,
    TableRow,
    decode_rows,
    decode_table,
    encode_rows,
    row_bytes,
)
from aggfs.model import BLOCK_BYTES, STRIPE_BYTES, DropStripe, Relocate, Sid, StripeRow
from aggfs.placement.policy import StorageClass
from aggfs.sync.versions import follow_moves
from aggfs.threads import in_slices, in_thread

STORED_SECONDS = 300.0
PIECES_LIMIT = 4096
SHARE_STRIPES = 50_000  # what is live of them is in memory
STRIPES_AT_ONCE = 200

Turn = Callable[[StripeState], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Block `index` of a stripe, as its table names it, and its bytes."""

    row: StripeRow
    index: int
    named: TableRow
    data: bytes


class Rewriter:
    """Seals blocks again. On the loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def replace_all(self, sids: Sequence[bytes], used: StorageClass, turn: Turn) -> bool:
        """Let nothing refer to these stripes any more, as far as they are in the accounts: what is
        live of them is sealed again. Whether something was live; the caller looks again then, for
        it may be so for a while yet: what refers to them is looked for once, before the first is
        read. Raises as `rewrite_all`."""
        was_live = False
        failures: list[TooFewFragments | Damaged] = []
        for start in range(0, len(sids), SHARE_STRIPES):
            live = await self._live(sids[start : start + SHARE_STRIPES])
            known = [sid for sid, blocks in live.blocks.items() if blocks]
            was_live = was_live or bool(known)
            for at in range(0, len(known), STRIPES_AT_ONCE):
                try:
                    ready = self._ready(known[at : at + STRIPES_AT_ONCE])
                    await self.rewrite_all(ready, live, used, turn)
                except (TooFewFragments, Damaged) as error:
                    failures.append(error)
        if failures:
            raise failures[0]
        return was_live

    async def _live(self, sids: Sequence[bytes]) -> Live:
        """What is live of these stripes, by one walk over all that may refer to them."""
        await self._parts.database.durable()
        with self._parts.database.snapshot() as snapshot:
            return await in_slices(live_steps(snapshot, sids))

    def _ready(self, sids: Sequence[bytes]) -> list[StripeState]:
        """Those of these stripes that are in the accounts now, and not on their way out."""
        states = [state for sid in sids if (state := self._parts.blocks.stripe(sid)) is not None]
        return [one for one in states if one.announced and not self._is_leaving(one.row.sid)]

    def _is_leaving(self, sid: bytes) -> bool:
        """Whether a stripe is not in all its accounts yet, or soon in none any more."""
        told = self._parts.tree.control(b"s" + sid)
        dying = told is not None and isinstance(told.entry, DropStripe)
        return dying or sid in self._parts.staging

    async def rewrite_all(
        self,
        states: Iterable[StripeState],
        live: Live,
        used: StorageClass,
        turn: Turn,
    ) -> None:
        """Seal what is live of these stripes into stripes of class `used`, several into one. `turn`
        is awaited before each of them is read. Raises as `_rewrite`; `TooFewFragments` or `Damaged`
        of one that cannot be read, when all others are done."""
        failures: list[TooFewFragments | Damaged] = []
        waiting: list[Piece] = []
        inodes: set[bytes] = set()
        for state in states:
            sid = state.row.sid
            await turn(state)
            for inode in live.inodes.get(sid, ()):  # a clone of what was moved before
                self.follow(inode)
                inodes.add(inode)
            try:
                waiting += await self._pieces(state, live.blocks[sid])
            except (TooFewFragments, Damaged) as error:
                failures.append(error)
            groups = pack(waiting)
            waiting = groups.pop() if groups else []
            for group in groups:
                await self._rewrite(group, inodes, used)
        if waiting:
            await self._rewrite(waiting, inodes, used)
        if failures:
            raise failures[0]

    async def _pieces(self, state: StripeState, live: int) -> list[Piece]:
        """The blocks of a stripe whose bits are set in `live`, but those that were sealed again
        before. Raises `TooFewFragments`, `Damaged`."""
        row = state.row
        for index in range(len(row.sealed_bytes) - 1):
            if live >> index & 1 and self._parts.tree.relocation(row.sid, index):
                live &= ~(1 << index)
        if not live:
            return []
        (table,) = await self._read(row, len(row.sealed_bytes) - 1, 1)
        _, encoded = decode_table(table)
        named = [one for known in decode_rows(encoded) for one in _each(known)]
        found = []
        for first, count in _runs(live, len(row.sealed_bytes) - 1):
            blocks = await self._read(row, first, count)
            for index, data in enumerate(blocks, first):
                if index >= len(named):
                    raise Damaged(f"the table of stripe {row.sid.hex()} names too few blocks")
                found.append(Piece(row, index, named[index], data))
        return found

    async def _read(self, row: StripeRow, first: int, count: int) -> list[bytes]:
        found: list[bytes] = []

        async def keep(blocks: Sequence[Buffer]) -> None:
            found.extend(bytes(block) for block in blocks)

        await self._parts.fetcher.blocks(Run(row, Kind.DATA, first, count), keep)
        return found

    async def _rewrite(
        self, pieces: Sequence[Piece], inodes: Iterable[bytes], used: StorageClass
    ) -> None:
        """Seal these blocks into one stripe of class `used`, and let all that refers to them refer
        to it: `inodes` are those whose content maps may. `pieces` fit a stripe.

        Raises `Unreachable` when it is not stored in time, `NoSpace`, `LocalDiskFailed`: nothing
        refers to it then. May be cancelled.
        """
        with self._parts.writers.work():
            sealed = await in_slices(
                codec.seal_steps(
                    self._parts.keys,
                    sid=Sid(self._parts.checkpointer.device + self._parts.random_bytes(16)),
                    kind=Kind.DATA,
                    blocks=[piece.data for piece in pieces],
                    table=encode_rows(_together(piece.named for piece in pieces)),
                    compress=used.compression,
                )
            )
            await in_thread(self._parts.staging.put, sealed.sid, codec.stage_bytes(sealed))
            self._parts.stripes.admit(sealed, used)
            await self._parts.stripes.send(Sid(sealed.sid), sealed)
            with trio.move_on_after(STORED_SECONDS):
                while not self._parts.stripes.is_stored(sealed.sid):
                    await self._parts.stripes.wait_change()
            if not self._parts.stripes.is_stored(sealed.sid):
                raise Unreachable("too few accounts take a stripe that was sealed again")
            self._relocate(pieces, sealed.sid, inodes)
            await self._parts.database.durable()

    def _relocate(self, pieces: Sequence[Piece], sid: bytes, inodes: Iterable[bytes]) -> None:
        """One transaction, no await."""
        for entry in relocations(pieces, sid):
            self._parts.namespace.relocate(entry)
        for inode in inodes:
            self.follow(inode)

    def follow(self, inode: bytes) -> None:
        """Let a content map name the places where its blocks are now. No await."""
        tree, blocks = self._parts.tree, self._parts.blocks

        def moved_to(sid: bytes, index: int) -> tuple[bytes, int] | None:
            known = tree.relocation(sid, index)
            return None if known is None else (known.sid, known.index)

        before = blocks.extents(inode, 0, 1 << 62)
        after = list(follow_moves(before, moved_to))
        if after != before:
            blocks.lay(inode, after)


def pack(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Groups of at most a stripe, in order."""
    groups: list[list[Piece]] = []
    group: list[Piece] = []
    room, rows_room = STRIPE_BYTES, ROWS_LIMIT_BYTES
    for piece in pieces:
        size, row = min(BLOCK_BYTES, len(piece.data)), row_bytes(piece.named)
        if group and (size > room or row > rows_room or len(group) == PIECES_LIMIT):
            groups.append(group)
            group, room, rows_room = [], STRIPE_BYTES, ROWS_LIMIT_BYTES
        group.append(piece)
        room, rows_room = room - size, rows_room - row
    return [*groups, group] if group else groups


def relocations(pieces: Sequence[Piece], sid: bytes) -> Iterator[Relocate]:
    """What says that the pieces are the blocks of a new stripe, in their order; runs together."""
    run: Relocate | None = None
    for to_index, piece in enumerate(pieces):
        if run is not None and (run.sid, run.index + run.count) == (piece.row.sid, piece.index):
            run = replace(run, count=run.count + 1)
            continue
        if run is not None:
            yield run
        run = Relocate(piece.row.sid, piece.index, 1, sid, to_index)
    if run is not None:
        yield run


def _each(row: TableRow) -> Iterator[TableRow]:
    for step in range(row.count):
        yield _named(row, row.block + step, 1)


def _together(rows: Iterable[TableRow]) -> Iterator[TableRow]:
    """Neighbours of one version of a file as one row."""
    last: TableRow | None = None
    for row in rows:
        if last is not None and _named(last, row.block, 1) == row == _follower(last):
            last = _named(last, last.block, last.count + 1)
            continue
        if last is not None:
            yield last
        last = row
    if last is not None:
        yield last


def _follower(row: TableRow) -> TableRow:
    return _named(row, row.block + row.count, 1)


def _named(row: TableRow, block: int, count: int) -> TableRow:
    return TableRow(row.inode, row.version, row.parent, row.name, row.size, block, count)


def _runs(bits: int, count: int) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of set bits below `count`."""
    at = 0
    while at < count:
        if not bits >> at & 1:
            at += 1
            continue
        end = at
        while end < count and bits >> end & 1:
            end += 1
        yield at, end - at
        at = end
