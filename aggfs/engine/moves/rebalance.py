"""Rebalancing: fragments move until all accounts are about as full, in percent."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import trio

from aggfs.cache.blocks import StripeState
from aggfs.engine.moves.move import Mover, is_movable, is_ours, spread_of
from aggfs.engine.moves.movement import Answer, Told
from aggfs.engine.volume import Parts
from aggfs.errors import StoreError, TooFewFragments
from aggfs.placement.rebalance import Leveller, Move, Spread

PAGE_STRIPES = 200
BATCH_MOVES = 64
AT_ONCE = 4
ROUNDS_LIMIT = 20  # each one but the last moves something; others may write meanwhile
logger = logging.getLogger(__name__)


class Rebalancing:
    """A task of `engine.moves.movement`."""

    def __init__(self, parts: Parts, mover: Mover) -> None:
        self._parts = parts
        self._mover = mover

    def _leveller(self) -> Leveller:
        policy = self._parts.policy
        states = self._parts.accounts.states()
        return Leveller(states, n=policy.storage_class.n, q=policy.per_provider)

    async def survey(self, wanted: Mapping[str, str | int]) -> Answer:
        """How much would move, and what the levels would be."""
        del wanted
        leveller = self._leveller()
        before = self._by_name(leveller)
        count = size = 0
        for page in pages(self._parts):
            for state in page:
                for move in _moves_of(leveller, state) if is_ours(self._parts, state) else ():
                    count, size = count + 1, size + move.size_bytes
            await trio.lowlevel.checkpoint()
        after = self._by_name(leveller)
        return {
            "total_bytes": size,
            "fragments": count,
            "levels": {name: [before[name], after[name]] for name in before},
        }

    def _by_name(self, leveller: Leveller) -> dict[str, float]:
        levels = leveller.levels()
        return {one.name: levels.get(one.id, 0.0) for one in self._parts.accounts}

    async def run(self, wanted: Mapping[str, str | int], told: Told) -> None:
        """Round after round over all stripes, until none of them has anything to move."""
        del wanted
        for _ in range(ROUNDS_LIMIT):
            if not await self._round(told):
                return

    async def undo(self, wanted: Mapping[str, str | int]) -> None:
        """Nothing to undo: where fragments are now is as good as where they were."""

    async def _round(self, told: Told) -> int:
        leveller, moved = self._leveller(), 0
        batch: list[Move] = []
        for page in pages(self._parts):
            for state in page:
                if not state.moving and is_movable(self._parts, state):
                    batch += _moves_of(leveller, state)
                if len(batch) >= BATCH_MOVES:
                    moved += await self._carry_out(batch, told)
                    batch = []
            await trio.lowlevel.checkpoint()
        return moved + await self._carry_out(batch, told)

    async def _carry_out(self, moves: Sequence[Move], told: Told) -> int:
        """What cannot be read stays where it is: that is no matter of levels."""
        moved = 0

        def count(size_bytes: int) -> None:
            nonlocal moved
            moved += 1
            told(size_bytes)

        try:
            await carry_out(self._mover, moves, count)
        except TooFewFragments as error:
            logger.warning("a fragment that cannot be made again is not moved: %s", error)
        return moved


def pages(parts: Parts) -> Iterator[list[StripeState]]:
    """All stripes, some at a time; those that come meanwhile may be left out."""
    after: bytes | None = None
    while page := parts.blocks.stripes(after, limit=PAGE_STRIPES):
        after = page[-1].row.sid
        yield page


def _moves_of(leveller: Leveller, state: StripeState) -> Iterator[Move]:
    """What of a stripe should move; each fragment once."""
    stripe = spread_of(state)
    while (move := leveller.next_move(stripe)) is not None:
        yield move
        held = list(stripe.held)
        places = list(stripe.places)
        held[move.index] |= {move.target}
        places[move.index] = move.target
        stripe = Spread(stripe.sid, stripe.size_bytes, tuple(places), tuple(held))


async def carry_out(mover: Mover, moves: Sequence[Move], told: Told) -> None:
    """Carry moves out, a few at once, and settle; `told` hears of each that was done. Raises
    `StoreError` or `TooFewFragments` of one that failed, when all others have ended."""
    failures: list[StoreError | TooFewFragments] = []
    slots = trio.CapacityLimiter(AT_ONCE)

    async def one(move: Move) -> None:
        async with slots:
            try:
                if await mover.move(move):
                    told(move.size_bytes)
            except (StoreError, TooFewFragments) as error:
                failures.append(error)

    async with trio.open_nursery() as nursery:
        for move in moves:
            nursery.start_soon(one, move)
    if moves:
        await mover.settle({move.sid for move in moves})
    if failures:
        raise next((one for one in failures if isinstance(one, StoreError)), failures[0])
