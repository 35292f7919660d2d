"""Where blocks are: the current content map of each inode, and the rows of stripes.

Tables (all on the loop, all in the transaction of the caller's other puts):

- `extents`: inode 16 + first block u64 -> (sid, index in the stripe, count): runs that do not
  overlap. A block that no run covers is a gap.
- `stripes`: sid 24 -> StripeState.
- `unfinished`: sid 24 -> nothing: stripes that are not full, or have attempts to clean up.
- `moving`: sid 24 -> nothing: stripes with copies beside their places.
- `totals`: b"stripes" -> u64, how many rows `stripes` has.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec

from aggfs.cache.table import Tables
from aggfs.errors import Damaged
from aggfs.model import BLOCK_BYTES, AccountId, Content, Extent, StripeRow, spare

TABLES = ("extents", "stripes", "unfinished", "moving", "totals")
PAGE_ROWS = 256

Sid24 = Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]


class StripeState(msgspec.Struct, frozen=True, array_like=True):
    """A stripe as this device knows it. Bit i of `confirmed`: fragment i is in its place.

    `announced`: the write quorum was reached, and a control entry names the row. `attempts` are
    (index, account) of puts that were given up: the fragment may be there, counts as present,
    and is to be deleted. `moving` are (index, account) of copies beside the places, on their way
    in or out: they count as present too, and whoever moves fragments deletes them.
    """

    row: StripeRow
    confirmed: int
    announced: bool = False
    attempts: tuple[tuple[int, bytes], ...] = ()
    moving: tuple[tuple[int, bytes], ...] = ()

    @property
    def confirmed_count(self) -> int:
        """How many fragments are in place."""
        return self.confirmed.bit_count()

    @property
    def in_place(self) -> tuple[int, ...]:
        """Which fragments are."""
        return tuple(i for i in range(len(self.row.places)) if self.confirmed >> i & 1)

    @property
    def spare(self) -> int:
        """How many more of them may be lost, whichever they are; negative: it cannot be read."""
        return spare(self.row, self.in_place)

    @property
    def full(self) -> bool:
        """Whether all n are."""
        return self.confirmed_count == len(self.row.places)

    def is_in_place(self, index: int, account: bytes) -> bool:
        """Whether fragment `index` has its place in this account, and is there."""
        placed = index < len(self.row.places) and self.row.places[index] == account
        return placed and bool(self.confirmed >> index & 1)

    def copies(self) -> frozenset[tuple[int, AccountId]]:
        """(index, account) of every fragment that is or may be there; also of indices that the
        row does not have any more."""
        placed = ((index, place) for index, place in enumerate(self.row.places) if place)
        known = (*placed, *self.attempts, *self.moving)
        return frozenset((index, AccountId(account)) for index, account in known)

    def may_hold(self, index: int) -> frozenset[AccountId]:
        """The accounts where fragment `index` is or may be."""
        return frozenset(account for number, account in self.copies() if number == index)


class _Run(msgspec.Struct, frozen=True, array_like=True):
    """The value of an extent row."""

    sid: Sid24
    index: int
    count: int


_encode = msgspec.msgpack.Encoder().encode
_decode_run = msgspec.msgpack.Decoder(_Run).decode
_decode_state = msgspec.msgpack.Decoder(StripeState).decode


def _key(inode: bytes, block: int) -> bytes:
    return inode + block.to_bytes(8)


class Blocks:
    """The tables above."""

    def __init__(self, database: Tables) -> None:
        """Over a database, or over a snapshot of one, which is only read."""

        self._extents = database.table("extents")
        self._stripes = database.table("stripes")
        self._unfinished = database.table("unfinished")
        self._moving = database.table("moving")
        self._totals = database.table("totals")

    # --- extents --------------------------------------------------------------------------------

    def extents(self, inode: bytes, first: int, end: int) -> list[Extent]:
        """The runs that cover blocks of [first, end), cut to it, in order."""
        found = []
        for extent in self._overlapping(inode, first, end):
            start, stop = max(extent.block, first), min(extent.block + extent.count, end)
            skipped = start - extent.block
            found.append(Extent(start, extent.sid, extent.index + skipped, stop - start))
        return found

    def _overlapping(self, inode: bytes, first: int, end: int) -> Iterator[Extent]:
        row = self._extents.last(inode, _key(inode, first))
        if row is not None:
            extent = self._extent(row)
            if extent.block + extent.count > first and extent.block < first:
                yield extent
        after = _key(inode, first - 1) if first else None
        below = _key(inode, end)
        while True:
            rows = self._extents.scan(inode, after, below=below, limit=PAGE_ROWS)
            yield from map(self._extent, rows)
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    @staticmethod
    def _extent(row: tuple[bytes, bytes]) -> Extent:
        try:
            run = _decode_run(row[1])
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Damaged(f"the local database holds a damaged extent: {error}") from error
        return Extent(int.from_bytes(row[0][16:]), run.sid, run.index, run.count)

    def clear(self, inode: bytes, first: int, end: int) -> None:
        """Make gaps of the blocks of [first, end)."""
        for extent in list(self._overlapping(inode, first, end)):
            self._extents.delete(_key(inode, extent.block))
            stop = extent.block + extent.count
            if extent.block < first:
                self._put(inode, extent.block, extent.sid, extent.index, first - extent.block)
            if stop > end:
                skipped = end - extent.block
                self._put(inode, end, extent.sid, extent.index + skipped, stop - end)

    def lay(self, inode: bytes, extents: Sequence[Extent]) -> None:
        """Lay runs over the map; what they cover is theirs now."""
        for extent in extents:
            self.clear(inode, extent.block, extent.block + extent.count)
            self._put(inode, extent.block, extent.sid, extent.index, extent.count)

    def all_extents(self) -> Iterator[tuple[bytes, Extent]]:
        """(inode, run) of every run, in order; changes on the way may be seen."""
        after: bytes | None = None
        while rows := self._extents.scan(b"", after, limit=PAGE_ROWS):
            yield from ((row[0][:16], self._extent(row)) for row in rows)
            after = rows[-1][0]

    def _put(self, inode: bytes, block: int, sid: bytes, index: int, count: int) -> None:
        self._extents.put(_key(inode, block), _encode(_Run(sid, index, count)))

    def apply(self, content: Content) -> None:
        """Make the map that of a new version whose base is the map's version."""
        kept_blocks = -(-content.kept_bytes // BLOCK_BYTES)
        self.clear(content.inode, 0 if content.inline else kept_blocks, 1 << 62)
        self.lay(content.inode, content.extents)

    # --- stripes ----------------------------------------------------------------------------------

    def stripe(self, sid: bytes) -> StripeState | None:
        """What is known of a stripe."""
        value = self._stripes.get(sid)
        if value is None:
            return None
        return self._state(value)

    @staticmethod
    def _state(value: bytes) -> StripeState:
        try:
            return _decode_state(value)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Damaged(f"the local database holds a damaged stripe row: {error}") from error

    def put_stripe(self, state: StripeState) -> None:
        """Remember it, and whether it still needs work."""
        if self._stripes.get(state.row.sid) is None:
            self._totals.put(b"stripes", (self.stripe_count + 1).to_bytes(8))
        self._stripes.put(state.row.sid, _encode(state))
        if state.full and not state.attempts:
            self._unfinished.delete(state.row.sid)
        else:
            self._unfinished.put(state.row.sid, b"")
        if state.moving:
            self._moving.put(state.row.sid, b"")
        elif self._moving.get(state.row.sid) is not None:
            self._moving.delete(state.row.sid)

    @property
    def stripe_count(self) -> int:
        """How many stripes there are."""
        value = self._totals.get(b"stripes")
        return int.from_bytes(value) if value else 0

    def unfinished(self, after: bytes | None = None, *, limit: int | None = None) -> list[bytes]:
        """The stripes that are not full, or some of them, in order of sid: an account that was
        emptied leaves that of all."""
        return [key for key, _ in self._unfinished.scan(b"", after, limit=limit)]

    def moving(self) -> list[bytes]:
        """The stripes with copies beside their places."""
        return [key for key, _ in self._moving.scan(b"")]

    def stripes(self, after: bytes | None = None, *, limit: int = 1000) -> list[StripeState]:
        """Some stripes in order of sid, for those who walk them all."""
        return [self._state(value) for _, value in self._stripes.scan(b"", after, limit=limit)]

    def drop_stripe(self, sid: bytes) -> None:
        """Forget it: it is not stored any more."""
        if self._stripes.get(sid) is None:
            return
        self._totals.put(b"stripes", (self.stripe_count - 1).to_bytes(8))
        self._stripes.delete(sid)
        self._unfinished.delete(sid)
        self._moving.delete(sid)
