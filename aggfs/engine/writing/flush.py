"""Sending out: dirty files are frozen, sealed into stripes, and become entries.

Theory of operation. A round takes some dirty files and freezes each at one instant. Their dirty
blocks, one file after the other, are cut into stripes (small files share one). The frozen blocks
of a stripe are read, its id is drawn, they are sealed, and staged: from then on only those bytes
exist under that id. When all blocks of a file are staged, its new version is captured as a
Content entry in the outbox, together with the content map, in one transaction; the dirty marks
go, unless bytes were written meanwhile. The entry is published when its stripes have reached
their write quorum. Nothing here waits for an account, except for room in staging.
"""

import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import trio

from aggfs.cache.frozen import Fetched, Frozen
from aggfs.cache.staging import Staging
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.pool import Pool, Shelf
from aggfs.engine.works import Works
from aggfs.engine.writing.capture import Capture, FrozenFile
from aggfs.engine.writing.lanes import LANES_LIMIT
from aggfs.engine.writing.stripes import Stripes
from aggfs.errors import AggfsError, Damaged, LocalDiskFailed, NoSpace
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.formats.table import ROWS_LIMIT_BYTES, TableRow, encode_rows, row_bytes
from aggfs.model import BLOCK_BYTES, INLINE_BYTES, STRIPE_BYTES, DeviceId, Extent, Sid
from aggfs.threads import in_slices, in_thread, list_in_slices

STRIPE_PIECES = 4096
SEALERS = 2
SHELF_BYTES = STRIPE_BYTES + 64 * 1024
TICK_SECONDS = 0.5
SLOT_SECONDS = 5.0
ROOM_SECONDS = 60.0
SCRATCHES = LANES_LIMIT + SEALERS + 1
READ_BLOCKS = 4
ZEROS = bytes(BLOCK_BYTES)
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Work:
    """One frozen file on its way: which of its blocks are already staged, and where; and how many
    are seen to, those that stay gaps included."""

    file: FrozenFile
    staged: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    done: int = 0

    @property
    def complete(self) -> bool:
        """Whether every block is staged, or a gap."""
        return self.done == len(self.file.blocks)

    def extents(self) -> tuple[Extent, ...]:
        """The staged blocks as runs."""
        runs: list[Extent] = []
        for block in sorted(self.staged):
            sid, index = self.staged[block]
            last = runs[-1] if runs else None
            if last and _continues(last, block, sid, index):
                runs[-1] = Extent(last.block, sid, last.index, last.count + 1)
            else:
                runs.append(Extent(block, sid, index, 1))
        return tuple(runs)


def _continues(run: Extent, block: int, sid: bytes, index: int) -> bool:
    return (run.sid, run.block + run.count, run.index + run.count) == (sid, block, index)


@dataclass(frozen=True, slots=True)
class Piece:
    """One block of one frozen file, `size_bytes` long."""

    work: Work
    block: int
    size_bytes: int

    def is_gap(self, data: Buffer) -> bool:
        """Whether these are zeros, and nothing lies under them."""
        gaps = self.work.file.gaps
        return ZEROS.startswith(data) and gaps.contains(self.block, self.block + 1)


def cut_into_stripes(works: Iterable[Work]) -> Iterator[list[Piece]]:
    """The dirty blocks of all files, in order, in groups of at most a stripe."""
    group: list[Piece] = []
    room, rows_room = STRIPE_BYTES, ROWS_LIMIT_BYTES
    for work in works:
        for block in work.file.blocks:
            size = min(BLOCK_BYTES, work.file.size - block * BLOCK_BYTES)
            row = row_bytes(_table_row(work, block))
            if group and (size > room or row > rows_room or len(group) == STRIPE_PIECES):
                yield group
                group, room, rows_room = [], STRIPE_BYTES, ROWS_LIMIT_BYTES
            group.append(Piece(work, block, size))
            room, rows_room = room - size, rows_room - row
    if group:
        yield group


def _table_row(work: Work, block: int, count: int = 1) -> TableRow:
    file = work.file
    return TableRow(file.inode, file.version, file.parent, file.name, file.size, block, count)


def _table(pieces: Sequence[Piece]) -> bytes:
    """The table's rows: runs of blocks of one file together."""
    rows: list[TableRow] = []
    for piece in pieces:
        last = rows[-1] if rows else None
        if (
            last
            and last.version == piece.work.file.version
            and last.block + last.count == piece.block
        ):
            rows[-1] = _table_row(piece.work, last.block, last.count + 1)
        else:
            rows.append(_table_row(piece.work, piece.block))
    return encode_rows(rows)


