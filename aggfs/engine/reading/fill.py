"""The hole engine: one path by which missing bytes come into a sparse file.

Callers ask for ranges; what the content map has for them is fetched run by run, each block once
however many ask at the same time, and goes only into what is still a hole: a local write that
came meanwhile wins, and what was cut off stays off. What the map has nothing for is a gap, and
stays one.

Three kinds of fetch share this path. What a reader waits for runs in his own task and ends with
it. What is read ahead of him runs in the task `run`, a few stripes at a time; readers who come
there before it wait for it. Who waits hears of the failure of what he waited for. What is brought
to be here, one day, is its caller's to pace (`bring`).

What is read ahead lets a reader who waits go first, but for a moment only, and not once somebody
waits for that itself.
"""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.landing import LandingMemory
from aggfs.cache.unitfile import disk_refusal
from aggfs.engine.reading.fetch import Fetcher, Run
from aggfs.engine.reading.neighbours import Neighbours, are_small
from aggfs.engine.reading.reach import Reach
from aggfs.engine.reading.target import Arrival, Place, Target
from aggfs.engine.works import Works
from aggfs.errors import AggfsError, Damaged, TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, STRIPE_BYTES, Content, Extent
from aggfs.threads import in_thread, list_in_slices

RUNS_AHEAD = 6
STRIPES_AROUND = 2
AROUND_SECONDS = 1.0  # a stripe that takes longer is in its readers' way,
SLOW_SECONDS = 60.0  # and so would others be
COURTESY_SECONDS = 0.1
LANDINGS = 2
LANDED_KEPT = 8  # what is read ahead of one reader, and what he reads
EARLIER_SECONDS = 1.0
THREAD_BYTES = 128 * 1024
Pairs = list[tuple[int, int]]
logger = logging.getLogger(__name__)


