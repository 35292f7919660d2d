"""Contents of files as the mount sees them: read, write, truncate, fsync.

Each inode in use has one sparse file, which holds what is here: local edits (dirty) and clean
bytes that the accounts have too. A read takes what is present; for a hole it asks the content
map which stripe has the block, and has it filled. What neither has is a gap: zeros.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.landing import memory_bytes
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.pool import Pool
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.openfiles import OpenFile, OpenFiles
from aggfs.engine.reading.room import Room
from aggfs.errors import LocalDiskFailed, NoEntry, NoSpace
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, FILE_BYTES_LIMIT, INLINE_BYTES, InodeRow
from aggfs.sync.holes import Ranges
from aggfs.threads import in_thread

THREAD_BYTES = 128 * 1024
REQUEST_BYTES = 1024 * 1024
NEW_SECONDS = 60
WORKERS = 4
MANY_EXTENTS = 32
MAPPED_FILES = 64

Store = Callable[[int], Awaitable[None]]
Asks = Callable[[int], bool]


class Files:
    """The contents of all regular files."""

    def __init__(
        self,
        database: Database,
        namespace: Namespace,
        blocks: Blocks,
        open_files: OpenFiles,
        filler: Filler,
        room: Room,
        clock_ns: Callable[[], int],
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._blocks = blocks
        self._open_files = open_files
        self._filler = filler
        self._room = room
        self._clock_ns = clock_ns
        self._workers = trio.CapacityLimiter(WORKERS)
        self._memory = Pool(lambda: bytearray(memory_bytes(REQUEST_BYTES)), count=WORKERS)
        self._mapped: dict[int, tuple[object, Ranges]] = {}
        self._new_after_ns = 0
        self._store: Store | None = None
        self._waits_at_fsync: Asks = lambda number: False
        self._waits_at_close: Asks = lambda number: False

    def wait_for_accounts(self, store: Store, *, at_fsync: Asks, at_close: Asks) -> None:
        """Let fsync or close return only when `store` has brought the file into the accounts,
        where `at_fsync` or `at_close` says so."""
        self._store = store
        self._waits_at_fsync, self._waits_at_close = at_fsync, at_close

    async def opened(self, number: int, *, truncate: bool) -> None:
        """One more handle; `truncate` for O_TRUNC. None more if that fails."""
        if truncate:
            await self.truncate(number, 0)
        self._open_files.opened(number)

    async def released(self, number: int) -> None:
        """One handle less. What replaces a content that was given up is brought to the disk: a
        file that is emptied and written anew must not be empty after a loss of power."""
        file = self._open_files.known(number)
        self._open_files.released(number)
        if file is not None and file.emptied and not self._open_files.has_handles(number):
            await self._sync(file)

    # --- reading ------------------------------------------------------------------------------

    async def read(self, number: int, offset: int, length: int) -> Buffer:
        """At most `length` bytes; fewer only at the end of the file. Raises `TooFewFragments`.

        What was fetched may be cut off or evicted before it is read, and is fetched again then:
        there is one deadline for all of it.
        """
        until = self._filler.deadline()
        while True:
            end = min(offset + length, self._open_files.size(number))
            if offset >= end:
                return b""
            file = self._open_files.use(number)
            self._filler.read_ahead(file.target, offset, end)
            try:
                found = await self._read_filling(file, offset, end, until)
            except NoSpace:
                return await self._read_past(file, offset, end, until)
            if found is not None:
                return found

    async def _read_filling(
        self, file: OpenFile, offset: int, end: int, until: float
    ) -> Buffer | None:
        """None: the file has another content now, which may be longer or shorter."""
        while True:
            sparse = file.sparse
            missing = sparse.missing(offset, end)
            if missing:
                await self._fill_all(file, missing, until)
            else:
                file.target.around.found()
            if file.sparse is not sparse:
                return None
            if end - offset <= REQUEST_BYTES:
                cached = file.sparse.read_cached(offset, end - offset)
                if cached is not None:
                    return cached
            data, holes = await self._read_present(file, offset, end - offset)
            file.sparse.settle()
            if not holes or not self._has_source(file, holes):
                return data

    async def _read_present(
        self, file: OpenFile, offset: int, length: int
    ) -> tuple[Buffer, list[tuple[int, int]]]:
        return await in_thread(file.sparse.read, offset, length, limiter=self._workers)

    async def _read_past(self, file: OpenFile, offset: int, end: int, until: float) -> Buffer:
        """As `read`, where the local disk has no room for what is fetched: it goes to the reader
        and nowhere else. What is written here meanwhile is newer."""
        fetched: dict[int, Buffer] = {}
        state: tuple[object, int] = (None, 0)
        while True:
            if state != (file.sparse, file.sparse.removals):  # what was fetched may be cut off
                state = (file.sparse, file.sparse.removals)
                fetched.clear()
            length = max(0, min(end, self._open_files.size(file.number)) - offset)
            data, holes = await self._read_present(file, offset, length)
            file.sparse.settle()
            unknown = [
                (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
                for low, high in holes
                for block in range(low // BLOCK_BYTES, -(-high // BLOCK_BYTES))
                if block not in fetched
            ]
            more = await self._filler.pass_by(file.target, unknown, until) if unknown else {}
            if not more and state == (file.sparse, file.sparse.removals):
                return laid_over(data, offset, holes, fetched)
            fetched.update(more)

    def _has_source(self, file: OpenFile, holes: list[tuple[int, int]]) -> bool:
        """Whether holes that a read met could be filled: bytes here proved damaged."""
        return bool(self._filler.sources(file.target, holes)) or self._filler.fill_inline(
            file.target, holes
        )

    async def _fill_all(self, file: OpenFile, missing: list[tuple[int, int]], until: float) -> None:
        if self._filler.fill_inline(file.target, missing):
            return
        sources = self._filler.sources(file.target, missing)
        if sources:
            await self._filler.fill(file.target, sources, until)

    # --- writing ------------------------------------------------------------------------------

    async def write(self, number: int, offset: int, data: Buffer) -> int:
        """All of `data`. Raises `NoSpace`, `LocalDiskFailed`."""
        await self._room.claim(len(data))
        await self._database.throttle()
        file = self._open_files.use(number)
        while True:
            if file.reshaping:
                await file.in_shape()
            elif file.sparse.landings.overlap(offset, offset + len(data)):
                await file.sparse.landings.wait()
            elif self._rests_on_unsynced(file):
                await self._sync(file)
            else:
                break
            file = self._open_files.use(number)
        self._open_files.begin_edit(file)
        file.sparse.load(offset, offset + len(data))
        if len(data) < THREAD_BYTES:
            file.sparse.write(offset, data)
        else:
            await self._write_in_worker(file, offset, data)
        file.sparse.settle()
        file.written_at = trio.current_time()
        end = offset + len(data)
        if end > self._open_files.size(number):
            self._set_size(number, end)
        else:
            now = self._clock_ns()
            self._namespace.touch_local(number, mtime_ns=now, ctime_ns=now)
        return len(data)

    @staticmethod
    def _rests_on_unsynced(file: OpenFile) -> bool:
        """Whether an edit would be the first over bytes that the accounts have, and that are not
        on this disk for certain: should a loss of power take the edit back and leave its mark,
        bytes of before the last version would stand there. Or of before the last cut."""
        syncing = file.sparse.syncing
        return syncing.pending and (syncing.cut or not file.edited)

    async def _write_in_worker(self, file: OpenFile, offset: int, data: Buffer) -> None:
        """Counted, so that no capture meanwhile takes the file for clean."""
        file.writers += 1
        try:
            with file.sparse.landings.held_off():
                async with self._memory.lent() as memory:
                    raw = file.sparse.encrypted(offset, data, memoryview(memory))
                    await in_thread(file.sparse.write, offset, data, raw)
        finally:
            file.writers -= 1
            file.written.set()
            file.written = trio.Event()

    def _set_size(self, number: int, size: int) -> None:
        now = self._clock_ns()
        self._namespace.touch_local(number, size=size, mtime_ns=now, ctime_ns=now)

    async def truncate(self, number: int, size: int) -> None:
        """Make the file `size` bytes long. What a longer file gains is a gap."""
        file = self._open_files.use(number)
        async with file.reshape():
            if size and self._rests_on_unsynced(file):
                await self._sync(file)
            self._open_files.begin_edit(file)
            before = self._open_files.size(number)
            if size < before and size == 0:
                self._open_files.start_anew(file)
                self._set_size(number, 0)
                self._database.before_commit(("sparse", number), file.sparse.sync)
            elif size < before:
                await self._shrink(file, size)
            else:
                self._set_size(number, size)
        self._open_files.rest(file)

    async def _shrink(self, file: OpenFile, size: int) -> None:
        """Cut within the file. The block of the cut becomes dirty, so that no version takes
        back what lay behind it in the accounts."""
        edge = await self.read(file.number, size - 1, 1)
        was_unsure = file.unsure
        self._set_size(file.number, size)
        self._open_files.cut_map(file, size)
        file.unsure = True  # until the edge is an edit; should the disk refuse it, it is made later
        await self._database.durable()
        landings = file.sparse.landings
        with landings.held_off():  # else one who reads in order would keep us waiting
            while landings.overlap(0, FILE_BYTES_LIMIT):
                await landings.wait()
        file.sparse.cut(size)
        if size % BLOCK_BYTES:
            file.sparse.write(size - 1, edge)
        file.sparse.settle()
        file.unsure = was_unsure

    # --- making sure --------------------------------------------------------------------------

    async def fsync(self, number: int) -> None:
        """Everything written to this file survives a loss of power; with fsync=cloud, also the
        loss of this machine. Raises `LocalDiskFailed`."""
        file = self._open_files.known(number)
        if file is not None:
            await self._sync(file)
        await self._database.durable()
        if self._store is not None and self._waits_at_fsync(number):
            await self._store(number)

    async def _sync(self, file: OpenFile) -> None:
        file.emptied = False
        try:
            await in_thread(file.sparse.sync, limiter=self._workers)
        except LocalDiskFailed as error:
            self._database.give_up(str(error))
            raise

    async def fsync_directory(self) -> None:
        """Every name that was made or changed survives a loss of power."""
        await self._database.durable()

    async def flush(self, number: int) -> None:
        """close(2): tells what went wrong with this file since; with close=cloud, returns when
        the accounts have it."""
        file = self._open_files.known(number)
        if file is not None and file.error is not None:
            error, file.error = file.error, None
            raise error
        if self._store is not None and self._waits_at_close(number):
            await self._store(number)

    def sync_before_commit(self, number: int) -> None:
        """This file replaces another by rename: its bytes must be on the disk no later."""
        file = self._open_files.edited_file(number)
        if file is not None:
            self._database.before_commit(("sparse", number), file.sparse.sync)

    # --- asking -------------------------------------------------------------------------------

    def may_get_content(self, inode: bytes) -> bool:
        """Whether an inode has content in no outbox row, or was just made and is still open: it
        is not published as it is now. One that is gone gets nothing more."""
        try:
            row = self._namespace.by_inode(inode)
        except NoEntry:
            return False
        if not row.nlink:
            return False
        if self.is_dirty(row.number):
            return True
        if row.btime_ns <= self._new_after_ns or not self._open_files.has_handles(row.number):
            return False
        return 0 <= self._clock_ns() - row.btime_ns < NEW_SECONDS * 10**9

    def wait_for_none(self) -> None:
        """Files made until now are published as they are: somebody waits for that."""
        self._new_after_ns = self._clock_ns()

    def is_dirty(self, number: int) -> bool:
        """Whether the file has content that no outbox row has."""
        return self._open_files.edited_file(number) is not None

    def allocated_bytes(self, row: InodeRow) -> int:
        """How much of the file is no gap; for `st_blocks`."""
        if row.size <= INLINE_BYTES:
            return row.size
        file = self._open_files.edited_file(row.number)
        mapped = self._mapped_blocks(row, file)
        blocks = -(-row.size // BLOCK_BYTES)
        allocated = mapped.total * BLOCK_BYTES
        if mapped.contains(blocks - 1, blocks):
            allocated -= blocks * BLOCK_BYTES - row.size
        if file is None or allocated == row.size:
            return allocated
        for start, end in file.sparse.dirty_ranges():
            for low, high in mapped.missing(start // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
                allocated += min(end, high * BLOCK_BYTES) - max(start, low * BLOCK_BYTES)
        return allocated

    def _mapped_blocks(self, row: InodeRow, file: OpenFile | None) -> Ranges:
        """The blocks that the content map has. Looking takes milliseconds for each GiB, and only
        another version or a cut changes it: of large files it is remembered."""
        kept = row.size if file is None else file.target.kept_bytes
        state = (row.heads, row.size, kept)
        known = self._mapped.get(row.number)
        if known is not None and known[0] == state:
            return known[1]
        extents = self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES))
        mapped = Ranges((extent.block, extent.block + extent.count) for extent in extents)
        if len(extents) >= MANY_EXTENTS:
            self._mapped.pop(row.number, None)
            self._mapped[row.number] = (state, mapped)
            if len(self._mapped) > MAPPED_FILES:
                del self._mapped[next(iter(self._mapped))]
        return mapped


def laid_over(
    data: Buffer, offset: int, holes: Sequence[tuple[int, int]], blocks: Mapping[int, Buffer]
) -> Buffer:
    """`data`, which begins at `offset`, with its holes filled from whole blocks, as far as there
    are some."""
    whole = bytearray(data)
    for low, high in holes:
        for number in range(low // BLOCK_BYTES, -(-high // BLOCK_BYTES)):
            at = number * BLOCK_BYTES
            block = blocks.get(number, b"")
            start, stop = max(at, low), min(at + len(block), high)
            if start < stop:
                whole[start - offset : stop - offset] = block[start - at : stop - at]
    return whole
