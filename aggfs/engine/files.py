"""Contents of files as the mount sees them: read, write, truncate, fsync.

Each inode in use has one sparse file, which holds what is here: local edits (dirty) and clean
bytes that the accounts have too. A read takes what is present; for a hole it asks the content
map which stripe has the block, and has it filled. What neither has is a gap: zeros.

Table `edits`: inode 16 -> Edit, while a file has content that is in no outbox row yet. It is
what finds the dirty files again after a stop.
"""

import logging
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.frozen import Frozen
from aggfs.cache.sparse import SparseFile
from aggfs.cache.unitfile import UnitCipher
from aggfs.engine.fill import Filler, Target
from aggfs.engine.namespace import Namespace
from aggfs.engine.room import Room
from aggfs.errors import AggfsError, NoEntry
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, INLINE_BYTES, Content, Extent, InodeRow

TABLES = ("edits",)
THREAD_BYTES = 128 * 1024
IDLE_LIMIT = 256
FOREVER_BLOCKS = 1 << 62
NEW_SECONDS = 60
logger = logging.getLogger(__name__)


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """A file with unpublished content: of its base version, only `kept_bytes` are still in it."""

    number: int
    kept_bytes: int


@dataclass(slots=True)
class OpenFile:
    """An inode in use. `target.kept_bytes` is the smallest size since the version that the
    content map shows, `kept_since_freeze` that since the last freeze."""

    number: int
    target: Target
    kept_since_freeze: int
    edited: bool = False
    dirty_since: float = 0.0
    written_at: float = 0.0
    frozen: "FrozenFile | None" = None
    error: AggfsError | None = None
    expected: int = 0
    shape: trio.Lock = field(default_factory=trio.Lock)

    @property
    def sparse(self) -> SparseFile:
        """Its bytes that are here."""
        return self.target.sparse

    @property
    def inode(self) -> bytes:
        """Its inode id."""
        return self.target.inode

    @property
    def busy(self) -> bool:
        """Whether its sparse file is needed, even if no program has it open."""
        return bool(self.edited or self.frozen or self.target.under_way)


@dataclass(slots=True)
class FrozenFile:
    """A file's content at one instant, on its way into stripes."""

    file: OpenFile
    frozen: Frozen
    version: bytes
    parent: bytes
    name: bytes
    size: int
    kept_bytes: int
    mtime_ns: int
    ctime_ns: int
    frozen_at: int
    blocks: tuple[int, ...]
    captured: bool = False

    @property
    def inode(self) -> bytes:
        """Whose content this is."""
        return self.file.inode

    def read_blocks(self, first: int, count: int) -> Sequence[Buffer]:
        """In a worker: the plaintext of frozen blocks, the last cut to the size; each once."""
        return self.frozen.read_blocks(first, count)


