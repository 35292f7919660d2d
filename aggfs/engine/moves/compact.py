"""Compaction: what is left of stripes that are mostly dead is packed together.

Theory of operation. A round looks, in a snapshot, at which blocks of its share of the stripes are
live. Those of stripes under half live are rewritten (`engine.moves.rewrite`), several stripes into
one; the old stripes are collected then. It is never urgent: a round does so much and no more, at
the pace of what moves, after readers, and only while little waits to be sent.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from aggfs.cache.blocks import StripeState
from aggfs.coding.codec import fragment_bytes
from aggfs.engine.moves.live import Live, live_steps
from aggfs.engine.moves.rewrite import Rewriter
from aggfs.engine.pace import Pace
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, NoSpace, StoreError, TooFewFragments
from aggfs.model import DropStripe
from aggfs.threads import in_slices

FIRST_SECONDS = 300.0
ROUND_SECONDS = 1800.0
SHARE_STRIPES = 50_000
STRIPES_AT_ONCE = 1000
ROUND_BYTES = 256 * 1024 * 1024
GROUP_STRIPES = 64
LIVE_PART = 0.5
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Compacted:
    """What a round did: so many stripes are not needed any more, and what their objects take."""

    stripes: int = 0
    live_bytes: int = 0
    freed_bytes: int = 0


class Compactor:
    """Compacts the stripes of a volume. On the loop."""

    def __init__(self, parts: Parts, rewriter: Rewriter, pace: Pace) -> None:
        self._parts = parts
        self._rewriter = rewriter
        self._pace = pace
        self._after: bytes | None = None
        self._lock = trio.Lock()

    async def run(self) -> None:
        """A round now and then, for ever."""
        await trio.sleep(FIRST_SECONDS)
        while True:
            try:
                await self.round()
            except (StoreError, TooFewFragments, Damaged, NoSpace) as error:
                logger.info("compaction must wait: %s", error)
            await trio.sleep(ROUND_SECONDS)

    async def round(self) -> Compacted:
        """Compact one share of the stripes, and a bounded number of bytes. Raises `StoreError`,
        `TooFewFragments`, `Damaged`, `NoSpace`; what was done until then is done."""
        async with self._lock:
            done = Compacted()
            states = {state.row.sid: state for state in await self._share()}
            await self._parts.database.durable()
            with self._parts.database.snapshot() as snapshot:
                live = await in_slices(live_steps(snapshot, states))
            sparse = [state for sid, state in states.items() if is_sparse(state, live.blocks[sid])]
            for start in range(0, len(sparse), GROUP_STRIPES):
                if done.live_bytes >= ROUND_BYTES:
                    break
                await self._compact(sparse[start : start + GROUP_STRIPES], live, done)
            return done

    async def _share(self) -> list[StripeState]:
        """The next stripes in turn that are in the accounts, and not on their way out."""
        found: list[StripeState] = []
        looked_at = 0
        while looked_at < SHARE_STRIPES:
            page = self._parts.blocks.stripes(self._after, limit=STRIPES_AT_ONCE)
            looked_at += len(page)
            found += filter(self._may_be_compacted, page)
            self._after = page[-1].row.sid if len(page) == STRIPES_AT_ONCE else None
            if self._after is None:
                break
            await trio.lowlevel.checkpoint()
        return found

    def _may_be_compacted(self, state: StripeState) -> bool:
        if not state.announced or state.row.sid in self._parts.staging:
            return False
        told = self._parts.tree.control(b"s" + state.row.sid)
        return told is None or not isinstance(told.entry, DropStripe)

    async def _compact(self, states: Sequence[StripeState], live: Live, done: Compacted) -> None:
        async def turn(state: StripeState) -> None:
            size = live_bytes(state, live.blocks[state.row.sid])
            await self._pace.turn(size)
            done.stripes += 1
            done.live_bytes += size
            done.freed_bytes += len(state.row.places) * fragment_bytes(
                state.row.sealed_bytes, state.row.k
            )

        await self._rewriter.rewrite_all(states, live, self._parts.policy.storage_class, turn)


def live_bytes(state: StripeState, live: int) -> int:
    """How many sealed bytes of a stripe are live."""
    blocks = state.row.sealed_bytes[:-1]
    return sum(size for index, size in enumerate(blocks) if live >> index & 1)


def is_sparse(state: StripeState, live: int) -> bool:
    """Whether a stripe is under half live, but not dead: dead ones are collected."""
    return 0 < live_bytes(state, live) < LIVE_PART * sum(state.row.sealed_bytes[:-1])
