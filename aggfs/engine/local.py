"""The local copies of files: what is here of them, and dropping it."""

import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.engine.fill import Filler
from aggfs.engine.namespace import Namespace
from aggfs.engine.openfiles import OpenFile, OpenFiles
from aggfs.model import BLOCK_BYTES, Extent
from aggfs.threads import in_thread

Pairs = list[tuple[int, int]]
FILES_AT_ONCE = 128


class LocalCopies:
    """What commands ask of the cache."""

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
            holes = missing
        gaps = list(_without(missing, holes))
        self._open_files.rest(file)
        return _joined(holes), gaps

    def dirty_ranges(self, number: int) -> Pairs:
        """The local edits of a file that are not in stripes yet, in bytes."""
        file = self._open_files.edited_file(number)
        return [] if file is None else list(file.sparse.dirty_ranges())

    async def evict(self, numbers: Iterable[int]) -> tuple[int, int]:
        """Make holes of the clean bytes of these files; how many bytes went, and how many stay
        because the accounts do not have them."""
        evicted = kept = 0
        rest = list(numbers)
        while rest:
            some, rest = rest[:FILES_AT_ONCE], rest[FILES_AT_ONCE:]
            gone, stays = await self._evict_some(some)
            evicted, kept = evicted + gone, kept + stays
        return evicted, kept

    async def _evict_some(self, numbers: Sequence[int]) -> tuple[int, int]:
        kept = 0
        going: list[tuple[OpenFile, Pairs]] = []
        for number in numbers:
            if stat.S_ISREG(self._namespace.by_number(number).mode):
                file = self._open_files.use(number)
                kept += file.sparse.dirty_bytes
                going.append((file, self._make_holes(file)))
        await self._database.durable()  # bytes go only after the rows that replace them
        for file, ranges in going:
            if ranges:
                await in_thread(file.sparse.punch, ranges)
            self._open_files.rest(file)
        return sum(end - start for _, ranges in going for start, end in ranges), kept

    def _make_holes(self, file: OpenFile) -> Pairs:
        """What of a file the accounts have too is a hole now; its ranges."""
        ranges: Pairs = []
        if file.edited or file.frozen or file.writers:
            return ranges
        row = self._namespace.by_number(file.number)
        for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES)):
            if self._is_stored(extent.sid):
                start = extent.block * BLOCK_BYTES
                ranges += file.sparse.evict(start, min(_end(extent), row.size))
        return ranges

    async def keep_within(self, limit_bytes: int) -> int:
        """Evict what was brought or edited longest ago until the local copies take no more than
        `limit_bytes`, or nothing more may go; how many bytes went."""
        usage = await in_thread(self._sparse_files.usage)
        total = sum(size for _, _, size in usage)
        evicted = 0
        for _, number, size in sorted(usage):
            if total <= limit_bytes:
                break
            if size and self._namespace.has_number(number):
                gone, _ = await self.evict([number])
                total, evicted = total - gone, evicted + gone
        return evicted

    def cached(self) -> Iterable[int]:
        """The numbers of all files that have bytes here."""
        numbers = sorted({number for number, _ in self._sparse_files.all()})
        return [number for number in numbers if self._namespace.has_number(number)]


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