class Files:
    """The contents of all regular files."""

    def __init__(
        self,
        database: Database,
        namespace: Namespace,
        blocks: Blocks,
        sparse_files: SparseFiles,
        filler: Filler,
        *,
        cipher_of: Callable[[bytes], UnitCipher | None],
        random_bytes: Callable[[int], bytes],
        clock_ns: Callable[[], int],
        room: Room,
    ) -> None:
        self._database = database
        self._namespace = namespace
        self._blocks = blocks
        self._sparse_files = sparse_files
        self._filler = filler
        self._cipher_of = cipher_of
        self._random_bytes = random_bytes
        self._clock_ns = clock_ns
        self._room = room
        self._edits = database.table("edits")
        # Programs' handles: a file that they neither read nor write has no sparse file open.
        self._handles: dict[int, int] = {}
        self._open: dict[int, OpenFile] = {}
        self._idle: OrderedDict[int, OpenFile] = OrderedDict()
        self._edited: dict[int, OpenFile] = {}
        self._work = trio.Event()
        self._pressed = False
        self._workers = trio.CapacityLimiter(4)
        for _, value in self._edits.scan(b""):
            self._resume(msgspec.msgpack.decode(value, type=Edit))

    def _resume(self, edit: Edit) -> None:
        """A file that was not flushed before the last stop."""
        file = self._file(edit.number)
        file.target.kept_bytes = file.kept_since_freeze = edit.kept_bytes
        file.edited = True
        self._edited[file.number] = file

    # --- finding ------------------------------------------------------------------------------

    def _file(self, number: int) -> OpenFile:
        file = self._open.get(number)
        if file is None:
            file = self._idle.pop(number, None)
            if file is None:
                row = self._namespace.by_number(number)
                sparse = self._open_sparse(row)
                target = Target(row.inode, sparse, row.size, lambda: self._size(number))
                file = OpenFile(number, target, row.size)
            self._open[number] = file
        return file

    def _open_sparse(self, row: InodeRow) -> SparseFile:
        return self._sparse_files.open(
            row.number, row.generation, size=row.size, cipher=self._cipher_of(row.inode)
        )

    def _size(self, number: int) -> int:
        return self._namespace.by_number(number).size

    def _rest(self, file: OpenFile) -> None:
        """Keep a file that nobody needs open for a while, then close it."""
        if file.busy or file.number in self._handles:
            return
        if self._open.get(file.number) is file:
            del self._open[file.number]
            self._idle[file.number] = file
            while len(self._idle) > IDLE_LIMIT:
                _, oldest = self._idle.popitem(last=False)
                self._sparse_files.close(oldest.sparse)

    def forget(self, row: InodeRow) -> None:
        """The inode is gone for good."""
        file = self._open.pop(row.number, None) or self._idle.pop(row.number, None)
        self._edited.pop(row.number, None)
        self._edits.delete(row.inode)
        self._blocks.clear(row.inode, 0, FOREVER_BLOCKS)
        if file is not None:
            file.edited = False
            self._sparse_files.remove(file.sparse)
        elif row.size or row.heads or row.generation:
            self._sparse_files.remove_unopened(row.number, row.generation)

    def close(self) -> None:
        """Close every sparse file: the volume stops. Edits are found again at the next start."""
        for file in [*self._open.values(), *self._idle.values()]:
            if file.frozen is None:
                self._sparse_files.close(file.sparse)
        self._open.clear()
        self._idle.clear()

    # --- what the mount calls -----------------------------------------------------------------

    async def opened(self, number: int, *, truncate: bool) -> None:
        """One more handle; `truncate` for O_TRUNC. None more if that fails."""
        if truncate:
            await self.truncate(number, 0)
        self._handles[number] = self._handles.get(number, 0) + 1

    async def released(self, number: int) -> None:
        """One handle less."""
        left = self._handles.pop(number) - 1
        if left:
            self._handles[number] = left
        file = self._open.get(number)
        if file is not None:
            if file.edited:
                self._work.set()
            self._rest(file)

    async def read(self, number: int, offset: int, length: int) -> Buffer:
        """At most `length` bytes; fewer only at the end of the file. Raises `TooFewFragments`."""
        end = min(offset + length, self._size(number))
        if offset >= end:
            return b""
        file = self._file(number)
        if end - offset < THREAD_BYTES:
            cached = file.sparse.read_cached(offset, end - offset)
            if cached is not None:
                return cached
        while True:
            await self._fill_all(file, file.sparse.missing(offset, end))
            data, holes = await self._read_present(file, offset, end - offset)
            file.sparse.settle()
            if not holes or not self._has_source(file, holes):
                return data

    async def _read_present(
        self, file: OpenFile, offset: int, length: int
    ) -> tuple[Buffer, list[tuple[int, int]]]:
        return await trio.to_thread.run_sync(
            file.sparse.read, offset, length, limiter=self._workers
        )

    def _has_source(self, file: OpenFile, holes: list[tuple[int, int]]) -> bool:
        """Whether holes that a read met could be filled: bytes here proved damaged."""
        return bool(self._filler.sources(file.target, holes)) or self._filler.fill_inline(
            file.target, holes
        )

    async def _fill_all(self, file: OpenFile, missing: list[tuple[int, int]]) -> None:
        if missing and not self._filler.fill_inline(file.target, missing):
            sources = self._filler.sources(file.target, missing)
            if sources:
                await self._filler.fill(file.target, sources)

    async def write(self, number: int, offset: int, data: Buffer) -> int:
        """All of `data`. Raises `NoSpace`, `LocalDiskFailed`."""
        await self._room.claim(len(data))
        await self._database.throttle()
        file = self._file(number)
        self._begin_edit(file)
        file.sparse.load(offset, offset + len(data))
        if len(data) < THREAD_BYTES:
            file.sparse.write(offset, data)
        else:
            await trio.to_thread.run_sync(file.sparse.write, offset, data, limiter=self._workers)
        file.sparse.settle()
        file.written_at = trio.current_time()
        now = self._clock_ns()
        size = self._size(number)
        if offset + len(data) > size:
            self._namespace.touch_local(number, size=offset + len(data), mtime_ns=now, ctime_ns=now)
        else:
            self._namespace.touch_local(number, mtime_ns=now, ctime_ns=now)
        return len(data)

    def _begin_edit(self, file: OpenFile) -> None:
        """Before the content changes: from here to its capture the file counts as edited."""
        file.written_at = trio.current_time()
        if file.edited:
            return
        file.edited = True
        file.dirty_since = file.written_at
        self._edited[file.number] = file
        self._idle.pop(file.number, None)
        self._open[file.number] = file
        self._put_edit(file)
        self._take_inline(file)
        self._work.set()

    def _take_inline(self, file: OpenFile) -> None:
        """An inline content is edited as a whole: no later version can build on it by extents."""
        content = self._namespace.content_of(file.inode)
        if content is not None and content.inline:
            length = min(len(content.inline), file.target.kept_bytes, self._size(file.number))
            if length:
                self._filler.fill_inline(file.target, [(0, length)])
                data, _ = file.sparse.read(0, length)
                file.sparse.write(0, data)

    def _put_edit(self, file: OpenFile) -> None:
        kept = min(file.target.kept_bytes, file.kept_since_freeze)
        self._edits.put(file.inode, msgspec.msgpack.encode(Edit(file.number, kept)))

    async def truncate(self, number: int, size: int) -> None:
        """Make the file `size` bytes long. What a longer file gains is a gap."""
        file = self._file(number)
        async with file.shape:
            self._begin_edit(file)
            before = self._size(number)
            if size < before and size == 0:
                self._start_anew(file)
            elif size < before:
                await self._shrink(file, size)
            else:
                self._set_size(file, size)
        self._rest(file)

    def _set_size(self, file: OpenFile, size: int) -> None:
        now = self._clock_ns()
        self._namespace.touch_local(file.number, size=size, mtime_ns=now, ctime_ns=now)

    def _start_anew(self, file: OpenFile) -> None:
        """O_TRUNC: an empty sparse file of the next generation; the old one lives until that is
        committed, so that a crash finds the old bytes."""
        row = self._namespace.by_number(file.number)
        self._sparse_files.remove(file.sparse)
        row = self._namespace.touch_local(file.number, size=0, generation=row.generation + 1)
        file.target.sparse = self._open_sparse(row)
        self._cut_map(file, 0)
        self._set_size(file, 0)
        self._database.before_commit(("sparse", file.number), file.sparse.sync)

    async def _shrink(self, file: OpenFile, size: int) -> None:
        """Cut within the file. The block of the cut becomes dirty, so that no version takes
        back what lay behind it in the accounts."""
        edge = await self.read(file.number, size - 1, 1)
        self._set_size(file, size)
        self._cut_map(file, size)
        await self._database.durable()
        file.sparse.cut(size)
        if size % BLOCK_BYTES:
            file.sparse.write(size - 1, edge)
        file.sparse.settle()

    def _cut_map(self, file: OpenFile, size: int) -> None:
        file.target.kept_bytes = min(file.target.kept_bytes, size)
        file.kept_since_freeze = min(file.kept_since_freeze, size)
        self._blocks.clear(file.inode, -(-size // BLOCK_BYTES), FOREVER_BLOCKS)
        self._put_edit(file)

    async def fsync(self, number: int) -> None:
        """Everything written to this file survives a loss of power. Raises `LocalDiskFailed`."""
        file = self._open.get(number) or self._idle.get(number)
        if file is not None:
            await trio.to_thread.run_sync(file.sparse.sync, limiter=self._workers)
        await self._database.durable()

    async def fsync_directory(self) -> None:
        """Every name that was made or changed survives a loss of power."""
        await self._database.durable()

    async def flush(self, number: int) -> None:
        """close(2): tells what went wrong with this file since."""
        file = self._open.get(number)
        if file is not None and file.error is not None:
            error, file.error = file.error, None
            raise error

    def sync_before_commit(self, number: int) -> None:
        """This file replaces another by rename: its bytes must be on the disk no later."""
        file = self._edited.get(number)
        if file is not None:
            self._database.before_commit(("sparse", number), file.sparse.sync)

    def may_get_content(self, inode: bytes) -> bool:
        """Whether an inode has content in no outbox row, or was just made and is still open: it
        is not published as it is now. One that is gone gets nothing more."""
        try:
            row = self._namespace.by_inode(inode)
        except NoEntry:
            return False
        if self.is_dirty(row.number):
            return True
        age_ns = self._clock_ns() - row.btime_ns
        return row.number in self._handles and 0 <= age_ns < NEW_SECONDS * 10**9

    def is_dirty(self, number: int) -> bool:
        """Whether the file has content that no outbox row has."""
        return number in self._edited or self._is_freezing(number)

    def _is_freezing(self, number: int) -> bool:
        file = self._open.get(number)
        return file is not None and file.frozen is not None

    def allocated_bytes(self, row: InodeRow) -> int:
        """How much of the file is no gap; for `st_blocks`."""
        if row.size <= INLINE_BYTES:
            return row.size
        stored = sum(
            min(extent.count * BLOCK_BYTES, row.size - extent.block * BLOCK_BYTES)
            for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES))
        )
        file = self._edited.get(row.number)
        if file is None:
            return stored
        for start, end in file.sparse.dirty_ranges():
            first, stop = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
            covered = self._blocks.extents(row.inode, first, stop)
            stored += end - start if not covered else 0
        return stored

    # --- what the flusher calls ---------------------------------------------------------------

    @property
    def dirty_bytes(self) -> int:
        """How many bytes are not staged yet."""
        return sum(file.sparse.dirty_bytes for file in self._edited.values())

    def edited(self) -> list[int]:
        """The files that have content in no outbox row."""
        return list(self._edited)

    def due(self, *, quiet_seconds: float, closed_seconds: float, age_seconds: float) -> list[int]:
        """The dirty files that should be sent out now."""
        now = trio.current_time()
        pressed, self._pressed = self._pressed, False
        return [
            file.number
            for file in self._edited.values()
            if file.frozen is None
            and (
                pressed
                or now - file.written_at
                >= (quiet_seconds if file.number in self._handles else closed_seconds)
                or now - file.dirty_since >= age_seconds
            )
        ]

    def press(self) -> None:
        """Writers wait for room: everything dirty is due."""
        self._pressed = True
        self._work.set()

    async def wait_for_work(self, seconds: float) -> None:
        """Return when a file became dirty or was closed; while some are dirty, also after
        `seconds`."""
        if self._edited:
            with trio.move_on_after(seconds):
                await self._work.wait()
            await trio.sleep(seconds / 4)
        else:
            await self._work.wait()
        self._work = trio.Event()

    async def freeze(self, number: int) -> FrozenFile | None:
        """The content of a file at this instant; None if there is nothing to send.

        Blocks that are partly here are completed. Raises `TooFewFragments` when that cannot be
        done; the file is as before then.
        """
        file = self._edited.get(number)
        if file is None or file.frozen is not None:
            return None
        row = self._namespace.by_number(number)
        if row.nlink == 0:
            return None
        frozen = self._frozen(file, row)
        file.frozen = frozen
        file.kept_since_freeze = row.size
        try:
            await self._complete(file, frozen.frozen)
        except BaseException:
            self.thaw(frozen)
            raise
        return frozen

    def _frozen(self, file: OpenFile, row: InodeRow) -> FrozenFile:
        frozen = file.sparse.freeze(row.size)
        blocks = tuple(block for first, stop in frozen.blocks for block in range(first, stop))
        parent, name = self._namespace.place_of(file.number)
        return FrozenFile(
            file,
            frozen,
            self._random_bytes(16),
            parent,
            name,
            row.size,
            min(file.target.kept_bytes, row.size),
            row.mtime_ns,
            row.ctime_ns,
            self._namespace.next_outbox_sequence(),
            blocks,
        )

    async def _complete(self, file: OpenFile, frozen: Frozen) -> None:
        """Fill what is missing of partly dirty blocks; gaps become zeros."""
        while missing := frozen.missing():
            sources = self._filler.sources(file.target, missing)
            if sources:
                await self._filler.fill(file.target, sources)
            elif not self._filler.fill_inline(file.target, missing):
                await trio.to_thread.run_sync(file.sparse.zero_ranges, missing)
            file.sparse.settle()

    def thaw(self, frozen: FrozenFile) -> None:
        """It could not be sent: everything is as dirty as before."""
        frozen.file.frozen = None
        frozen.frozen.thaw()
        file = frozen.file
        file.kept_since_freeze = min(file.kept_since_freeze, file.target.kept_bytes)
        self._rest(file)

    def capture(
        self, frozen: FrozenFile, extents: tuple[Extent, ...], *, inline: bytes = b""
    ) -> None:
        """All blocks are staged: the content becomes a version, an outbox row, and the content
        map of its inode, in one transaction. No await."""
        file = frozen.file
        frozen.captured = True
        file.frozen = None
        try:
            row = self._namespace.by_inode(file.inode)
        except AggfsError:  # unlinked and dropped meanwhile
            frozen.frozen.thaw()
            return
        content = Content(
            inode=file.inode,
            version=frozen.version,
            bases=row.heads,
            size=frozen.size,
            kept_bytes=min(frozen.kept_bytes, frozen.size),
            extents=extents,
            inline=inline,
            mtime_ns=frozen.mtime_ns,
            ctime_ns=frozen.ctime_ns,
        )
        frozen.frozen.release()
        still_edited = file.sparse.is_dirty or file.kept_since_freeze < frozen.size
        still_edited = still_edited or row.size != frozen.size
        self._namespace.add_content(content, frozen_at=frozen.frozen_at, unflushed=still_edited)
        self._blocks.apply(content)
        file.target.kept_bytes = file.kept_since_freeze
        if still_edited:
            self._blocks.clear(file.inode, -(-file.kept_since_freeze // BLOCK_BYTES), 1 << 62)
            file.dirty_since = trio.current_time()
            self._put_edit(file)
        else:
            file.edited = False
            self._edited.pop(file.number, None)
            self._edits.delete(file.inode)
        self._rest(file)

    async def read_frozen(self, frozen: FrozenFile) -> bytes:
        """All of a small frozen file."""
        size = frozen.size
        out = bytearray(size)
        for first, stop in frozen.frozen.blocks:
            blocks = await trio.to_thread.run_sync(frozen.read_blocks, first, stop - first)
            for number, data in enumerate(blocks, first):
                out[number * BLOCK_BYTES : number * BLOCK_BYTES + len(data)] = data
        return bytes(out[:size])

    def failed(self, number: int, error: AggfsError) -> None:
        """A flush of this file failed; the next close or fsync tells its program."""
        file = self._open.get(number)
        if file is not None:
            file.error = error

    # --- the cache ----------------------------------------------------------------------------

    def holes(self, number: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(holes, gaps): what is not here, and what is nowhere; in bytes."""
        row = self._namespace.by_number(number)
        file = self._file(number)
        missing = file.sparse.missing(0, row.size)
        holes = [
            (max(low, extent.block * BLOCK_BYTES), min(high, _end(extent)))
            for low, high in missing
            for extent in self._filler.sources(file.target, [(low, high)])
        ]
        content = self._namespace.content_of(row.inode)
        if content is not None and content.inline:
            holes = missing
        gaps = list(_without(missing, holes))
        self._rest(file)
        return holes, gaps

    def dirty_ranges(self, number: int) -> list[tuple[int, int]]:
        """The local edits of a file that are not in stripes yet, in bytes."""
        file = self._edited.get(number)
        return [] if file is None else list(file.sparse.dirty_ranges())

    async def evict(self, number: int, may_go: Callable[[bytes], bool]) -> tuple[int, int]:
        """Make holes of the clean bytes whose stripes `may_go`; how many bytes went, and how
        many stay because no account has them."""
        row = self._namespace.by_number(number)
        if not stat.S_ISREG(row.mode):
            return 0, 0
        file = self._file(number)
        evicted, kept = 0, file.sparse.dirty_bytes
        if not file.edited and file.frozen is None:
            ranges = []
            for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES)):
                if may_go(extent.sid):
                    start = extent.block * BLOCK_BYTES
                    ranges += file.sparse.evict(start, min(_end(extent), row.size))
            await trio.to_thread.run_sync(file.sparse.punch, ranges, limiter=self._workers)
            evicted = sum(end - start for start, end in ranges)
        self._rest(file)
        return evicted, kept

    def cached(self) -> Iterable[int]:
        """The numbers of all files that have bytes here."""
        numbers = sorted({number for number, _ in self._sparse_files.all()})
        return [number for number in numbers if self._namespace.has_number(number)]


def _end(extent: Extent) -> int:
    return (extent.block + extent.count) * BLOCK_BYTES


def _without(
    ranges: Iterable[tuple[int, int]], taken: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The parts of `ranges` that `taken`, in order, leaves."""
    holes = list(taken)
    for start, end in ranges:
        at = start
        for low, high in holes:
            if low < end and high > at:
                if low > at:
                    yield at, low
                at = max(at, high)
        if at < end:
            yield at, end