def _settle(pieces: Sequence[Piece]) -> Generator[None, None, None]:
    """Put what rows are left of what is clean since its capture: of a large file there are many."""
    for sparse in {piece.work.file.file.sparse: None for piece in pieces if piece.work.complete}:
        while sparse.settle():
            yield


@dataclass(slots=True)
class Reading:
    """Memory for the blocks of one stripe: as they lie on the disk, and in plain."""

    raw: Shelf = field(default_factory=lambda: Shelf(SHELF_BYTES))
    plain: Shelf = field(default_factory=lambda: Shelf(SHELF_BYTES))

    def fetch(self, pieces: Sequence[Piece]) -> list[tuple[Frozen, Fetched]]:
        """In a worker: the frozen bytes of the pieces, some blocks at once where they follow each
        other."""
        found = []
        start = 0
        for end in range(1, len(pieces) + 1):
            first, last = pieces[start], pieces[end - 1]
            follows = end < len(pieces) and pieces[end].work is last.work
            if follows and pieces[end].block == last.block + 1 and end - start < READ_BLOCKS:
                continue
            frozen = first.work.file.frozen
            found.append((frozen, frozen.fetch(first.block, end - start, self.raw.piece)))
            start = end
        return found

    def opened(self, fetched: Sequence[tuple[Frozen, Fetched]]) -> Iterator[list[Buffer]]:
        """The blocks in plain, those together that were fetched together."""
        for frozen, some in fetched:
            yield frozen.open(some, self.plain.piece)

    def clear(self) -> None:
        """Nobody uses the blocks any more."""
        self.raw.clear()
        self.plain.clear()


