"""The hole engine: one path by which missing bytes come into a sparse file.

Callers ask for ranges; what the content map has for them is fetched run by run, each block once
however many ask at the same time, and goes only into what is still a hole: a local write that
came meanwhile wins. What the map has nothing for is a gap, and stays one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.sparse import SparseFile
from aggfs.engine.fetch import Fetcher, Run
from aggfs.errors import AggfsError, Damaged
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, Content, Extent

Pairs = list[tuple[int, int]]


@dataclass(slots=True)
class Target:
    """A file whose holes are filled. `kept_bytes`: content of the map beyond it was cut off;
    `size()` is the file's size now."""

    inode: bytes
    sparse: SparseFile
    kept_bytes: int
    size: Callable[[], int]
    under_way: dict[int, trio.Event] = field(default_factory=dict)


class Filler:
    """Fills holes of sparse files from the accounts."""

    def __init__(
        self, fetcher: Fetcher, blocks: Blocks, content_of: Callable[[bytes], Content | None]
    ) -> None:
        """`content_of` gives the entry of the version that is shown of an inode."""
        self._fetcher = fetcher
        self._blocks = blocks
        self._content_of = content_of

    def sources(self, target: Target, missing: Iterable[tuple[int, int]]) -> list[Extent]:
        """The runs of blocks that have something for the missing ranges. On the loop."""
        found: dict[int, Extent] = {}
        for start, end in missing:
            end = min(end, target.kept_bytes)
            if start < end:
                first, stop = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
                for extent in self._blocks.extents(target.inode, first, stop):
                    found.setdefault(extent.block, extent)
        return [found[block] for block in sorted(found)]

    def fill_inline(self, target: Target, missing: Iterable[tuple[int, int]]) -> bool:
        """Fill what an inline content has; whether there was something to fill."""
        if not any(start < target.kept_bytes for start, _ in missing):
            return False
        content = self._content_of(target.inode)
        if content is None or not content.inline:
            return False
        data = content.inline[: min(target.kept_bytes, target.size())]
        holes = target.sparse.missing(0, len(data))
        target.sparse.fill(0, data)
        target.sparse.settle()
        return bool(holes)

    async def fill(self, target: Target, extents: Sequence[Extent]) -> None:
        """Bring these blocks, as far as they are holes; returns when all are there.

        Raises `TooFewFragments`; what came until then stays. May be cancelled: others who wait
        for the same blocks then fetch them themselves.
        """
        mine: list[Extent] = []
        others: list[trio.Event] = []
        for extent in extents:
            for run in _cut(extent, target.under_way):
                event = target.under_way.get(run.block)
                if event is None:
                    mine.append(run)
                else:
                    others.append(event)
        if len(mine) == 1:
            await self._fetch(target, mine[0])
        elif mine:
            await self._fetch_all(target, mine)
        for event in others:
            await event.wait()

    async def _fetch_all(self, target: Target, runs: Sequence[Extent]) -> None:
        errors: list[AggfsError] = []

        async def fetch(run: Extent) -> None:
            try:
                await self._fetch(target, run)
            except AggfsError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(fetch, run)
        if errors:
            raise errors[0]

    async def _fetch(self, target: Target, run: Extent) -> None:
        state = self._blocks.stripe(run.sid)
        if state is None:
            raise Damaged(f"stripe {run.sid.hex()} has no row: its blocks cannot be found")
        done = trio.Event()
        numbers = range(run.block, run.block + run.count)
        target.under_way.update(dict.fromkeys(numbers, done))
        try:
            size = target.size()
            wanted = Run(state.row, Kind.DATA, run.index, run.count)
            await self._fetcher.blocks(wanted, lambda data: _put(target, size, run.block, data))
            target.sparse.settle()
        finally:
            for number in numbers:
                if target.under_way.get(number) is done:
                    del target.under_way[number]
            done.set()


def _cut(extent: Extent, under_way: dict[int, trio.Event]) -> Iterable[Extent]:
    """An extent as runs of at most a stripe, apart where blocks are under way already."""
    start = extent.block
    while start < extent.block + extent.count:
        stop = start + 1
        event = under_way.get(start)
        while (
            stop < extent.block + extent.count
            and stop - start < STRIPE_BLOCKS
            and under_way.get(stop) is event
        ):
            stop += 1
        yield Extent(start, extent.sid, extent.index + start - extent.block, stop - start)
        start = stop


def _put(target: Target, size: int, first: int, blocks: Sequence[Buffer]) -> None:
    """In a worker: fill the holes of these blocks. A block that was sealed shorter, or cut
    since, goes on with zeros."""
    for number, data in enumerate(blocks, first):
        start = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, size - start)
        valid = min(len(data), length, max(0, target.kept_bytes - start))
        if length <= 0:
            continue
        if valid == length:
            target.sparse.fill(start, data[:length])
        else:
            target.sparse.fill(start, bytes(data[:valid]).ljust(length, b"\0"))