class Filler:
    """Fills holes of sparse files from the accounts."""

    def __init__(
        self,
        fetcher: Fetcher | Neighbours,
        blocks: Blocks,
        content_of: Callable[[bytes], Content | None],
        waited_for: Works | None = None,
    ) -> None:
        """`content_of` gives the entry of the version that is shown of an inode; `waited_for`
        come to be the waits of readers."""
        self._waited_for = Works() if waited_for is None else waited_for
        self._missed = Works()  # of these, for what nobody had fetched ahead
        self._fetcher = fetcher
        self._blocks = blocks
        self._content_of = content_of
        self._readers_ahead: trio.Nursery | None = None
        self._runs_ahead = self._blocks_ahead = 0
        self._reach = Reach()
        self._stripes_around = 0
        self._slow_until = -math.inf
        self._landing = trio.Semaphore(LANDINGS)
        self._memory = LandingMemory(STRIPE_BYTES, count=LANDINGS + LANDED_KEPT)

    async def run(self) -> None:
        """Read ahead, for ever. Without it every reader fetches what he reads, and no more."""
        try:
            async with trio.open_nursery() as nursery:
                self._readers_ahead = nursery
                await trio.sleep_forever()
        finally:
            self._readers_ahead = None

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
        """Fill what an inline content has; whether some of the missing is of it, and so is here
        now. Somebody may have been faster: who found it missing must look again all the same."""
        if not any(start < target.kept_bytes for start, _ in missing):
            return False
        content = self._content_of(target.inode)
        if content is None or not content.inline:
            return False
        data = content.inline[: min(target.kept_bytes, target.size())]
        target.sparse.load(0, len(data))
        target.sparse.fill(0, data)
        target.sparse.settle()
        return any(start < len(data) for start, _ in missing)

    def read_ahead(self, target: Target, start: int, end: int) -> None:
        """[start, end) is read now: start fetching what its reader will want next, if he reads
        in order. Returns at once."""
        wanted = target.ahead.wanted(start, end)
        nursery = self._readers_ahead
        if wanted is None or nursery is None:
            return
        first, stop = wanted
        limit = -(-min(target.kept_bytes, target.size()) // BLOCK_BYTES)
        missing = target.sparse.missing(
            first * BLOCK_BYTES, max(first, min(stop + STRIPE_BLOCKS - 1, limit)) * BLOCK_BYTES
        )
        for extent in self.sources(target, missing):
            if extent.block >= stop:
                break
            longest = min(STRIPE_BLOCKS, self._reach.blocks)
            for run in _cut(extent, target.under_way, longest):
                if run.block in target.under_way:
                    continue
                far = self._blocks_ahead + run.count > self._reach.blocks
                if self._runs_ahead >= RUNS_AHEAD or (far and self._blocks_ahead):
                    return
                self._runs_ahead += 1
                self._blocks_ahead += run.count
                arrival = self._expect(target, run)
                arrival.patient = True
                nursery.start_soon(self._fetch_ahead, target, run, arrival)
                stop = max(stop, run.block + run.count)
                target.ahead.reached(run.block + run.count)
        target.ahead.reached(stop)

    async def _fetch_ahead(self, target: Target, run: Extent, arrival: Arrival) -> None:
        try:
            await self._fetch(target, run, arrival)
        except AggfsError as error:  # a reader who waits hears of it; the next one tries again
            logger.info("reading ahead failed: %s", error)
        finally:
            self._runs_ahead -= 1
            self._blocks_ahead -= run.count

    def _bring_around(self, target: Target, missed: Extent) -> None:
        """Start fetching the rest of the stripe that these blocks are of, if that is worth it."""
        nursery = self._readers_ahead
        if nursery is None or target.ahead.reads_on or not target.around.missed():
            return
        if self._stripes_around >= STRIPES_AROUND or trio.current_time() < self._slow_until:
            return
        state = self._blocks.stripe(missed.sid)
        if state is None or are_small(state.row):
            return
        first = max(0, missed.block - missed.index)
        stop = missed.block - missed.index + len(state.row.sealed_bytes)
        missing = target.sparse.missing(first * BLOCK_BYTES, stop * BLOCK_BYTES)
        runs = [
            (run, self._expect(target, run))
            for extent in self.sources(target, missing)
            if extent.sid == missed.sid
            for run in _cut(extent, dict(target.under_way), STRIPE_BLOCKS)
            if run.block not in target.under_way
        ]
        if runs:
            target.around.brought()
            self._stripes_around += 1
            nursery.start_soon(self._fetch_around, target, runs)

    async def _fetch_around(self, target: Target, runs: Sequence[tuple[Extent, Arrival]]) -> None:
        """Where lines are slow, give up: readers need them for themselves."""
        for _, arrival in runs:
            arrival.patient = True
        try:
            with trio.move_on_after(AROUND_SECONDS) as moment:
                await self._fetch_all(target, runs)
            if moment.cancelled_caught:
                self._slow_until = trio.current_time() + SLOW_SECONDS
        except AggfsError as error:  # a reader who waits hears of it; the next one tries again
            logger.info("reading around failed: %s", error)
        finally:
            self._stripes_around -= 1

    def deadline(self) -> float:
        """Until when a reader who comes now may wait, however often he has to look again."""
        return self._fetcher.deadline()

    async def fill(
        self, target: Target, extents: Sequence[Extent], until: float = math.inf
    ) -> None:
        """As `bring`, for somebody who waits for them: blocks that the map has just said. He
        waits no longer than `until`, and looks again where what failed began before he came."""
        came = trio.current_time()
        with self._waited_for.work():
            mine, others = self._claim(target, extents)
            for arrival in others:
                arrival.wanted.set()
            if mine:
                self._bring_around(target, mine[0][0])
                with self._missed.work():
                    await self._fetch_all(target, mine, until)
            await self._wait_for(others, until, came)

    async def bring(self, target: Target, missing: Iterable[tuple[int, int]]) -> None:
        """Bring what the map has for these ranges, as far as they are holes; returns when none of
        it is under way any more.

        Raises `TooFewFragments`; what came until then stays. May be cancelled: others who wait
        for the same blocks then fetch them themselves. Holes may be left where the file was cut
        meanwhile, or another's fetch was cancelled: look again.
        """
        mine, others = self._claim(target, self.sources(target, missing))
        if mine:
            await self._fetch_all(target, mine)
        await self._wait_for(others)

    def _claim(
        self, target: Target, extents: Sequence[Extent]
    ) -> tuple[list[tuple[Extent, Arrival]], list[Arrival]]:
        """What of these blocks nobody fetches, announced, and what is under way already."""
        mine: list[tuple[Extent, Arrival]] = []
        others: list[Arrival] = []
        for extent in extents:
            for run in _cut(extent, target.under_way, STRIPE_BLOCKS):
                arrival = target.under_way.get(run.block)
                if arrival is None:
                    mine.append((run, self._expect(target, run)))
                else:
                    others.append(arrival)
        return mine, others

    @staticmethod
    async def _wait_for(
        others: Sequence[Arrival], until: float = math.inf, came: float = -math.inf
    ) -> None:
        """What failed long after it began, and began before `came`, says little of now."""
        for arrival in others:
            with trio.move_on_at(until):
                await arrival.done.wait()
            if arrival.error is not None and arrival.began >= came - EARLIER_SECONDS:
                raise arrival.error
            if not arrival.done.is_set():
                raise TooFewFragments("what another fetches did not come in time", ())

    async def pass_by(
        self, target: Target, missing: Sequence[tuple[int, int]], until: float
    ) -> dict[int, Buffer]:
        """What the map has of the blocks of these ranges, by their numbers, before `until`;
        nothing is kept here, where the local disk has no room for it. Raises as `bring`."""
        content = self._content_of(target.inode)
        if content is not None and content.inline:
            touched = any(start < BLOCK_BYTES for start, _ in missing)
            return {0: content.inline[: target.kept_bytes]} if touched else {}
        found: dict[int, Buffer] = {}
        place = Place.in_target(target)

        async def take(blocks: Sequence[Buffer], first: int) -> None:
            await trio.lowlevel.checkpoint()
            pieces = place.cut_to_size(first, blocks)
            found.update((number, bytes(piece)) for number, piece in enumerate(pieces, first))

        for extent in self.sources(target, missing):
            with self._waited_for.work():
                use = partial(take, first=extent.block)
                await self._fetcher.blocks(self._run_of(extent), use, until)
        return found

    async def _let_readers_go(self, arrival: Arrival) -> None:
        """Return when no reader waits for a fetch of his own; soon anyhow; at once when somebody
        waits for this one."""
        if not self._missed or arrival.wanted.is_set():
            return
        with trio.move_on_after(COURTESY_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when, arrival.wanted, nursery.cancel_scope)
                while self._missed:
                    await self._missed.settled()
                nursery.cancel_scope.cancel()

    async def _fetch_all(
        self, target: Target, runs: Sequence[tuple[Extent, Arrival]], until: float = math.inf
    ) -> None:
        if len(runs) == 1:
            await self._fetch(target, *runs[0], until)
            return
        errors: list[AggfsError] = []

        async def fetch(run: Extent, arrival: Arrival) -> None:
            try:
                await self._fetch(target, run, arrival, until)
            except AggfsError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for run, arrival in runs:
                nursery.start_soon(fetch, run, arrival)
        if errors:
            raise errors[0]

    @staticmethod
    def _expect(target: Target, run: Extent) -> Arrival:
        arrival = Arrival(Place.in_target(target))
        target.under_way.update(dict.fromkeys(range(run.block, run.block + run.count), arrival))
        return arrival

    async def _fetch(
        self, target: Target, run: Extent, arrival: Arrival, until: float = math.inf
    ) -> None:
        """Bring one run that was announced by `_expect`."""
        place = arrival.place
        try:
            if arrival.patient:
                await self._let_readers_go(arrival)
            land = partial(self._land, place, run.block)
            mark = self._reach.began(trio.current_time())
            await self._fetcher.blocks(self._run_of(run), land, until)
            self._reach.came(mark, trio.current_time(), run.count)
        except AggfsError as error:
            if target.sparse is place.sparse:  # else the file began anew, and nobody wants these
                arrival.error = error
                raise
        finally:
            place.sparse.settle()
            for number in range(run.block, run.block + run.count):
                if target.under_way.get(number) is arrival:
                    del target.under_way[number]
            arrival.done.set()

    def _run_of(self, extent: Extent) -> Run:
        state = self._blocks.stripe(extent.sid)
        if state is None:
            raise Damaged(f"stripe {extent.sid.hex()} has no row: its blocks cannot be found")
        return Run(state.row, Kind.DATA, extent.index, extent.count)

    async def _land(self, place: Place, first: int, blocks: Sequence[Buffer]) -> None:
        """Fill the holes of these blocks."""
        pieces = place.cut_to_size(first, blocks)
        start = first * BLOCK_BYTES
        if sum(map(len, pieces)) >= THREAD_BYTES and await self._land_at_once(place, start, pieces):
            return
        for number, piece in enumerate(pieces):
            place.sparse.fill(start + number * BLOCK_BYTES, piece, removals=place.removals)
            await trio.lowlevel.checkpoint()

    async def _land_at_once(self, place: Place, start: int, pieces: Sequence[Buffer]) -> bool:
        """Write them all by one call of a worker; False where not everything is a hole still."""
        landings = place.sparse.landings
        async with self._landing:
            memory = self._memory.take()
            landed = None
            try:
                landing = landings.prepare(start, memory)
                await list_in_slices(map(landing.add, pieces))
                if not landings.begin(landing, place.removals):
                    return False
                written = False
                try:
                    await in_thread(landing.write)
                    written = True
                except OSError as error:
                    raise disk_refusal(error) from error
                finally:
                    landed = landings.end(landing, place.removals, written=written)
            finally:
                self._memory.settle(landed, memory)
        return True


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _cut(extent: Extent, under_way: dict[int, Arrival], longest: int) -> Iterable[Extent]:
    """An extent as runs of at most so many blocks, apart where some are under way already."""
    start = extent.block
    while start < extent.block + extent.count:
        stop = start + 1
        arrival = under_way.get(start)
        while (
            stop < extent.block + extent.count
            and stop - start < longest
            and under_way.get(stop) is arrival
        ):
            stop += 1
        yield Extent(start, extent.sid, extent.index + start - extent.block, stop - start)
        start = stop
