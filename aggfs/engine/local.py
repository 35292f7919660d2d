"""The local copies of files: what is here of them, and dropping it."""

import stat
from collections.abc import Callable, Iterable, Iterator

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.engine.fill import Filler
from aggfs.engine.namespace import Namespace
from aggfs.engine.openfiles import OpenFiles
from aggfs.model import BLOCK_BYTES, Extent

Pairs = list[tuple[int, int]]


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
    ) -> None:
        self._database = database
        self._open_files = open_files
        self._namespace = namespace
        self._blocks = blocks
        self._sparse_files = sparse_files
        self._filler = filler

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
        return holes, gaps

    def dirty_ranges(self, number: int) -> Pairs:
        """The local edits of a file that are not in stripes yet, in bytes."""
        file = self._open_files.edited_file(number)
        return [] if file is None else list(file.sparse.dirty_ranges())

    async def evict(self, number: int, may_go: Callable[[bytes], bool]) -> tuple[int, int]:
        """Make holes of the clean bytes whose stripes `may_go`; how many bytes went, and how
        many stay because no account has them."""
        row = self._namespace.by_number(number)
        if not stat.S_ISREG(row.mode):
            return 0, 0
        file = self._open_files.use(number)
        evicted, kept = 0, file.sparse.dirty_bytes
        if not (file.edited or file.frozen or file.writers):
            ranges: Pairs = []
            for extent in self._blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES)):
                if may_go(extent.sid):
                    start = extent.block * BLOCK_BYTES
                    ranges += file.sparse.evict(start, min(_end(extent), row.size))
            await self._database.durable()  # bytes go only after the rows that replace them
            await trio.to_thread.run_sync(file.sparse.punch, ranges)
            evicted = sum(end - start for start, end in ranges)
        self._open_files.rest(file)
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
