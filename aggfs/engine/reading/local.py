"""The local copies of files: what is here of them, bringing more, and dropping it."""

import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.openfiles import OpenFile, OpenFiles
from aggfs.engine.reading.room import Limits
from aggfs.errors import AggfsError, LocalDiskFailed
from aggfs.model import BLOCK_BYTES, Extent, InodeRow
from aggfs.sync.holes import Ranges
from aggfs.threads import in_thread

Pairs = list[tuple[int, int]]
FILES_AT_ONCE = 128
STRIPES_AT_ONCE = 2  # of those that nobody waits for: most of an account's slots are for readers
LEAST_SECONDS = 1.0
LOOK_SECONDS = 30.0


class LocalCopies:
    """What is kept of the contents of files, beside what only this device has. On the loop."""

    def __init__(
        self,
        database: Database,
        open_files: OpenFiles,
        namespace: Namespace,
        blocks: Blocks,
        sparse_files: SparseFiles,
        filler: Filler,
        is_stored: Callable[[bytes], bool],
    ) -> None:
        """`is_stored` says whether the accounts have a stripe."""
        self._database = database
        self._open_files = open_files
        self._namespace = namespace
        self._blocks = blocks
        self._sparse_files = sparse_files
        self._filler = filler
        self._is_stored = is_stored
        self._is_pinned: Callable[[bytes], bool] = lambda _: False
        self._pressed = trio.Event()
        self._whole: dict[int, tuple[object, ...]] = {}  # files of which nothing was missing

    def keep_pinned(self, is_pinned: Callable[[bytes], bool]) -> None:
        """`is_pinned` says of an inode whether its local copy is to stay."""
        self._is_pinned = is_pinned

    def holes(self, number: int) -> tuple[Pairs, Pairs]:
        """(holes, gaps): what is not here, and what is nowhere; in bytes."""
        row = self._namespace.by_number(number)
        file = self._open_files.use(number)
        missing = file.sparse.missing(0, row.size)
        holes = [
            (max(low, extent.block * BLOCK_BYTES), min(high, _end(extent)))
            for low, high in missing
            for extent in self._filler.sources(file.target, [(low, high)])
        ]
        content = self._namespace.content_of(row.inode)
        if content is not None and content.inline:
            length = len(content.inline)
            holes = [(low, min(high, length)) for low, high in missing if low < length]
        gaps = self._gaps(file, row)
        self._open_files.rest(file)
        return _joined(holes), gaps

    def _gaps(self, file: OpenFile, row: InodeRow) -> Pairs:
        """What is nowhere, or here alone as zeros that need to be nowhere."""
        gaps = Ranges([(0, row.size)])
        for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES)):
            gaps.remove(extent.block * BLOCK_BYTES, min(_end(extent), file.target.kept_bytes))
        gaps.remove_all(file.sparse.dirty_ranges())
        content = self._namespace.content_of(row.inode)
        if content is not None:
            gaps.remove(0, min(len(content.inline), file.target.kept_bytes))
        return list(gaps)

    def dirty_ranges(self, number: int) -> Pairs:
        """The local edits of a file that are not in stripes yet, in bytes."""
        file = self._open_files.edited_file(number)
        return [] if file is None else list(file.sparse.dirty_ranges())

    async def evict(
        self, numbers: Iterable[int], *, pinned_too: bool = False
    ) -> tuple[int, int, int]:
        """Make holes of the clean bytes of these files; how many bytes went, how many stay
        because the accounts do not have them, and how many files because they are pinned."""
        evicted = kept = pinned = 0
        left = list(numbers)
        while left:
            some, left = left[:FILES_AT_ONCE], left[FILES_AT_ONCE:]
            gone, stays, held = await self._evict_some(some, pinned_too=pinned_too)
            evicted, kept, pinned = evicted + gone, kept + stays, pinned + held
        return evicted, kept, pinned

    async def _evict_some(
        self, numbers: Sequence[int], *, pinned_too: bool
    ) -> tuple[int, int, int]:
        evicted = kept = pinned = 0
        going: list[tuple[OpenFile, Pairs]] = []
        for number in numbers:
            await trio.lowlevel.checkpoint()
            if not self._is_there(number):  # it went while we looked
                continue
            row = self._namespace.by_number(number)
            if not pinned_too and self._is_pinned(row.inode):
                pinned += 1
            elif stat.S_ISREG(row.mode):
                file = self._open_files.use(number)
                self._whole.pop(number, None)
                kept += file.sparse.dirty_bytes
                stored = self._stored(file, row)
                evicted += sum(self._make_holes(file, pair) for pair in stored)
                going.append((file, stored))
        await self._database.durable()  # bytes go only after the rows that replace them
        for file, ranges in going:
            if ranges:
                await self._punch(file, ranges)
            self._open_files.rest(file)
        return evicted, kept, pinned

    def _is_there(self, number: int) -> bool:
        """Whether somebody may still read this file. What is gone goes as a whole, once that is
        committed."""
        namespace = self._namespace
        return namespace.has_number(number) and not namespace.is_gone(namespace.by_number(number))

    async def _punch(self, file: OpenFile, ranges: Pairs) -> None:
        """A failed sync takes the marks of all files into doubt."""
        try:
            await in_thread(file.sparse.punch, ranges)
        except LocalDiskFailed as error:
            self._database.give_up(str(error))
            raise

    def _stored(self, file: OpenFile, row: InodeRow) -> Pairs:
        """The ranges of a file that the accounts have too, and zeros that are a gap; none while it
        is edited. What is a hole of them may still take room: a stop came before that was given
        back."""
        if file.edited or file.frozen or file.writers:
            return []
        content = self._namespace.content_of(row.inode)
        stored = Ranges() if content is None or content.inline else Ranges([(0, row.size)])
        for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES)):
            if not self._is_stored(extent.sid):
                stored.remove(extent.block * BLOCK_BYTES, _end(extent))
        return list(stored)

    @staticmethod
    def _make_holes(file: OpenFile, stored: tuple[int, int]) -> int:
        """What is here of a range is a hole now; how many bytes."""
        return sum(end - start for start, end in file.sparse.evict(*stored))

    # --- limits -------------------------------------------------------------------------------

    def press(self) -> None:
        """Somebody waits for room on the local disk."""
        self._pressed.set()

    async def run(self, limits: Limits, free_bytes: Callable[[], int]) -> None:
        """Keep the local copies within their limits, for ever; `free_bytes` the disk has left."""
        while True:
            self._pressed = trio.Event()
            short = max(0, limits.minimum_free_bytes - free_bytes())
            await self.keep_within(limits.cache_bytes, short_bytes=short)
            await trio.sleep(LEAST_SECONDS)
            with trio.move_on_after(LOOK_SECONDS):
                await self._pressed.wait()

    async def keep_within(self, limit_bytes: int, *, short_bytes: int = 0) -> int:
        """Evict what was brought or edited longest ago until the local copies take no more than
        `limit_bytes` and `short_bytes` are given back to the disk, or nothing more may go; how
        many bytes went."""
        usage = await in_thread(self._sparse_files.usage)
        total = sum(size for _, _, size in usage)
        evicted = 0
        for _, number, size in sorted(usage):
            if total <= limit_bytes and evicted >= short_bytes:
                break
            if size and self._is_there(number):
                gone, *_ = await self.evict([number])
                total, evicted = total - gone, evicted + gone
        return evicted

    # --- bringing -----------------------------------------------------------------------------

    def missing_bytes(self, number: int) -> int:
        """How much of a file could be brought here. Cheap for files that were whole before."""
        row = self._namespace.by_number(number)
        if not stat.S_ISREG(row.mode) or self._whole.get(number) == _state_of(row):
            return 0
        missing = sum(end - start for start, end in self.holes(number)[0])
        if not missing:
            self._whole[number] = _state_of(row)
        return missing

    async def bring(self, number: int, turn: Callable[[int], Awaitable[None]]) -> None:
        """Bring what is missing of a file, a few stripes at once, each after its `turn`, which is
        told how many bytes will come. Readers of the same blocks share what is under way.

        Raises `TooFewFragments`, `NoSpace`; what came until then stays. May be cancelled.
        """
        file = self._open_files.use(number)
        missing = file.sparse.missing(0, self._namespace.by_number(number).size)
        errors: list[AggfsError] = []

        async def fetch(extent: Extent) -> None:
            try:
                await turn(extent.count * BLOCK_BYTES)
                # Its turn took time: the file may have another content by now.
                start, end = extent.block * BLOCK_BYTES, _end(extent)
                await self._filler.bring(file.target, file.sparse.missing(start, end))
            except AggfsError as error:
                errors.append(error)
            finally:
                slots.release()

        slots = trio.Semaphore(STRIPES_AT_ONCE)
        try:
            if self._filler.fill_inline(file.target, missing):
                return
            async with trio.open_nursery() as nursery:
                for extent in self._filler.sources(file.target, missing):
                    await slots.acquire()
                    if errors:
                        slots.release()
                        break
                    nursery.start_soon(fetch, extent)
        finally:
            self._open_files.rest(file)
        if errors:
            raise errors[0]

    def cached(self) -> Iterable[int]:
        """The numbers of all files that have bytes here."""
        numbers = sorted({number for number, _ in self._sparse_files.all()})
        return [number for number in numbers if self._is_there(number)]


def _state_of(row: InodeRow) -> tuple[object, ...]:
    """What changes with the content of a file."""
    return row.generation, row.size, row.heads


def _end(extent: Extent) -> int:
    return (extent.block + extent.count) * BLOCK_BYTES


def _joined(ranges: Iterable[tuple[int, int]]) -> Pairs:
    """Ranges in order, those that touch each other as one."""
    joined: Pairs = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
