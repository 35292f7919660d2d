"""Reading old contents: straight from where their stripes lie, with a few blocks kept in memory.

Nothing of the past is kept on the local disk: the kernel keeps the pages that are read.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aggfs.cache.blocks import Blocks
from aggfs.engine.reading.fetch import Fetcher, Run
from aggfs.engine.works import Works
from aggfs.errors import Damaged
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, Content, Extent
from aggfs.sync.versions import blocks_of

BLOCKS_KEPT = 64


@dataclass(frozen=True, slots=True)
class OldContent:
    """A content, and where its blocks lie."""

    content: Content
    extents: tuple[Extent, ...]

    @property
    def allocated_bytes(self) -> int:
        """How much of it is no gap."""
        if self.content.inline:
            return len(self.content.inline)
        return min(sum(one.count for one in self.extents) * BLOCK_BYTES, self.content.size)


class OldBytes:
    """Reads them. On the loop."""

    def __init__(self, fetcher: Fetcher, blocks: Blocks, readers: Works) -> None:
        self._fetcher = fetcher
        self._blocks = blocks
        self._readers = readers
        self._kept: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    async def read(self, old: OldContent, offset: int, length: int) -> Buffer:
        """At most `length` bytes; fewer only at the end. Raises `TooFewFragments`, `Damaged`."""
        end = min(offset + length, old.content.size)
        if offset >= end:
            return b""
        if old.content.inline:
            return old.content.inline[offset:end]
        until = self._fetcher.deadline()
        out = bytearray(end - offset)
        with self._readers.work():
            for run in _runs(old.extents, offset // BLOCK_BYTES, blocks_of(end)):
                for number, data in enumerate(await self._blocks_of(run, until), run.block):
                    start = number * BLOCK_BYTES
                    low, high = max(start, offset), min(start + len(data), end)
                    if low < high:
                        out[low - offset : high - offset] = data[low - start : high - start]
        return out

    async def _blocks_of(self, run: Extent, until: float) -> Sequence[bytes]:
        places = [(run.sid, run.index + step) for step in range(run.count)]
        if all(place in self._kept for place in places):
            return [self._kept[place] for place in places]
        state = self._blocks.stripe(run.sid)
        if state is None:
            raise Damaged(f"stripe {run.sid.hex()} has no row: its blocks cannot be found")
        found: list[bytes] = []
        wanted = Run(state.row, Kind.DATA, run.index, run.count)

        async def take(blocks: Sequence[Buffer]) -> None:
            found.extend(map(bytes, blocks))

        await self._fetcher.blocks(wanted, take, until)
        for place, data in zip(places, found, strict=True):
            self._kept[place] = data
        while len(self._kept) > BLOCKS_KEPT:
            self._kept.popitem(last=False)
        return found


def _runs(extents: Sequence[Extent], first: int, stop: int) -> Iterator[Extent]:
    """The parts of extents in [first, stop), of at most a stripe each."""
    for extent in extents:
        low, high = max(extent.block, first), min(extent.block + extent.count, stop)
        while low < high:
            end = min(high, low + STRIPE_BLOCKS)
            yield Extent(low, extent.sid, extent.index + low - extent.block, end - low)
            low = end