class Flusher:
    """Brings dirty files into stripes and their versions into the outbox."""

    def __init__(
        self,
        keys: VolumeKeys,
        device: DeviceId,
        capture: Capture,
        stripes: Stripes,
        staging: Staging,
        *,
        compression: str | None,
        staging_limit_bytes: int,
        writers: Works,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._keys = keys
        self._device = device
        self._capture = capture
        self._stripes = stripes
        self._staging = staging
        self._compression = compression
        self._staging_limit_bytes = staging_limit_bytes
        self._writers = writers
        self._random_bytes = random_bytes
        self._readings = Pool(Reading, count=SEALERS)
        self._scratches = Pool(codec.Scratch, count=SCRATCHES)
        self._rounds = trio.Lock()

    async def run(self, nursery: trio.Nursery) -> None:
        """Flush what is due, for ever. Uploads go on in `nursery`."""
        while True:
            due = self._capture.due()
            if due:
                await self.flush(due, nursery)
            await self._capture.wait_for_work(TICK_SECONDS)

    async def flush(self, numbers: Sequence[int], nursery: trio.Nursery) -> set[int]:
        """Bring the present content of these files into staging and the outbox; which of them
        have got there.

        Uploads are started in `nursery` and not waited for. A file that fails keeps its dirty
        marks and its error. Raises `LocalDiskFailed`. May be cancelled: what was not captured
        stays dirty.
        """
        async with self._rounds:
            with self._writers.work():
                return await self._flush(numbers, nursery)

    async def _flush(self, numbers: Sequence[int], nursery: trio.Nursery) -> set[int]:
        works = []
        try:
            for number in numbers:
                frozen = await self._freeze(number)
                if frozen is not None:
                    works.append(Work(frozen))
            await self._seal_all(works, nursery)
        finally:
            for work in works:
                if not work.file.captured:
                    self._capture.thaw(work.file)
        return {work.file.file.number for work in works if work.file.captured}

    async def _freeze(self, number: int) -> FrozenFile | None:
        try:
            return await self._capture.freeze(number)
        except (OSError, AggfsError) as error:
            self._tell([number], error)
            return None

    async def _seal_all(self, works: Sequence[Work], nursery: trio.Nursery) -> None:
        bulky = []
        for work in works:
            if work.file.size <= INLINE_BYTES:
                await self._take_inline(work)
            elif work.complete:
                self._capture.capture(work.file, ())
            else:
                bulky.append(work)
        well = cut_into_stripes(work for work in bulky if not work.file.file.failures)
        # What failed before gets stripes of its own, so that it takes no other file along again.
        failing = (cut_into_stripes([work]) for work in bulky if work.file.file.failures)
        fatal: list[LocalDiskFailed] = []

        async def seal(pieces: Sequence[Piece], scratch: codec.Scratch) -> None:
            try:
                await self._seal_and_send(pieces, scratch, nursery)
            except LocalDiskFailed as error:
                fatal.append(error)

        async with trio.open_nursery() as sealing:
            for pieces in chain(well, *failing):
                await self._wait_for_staging()
                scratch = await self._scratches.take()
                sealing.start_soon(seal, tuple(pieces), scratch)
        if fatal:
            raise fatal[0]

    async def _take_inline(self, work: Work) -> None:
        try:
            data = await self._capture.read_frozen(work.file)
            self._capture.capture(work.file, (), inline=data)
        except (OSError, AggfsError) as error:
            self._tell([work.file.file.number], error)

    async def _wait_for_staging(self) -> None:
        """Back-pressure: accounts that are slow or away fill staging, then sealing waits."""
        while self._staging.size_bytes > self._staging_limit_bytes:
            await self._stripes.wait_change()

    async def _seal_and_send(
        self, pieces: Sequence[Piece], scratch: codec.Scratch, nursery: trio.Nursery
    ) -> None:
        lent = False
        try:
            staged, sealed = await self._sealed(pieces, scratch)
            if sealed is not None:
                await self._stage(sealed)
            self._take_over(pieces, staged, sealed)
            await in_slices(_settle(pieces))
            if sealed is not None and await self._stripes.wait_for_slot(SLOT_SECONDS):
                nursery.start_soon(self._send, sealed, scratch)
                lent = True
        except (OSError, AggfsError) as error:
            self._tell({piece.work.file.file.number for piece in pieces}, error)
        finally:
            if not lent:
                self._scratches.give_back(scratch)

    def _tell(self, numbers: Collection[int], error: OSError | AggfsError) -> None:
        """These files could not be sent out: they stay dirty, and their programs are told. Raises
        the error when it is the whole disk's."""
        if isinstance(error, LocalDiskFailed):
            raise error
        logger.warning("%d files cannot be sent out now: %s", len(numbers), error)
        known = error if isinstance(error, AggfsError) else Damaged(f"the local disk: {error}")
        for number in numbers:
            self._capture.failed(number, known)

    async def _stage(self, sealed: codec.SealedStripe) -> None:
        """Where the local disk is full, wait for stripes to reach the accounts, and put the same
        bytes again. Raises `NoSpace` when none does; `LocalDiskFailed`."""
        deadline = trio.current_time() + ROOM_SECONDS
        while True:
            try:
                await in_thread(self._staging.put, sealed.sid, codec.stage_bytes(sealed))
                return
            except NoSpace:
                if not self._staging.size_bytes or trio.current_time() >= deadline:
                    raise
            with trio.move_on_at(deadline):
                await self._stripes.wait_change()

    async def _sealed(
        self, pieces: Sequence[Piece], scratch: codec.Scratch
    ) -> tuple[Sequence[Piece], codec.SealedStripe | None]:
        """Read and seal; which of the pieces are in the stripe, and none if all stay gaps. Its id
        is drawn here and nowhere else; any failure before the staging file is durable discards
        it with the bytes."""
        async with self._readings.lent() as reading:
            try:
                fetched = await in_thread(reading.fetch, pieces)
                opened = await list_in_slices(reading.opened(fetched))
                read = zip(pieces, chain.from_iterable(opened), strict=True)
                kept = [(piece, data) for piece, data in read if not piece.is_gap(data)]
                if not kept:
                    return (), None
                staged = [piece for piece, _ in kept]
                sealed = await in_slices(
                    codec.seal_steps(
                        self._keys,
                        sid=Sid(self._device + self._random_bytes(16)),
                        kind=Kind.DATA,
                        blocks=[data for _, data in kept],
                        table=_table(staged),
                        compress=self._compression,
                        scratch=scratch,
                    )
                )
                return staged, sealed
            finally:
                reading.clear()

    def _take_over(
        self,
        pieces: Sequence[Piece],
        staged: Sequence[Piece],
        sealed: codec.SealedStripe | None,
    ) -> None:
        """Rows for a staged stripe, and for every file that is complete with it; one
        transaction, no await. What of `pieces` is not staged stays a gap."""
        for piece in pieces:
            piece.work.done += 1
        if sealed is not None:
            self._stripes.admit(sealed)
            for index, piece in enumerate(staged):
                piece.work.staged[piece.block] = (sealed.sid, index)
        for work in {id(piece.work): piece.work for piece in pieces}.values():
            if work.complete:
                self._capture.capture(work.file, work.extents())

    async def _send(self, sealed: codec.SealedStripe, scratch: codec.Scratch) -> None:
        try:
            await self._stripes.send(sealed.sid, sealed)
        except AggfsError as error:  # it stays staged, and is caught up with
            logger.error("a stripe could not be sent: %s", error)
        finally:
            self._scratches.give_back(scratch)
