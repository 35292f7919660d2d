"""Coding anew: what is stored as k of n becomes K of N.

Theory of operation. Parity does not depend on n: where k stays, fragments are added, each made of
k others, or taken away when all the rest are in place. Where k changes, the live blocks are sealed
again into new stripes (`engine.moves.rewrite`), and the old ones are collected; so it is with
stripes of another device, whose fragments are not ours to change. Either way a stripe that is done
is so by its row, so that whatever is cut short goes on where it was.
"""

from collections.abc import Mapping

import trio
from msgspec.structs import replace

from aggfs.cache.blocks import StripeState
from aggfs.coding.codec import fragment_bytes
from aggfs.engine.moves.move import Mover, held_by, is_movable, is_ours, size_of
from aggfs.engine.moves.movement import Answer, Told
from aggfs.engine.moves.rebalance import pages
from aggfs.engine.moves.rewrite import Rewriter
from aggfs.engine.volume import Volume
from aggfs.errors import NoEntry, NoSpace, Unreachable
from aggfs.model import DropStripe, Layout, PutStripe
from aggfs.placement.plan import check_complete_copy, plan_missing
from aggfs.placement.policy import StorageClass, check_class

Wanted = Mapping[str, str | int]


class Recoding:
    """A task of `engine.moves.movement`: all stripes become `k` of `n`, and new ones will be; with
    a `path`, only those of a file or a tree, and nothing else changes."""

    def __init__(self, volume: Volume, mover: Mover, rewriter: Rewriter) -> None:
        self._volume = volume
        self._parts = volume.parts
        self._mover = mover
        self._rewriter = rewriter

    def _class_of(self, wanted: Wanted) -> StorageClass:
        """The class that is wanted; like the present one but for k and n."""
        known = self._parts.policy.storage_class
        k, n = int(wanted["k"]), int(wanted["n"])
        number = known.id if (k, n) == (known.k, known.n) else (known.id + 1) % 256
        return StorageClass(number, known.name, k, n, known.layout, known.compression)

    async def survey(self, wanted: Wanted) -> Answer:
        """How many bytes would be put. Raises `BadConfig` for a code that the accounts cannot
        carry, `NoSpace` where they have no room for old and new together."""
        used = self._class_of(wanted)
        check_class(used, self._parts.policy.per_provider)
        states = self._parts.accounts.states()
        if not self._parts.allow_complete_copy:
            check_complete_copy(states, used.k, used.n, self._parts.policy.per_provider)
        chosen = self._chosen(wanted)
        count = size = 0
        for page in pages(self._parts):
            for state in page:
                if (chosen is None or state.row.sid in chosen) and self._differs(state, used):
                    count, size = count + 1, size + _put_bytes(state, used)
            await trio.lowlevel.checkpoint()
        room = sum(state.free_bytes for state in states)
        if size > room:
            raise NoSpace(
                f"{size} bytes would be put before what they replace is collected; the accounts"
                f" have room for {room}: {size - room} bytes too few"
            )
        return {"total_bytes": size, "fragments": count * used.n, "stripes": count}

    def _chosen(self, wanted: Wanted) -> set[bytes] | None:
        """The stripes that a path names; None: all."""
        if "path" not in wanted:
            return None
        names = self._volume.namespace
        try:
            top = self._volume.row_at(wanted)
        except NoEntry:
            return set()
        rows = (names.by_number(number) for number in names.numbers_under(top.number))
        return {sid for row in rows for sid in self._volume.sids_of(row)}

    async def run(self, wanted: Wanted, told: Told) -> None:
        """Do it. Raises `StoreError`, `TooFewFragments`, `NoSpace`."""
        used = self._class_of(wanted)
        if "path" not in wanted:
            await self._volume.control("class-set", {"k": used.k, "n": used.n})
            used = self._parts.policy.storage_class
        while await self._round(self._chosen(wanted), used, told):
            with trio.move_on_after(1.0):  # what is staged still is coded anew when it is full
                await self._parts.stripes.wait_change()
        await self._mover.settle()

    async def undo(self, wanted: Wanted) -> None:
        """What was coded anew stays so, and so does the class of what will be written."""

    async def _round(self, chosen: set[bytes] | None, used: StorageClass, told: Told) -> bool:
        """One round over all stripes; whether one that differs is left."""
        left = False
        others: list[bytes] = []
        for page in pages(self._parts):
            todo = [
                state
                for state in page
                if (chosen is None or state.row.sid in chosen) and self._differs(state, used)
            ]
            same_k = [one for one in todo if one.row.k == used.k and is_ours(self._parts, one)]
            for state in same_k:
                left = not await self._change_n(state.row.sid, used.n, told) or left
            others += [state.row.sid for state in todo if state not in same_k]
            await trio.lowlevel.checkpoint()
        return await self._rewriter.replace_all(others, used, self._turn) or left

    def _differs(self, state: StripeState, used: StorageClass) -> bool:
        """Whether a stripe is not as it should be. Those on their way out are left alone."""
        told = self._parts.tree.control(b"s" + state.row.sid)
        if told is not None and isinstance(told.entry, DropStripe):
            return False
        return (state.row.k, len(state.row.places)) != (used.k, used.n)

    # --- the same k ---------------------------------------------------------------------------

    async def _change_n(self, sid: bytes, n: int, told: Told) -> bool:
        """Add fragments, or take some away; whether that could be done."""
        async with self._parts.repairs.holds.hold(sid):
            state = self._parts.blocks.stripe(sid)
            if state is None:
                return True
            if not is_movable(self._parts, state):
                return False
            before = len(state.row.places)
            if n < before:
                return self._take_away(state, n)
            if not self._add(state, n):
                return False
            await self._parts.database.durable()
        await self._mover.pace.turn((n - before) * size_of(state))
        await self._parts.repairs.repair(sid)
        told((n - before) * size_of(state))
        return True

    def _add(self, state: StripeState, n: int) -> bool:
        """The row has places for the new fragments, and all are told; a copy that was left beside
        a place is what should be there now. False while one of them is being deleted where a put
        was given up. No await. Raises `NoSpace`, `Unreachable`."""
        row, before = state.row, len(state.row.places)
        held = list(held_by(state))
        held += [frozenset()] * (n - len(held))
        found = plan_missing(
            self._parts.accounts.states(),
            held=held,
            missing=range(before, n),
            n=n,
            k=row.k,
            q=self._parts.policy.per_provider,
            size_bytes=size_of(state),
            seed=row.sid,
            layout=Layout(row.layout),
        )
        if len(found) < n - before:
            raise Unreachable("accounts that should take new fragments do not answer")
        added = tuple(found[index] for index in range(before, n))
        placed = set(enumerate(added, before))
        if not placed.isdisjoint(state.attempts):
            return False
        row = replace(row, places=row.places + added)
        beside = tuple(one for one in state.moving if one not in placed)
        self._parts.blocks.put_stripe(replace(state, row=row, moving=beside))
        for index, account in enumerate(added, before):
            if (index, account) not in state.copies():
                self._parts.accounts.ledger.add(account, size_of(state))
        self._parts.namespace.add_control(PutStripe(row))
        return True

    def _take_away(self, state: StripeState, n: int) -> bool:
        """The row has fewer places, and all are told; what lies at the others is a copy beside,
        to be deleted. False while one that stays is missing. No await."""
        row = replace(state.row, places=state.row.places[:n])
        if state.confirmed & (1 << n) - 1 != (1 << n) - 1:
            return False
        gone = tuple(
            (index, place) for index, place in enumerate(state.row.places) if index >= n and place
        )
        self._parts.blocks.put_stripe(
            replace(
                state,
                row=row,
                confirmed=state.confirmed & (1 << n) - 1,
                moving=state.moving + gone,
            )
        )
        self._parts.namespace.add_control(PutStripe(row))
        return True

    async def _turn(self, state: StripeState) -> None:
        await self._mover.pace.turn(sum(state.row.sealed_bytes))


def _put_bytes(state: StripeState, used: StorageClass) -> int:
    """What would be put to make it as it should be, all of it being live."""
    if state.row.k == used.k:
        return max(0, used.n - len(state.row.places)) * size_of(state)
    return used.n * fragment_bytes(state.row.sealed_bytes, used.k)
