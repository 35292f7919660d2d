"""Small files lie together in one stripe, and who reads one soon reads the next.

The second time that a stripe of small blocks is asked for, it comes whole, and is kept for a
while: a stripe's blocks never change. So a folder of small files costs a few reads of each
account instead of one for each file. Large files are read ahead by other means (`ahead`), and
their stripes are never fetched whole for a few bytes.

On a slow line a whole stripe takes longer than the one file that somebody waits for. So who waits
gives it a moment only, then fetches what he wants alone; and for a while no stripe is tried whole.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence

import trio

from aggfs.engine.reading.fetch import Fetcher, Run, Use
from aggfs.errors import AggfsError
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, Sid, StripeRow

SMALL_BYTES = BLOCK_BYTES // 4
FEW_BLOCKS = 4
SEEN_STRIPES = 16
KEPT_STRIPES = 4
MOMENT_SECONDS = 1.0
SLOW_SECONDS = 60.0
logger = logging.getLogger(__name__)


class Neighbours:
    """Gives blocks as the fetcher does, those of small files from whole stripes. On the loop."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._seen: OrderedDict[Sid, None] = OrderedDict()
        self._kept: OrderedDict[Sid, list[bytes]] = OrderedDict()
        self._coming: dict[Sid, trio.Event] = {}
        self._slow_until = -math.inf

    def deadline(self) -> float:
        """Until when a reader who comes now may wait."""
        return self._fetcher.deadline()

    async def blocks(self, run: Run, use: Use, until: float = math.inf) -> None:
        """As `Fetcher.blocks`."""
        if not are_small(run.row):
            await self._fetcher.blocks(run, use, until)
            return
        sid = Sid(run.row.sid)
        until = min(until, self.deadline())
        with trio.move_on_after(MOMENT_SECONDS):
            while (coming := self._coming.get(sid)) is not None:
                await coming.wait()
        wanted = sid not in self._kept and _noted(self._seen, sid, SEEN_STRIPES)
        if wanted and sid not in self._coming and trio.current_time() >= self._slow_until:
            await self._bring(run.row)
        kept = self._kept.get(sid)
        if kept is None:
            await self._fetcher.blocks(run, use, until)
        else:
            self._kept.move_to_end(sid)
            await use(kept[run.first : run.first + run.count])

    def forget(self) -> None:
        """Keep nothing of what came until now."""
        self._kept.clear()
        self._seen.clear()

    async def _bring(self, row: StripeRow) -> None:
        """Keep all of a stripe. One that does not come whole, or soon, is not kept: what is wanted
        of it may be had all the same."""
        sid = Sid(row.sid)
        found: list[bytes] = []

        async def take(blocks: Sequence[Buffer]) -> None:
            await trio.lowlevel.checkpoint()
            found.extend(map(bytes, blocks))

        come = self._coming[sid] = trio.Event()
        try:
            with trio.move_on_after(MOMENT_SECONDS) as moment:
                await self._fetcher.blocks(whole(row), take)
                self._kept[sid] = found
                while len(self._kept) > KEPT_STRIPES:
                    self._kept.popitem(last=False)
            if moment.cancelled_caught:
                self._slow_until = trio.current_time() + SLOW_SECONDS
        except AggfsError as error:
            logger.info("stripe %s did not come whole: %s", sid.hex(), error)
        finally:
            del self._coming[sid]
            come.set()


def are_small(row: StripeRow) -> bool:
    """Whether the blocks of a stripe are many, and small."""
    *blocks, _ = row.sealed_bytes
    return len(blocks) >= FEW_BLOCKS and sum(blocks) <= SMALL_BYTES * len(blocks)


def whole(row: StripeRow) -> Run:
    """All blocks of a stripe, but its table."""
    return Run(row, Kind.DATA, 0, len(row.sealed_bytes) - 1)


def _noted(seen: OrderedDict[Sid, None], sid: Sid, limit: int) -> bool:
    """Whether it was seen lately; from now on it was."""
    known = sid in seen
    seen[sid] = None
    seen.move_to_end(sid)
    if len(seen) > limit:
        seen.popitem(last=False)
    return known
