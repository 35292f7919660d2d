"""Fragments move from account to account, one by one, and nothing is lost on the way.

Theory of operation. A stripe's state names, beside the place of each fragment, the *copies
beside it* (`StripeState.moving`): those under way to a new place, and those left at an old one.
They count as present, so that no provider ever has more than q fragments of a stripe, not even
for a moment. In order, each step durable before the next:

1. the new copy is noted beside the place (and in the ledger): the intent;
2. the bytes are put: copied from the place, and checked whole; or, where that does not answer or
   is damaged, made again from k others, which gives the same bytes;
3. the row names the new place, and the old one is a copy beside it now; this is announced;
4. when the accounts know the row, and the reads that began with the old one are over, the copies
   beside it are deleted, and then forgotten.

Whatever is cut short leaves a copy beside the place, which step 4 takes away some time: nothing
else remembers a move, and nothing else has to.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

import trio
from msgspec.structs import replace

from aggfs.cache.blocks import StripeState
from aggfs.coding.codec import fragment_bytes
from aggfs.coding.whole import whole_fragment_steps
from aggfs.engine.accounts import Account
from aggfs.engine.volume import Parts
from aggfs.engine.works import Works
from aggfs.engine.writing.upload import Parcel, put_all
from aggfs.errors import Damaged, NotFound, StoreError, Unreachable
from aggfs.formats.record import Buffer
from aggfs.model import AccountId, DropStripe, PutStripe
from aggfs.placement.rebalance import Move, Spread, may_hold
from aggfs.sync.collection import owner_of
from aggfs.threads import in_slices, list_in_slices

GET_SECONDS = 60.0
logger = logging.getLogger(__name__)

Beside = Mapping[bytes, tuple[tuple[int, bytes], ...]]


class Mover:
    """Moves fragments of stripes that are in the accounts. On the loop."""

    def __init__(self, parts: Parts, readers: Works) -> None:
        """`readers` are the reads under way: each knows the places of when it began."""
        self._parts = parts
        self._blocks = parts.blocks
        self._accounts = parts.accounts
        self._readers = readers
        self.pace = parts.pace.another()
        self._settling = trio.Lock()
        self._former = frozenset(parts.blocks.moving())  # a former run left copies beside them

    # --- one move -----------------------------------------------------------------------------

    async def move(self, move: Move) -> bool:
        """Bring a fragment to another account; False, and nothing is done, where that may not be
        (any more). The old copy stays until `settle`.

        Raises `StoreError` where the target does not take it, `TooFewFragments` where its bytes
        cannot be had. May be cancelled.
        """
        async with self._parts.repairs.holds.hold(move.sid):
            target = self._accounts.get(move.target)
            state = self._blocks.stripe(move.sid)
            if target is None or state is None or not self._allowed(state, move, target):
                return False
            beside = (*state.moving, (move.index, bytes(move.target)))
            self._blocks.put_stripe(replace(state, moving=beside))
            self._accounts.ledger.add(move.target, size_of(state))
            await self._parts.database.durable()
            await self.pace.turn(size_of(state))
            await self._put(state, move.index, target, await self._bytes(state, move.index))
            return self._arrived(move)

    def _allowed(self, state: StripeState, move: Move, target: Account) -> bool:
        index = move.index
        if not is_movable(self._parts, state):
            return False
        if index >= len(state.row.places) or state.row.places[index] != move.source:
            return False
        held = held_by(state)
        if move.target in held[index] or not self._has_room(target, size_of(state)):
            return False
        q = self._parts.policy.per_provider
        return may_hold(held, index, target.provider, self._provider_of, q)

    def _has_room(self, target: Account, size_bytes: int) -> bool:
        states = self._accounts.states()
        known = next(state for state in states if state.account == target.id)
        return known.healthy and known.free_bytes >= size_bytes

    def _provider_of(self, account: AccountId) -> str:
        known = self._accounts.get(account)
        return known.provider if known is not None else ""

    async def _bytes(self, state: StripeState, index: int) -> Sequence[Buffer]:
        """The fragment as it is at its place, or made again."""
        account = self._accounts.get(state.row.places[index])
        if account is not None and account.healthy and state.confirmed >> index & 1:
            try:
                with trio.fail_after(GET_SECONDS):
                    data = await account.store.get(self._name(state, index, account.id))
                await in_slices(whole_fragment_steps(self._parts.keys, state.row, index, data))
            except (NotFound, Damaged) as error:
                logger.info("account %s cannot give a fragment: %s", account.name, error)
            except StoreError as error:
                account.failed(error)
            except trio.TooSlowError:
                account.failed(Unreachable(f"account {account.name} does not answer"))
            else:
                return [data]
        made = await self._parts.repairs.remake(state.row.sid, (index,))
        return made[index]

    async def _put(
        self, state: StripeState, index: int, account: Account, pieces: Sequence[Buffer]
    ) -> None:
        parcel = Parcel(index, account, self._name(state, index, account.id), pieces)
        stored: list[Parcel] = []
        await put_all([parcel], stored.append, lambda: False)
        if not stored:
            raise Unreachable(f"account {account.name}: {account.last_error}")

    def _name(self, state: StripeState, index: int, account: bytes) -> str:
        row = state.row
        return self._parts.keys.fragment_name(row.epoch, row.sid, index, account)

    def _arrived(self, move: Move) -> bool:
        """The row names the new place, and all shall know. No await."""
        state = self._blocks.stripe(move.sid)
        if state is None:  # nobody refers to it any more
            return False
        index, source, target = move.index, bytes(move.source), bytes(move.target)
        places = list(state.row.places)
        places[index] = target
        beside = [one for one in state.moving if one != (index, target)]
        row = replace(state.row, places=tuple(places))
        self._blocks.put_stripe(
            replace(
                state,
                row=row,
                confirmed=state.confirmed | 1 << index,
                moving=(*beside, (index, source)),
            )
        )
        if not self._is_dying(move.sid):
            self._parts.namespace.add_control(PutStripe(row))
        return True

    def _is_dying(self, sid: bytes) -> bool:
        """Whether all were told that this stripe goes: a row now would bring it back to life."""
        known = self._parts.tree.control(b"s" + sid)
        return known is not None and isinstance(known.entry, DropStripe)

    # --- what is left beside ------------------------------------------------------------------

    async def settle(self, sids: Collection[bytes] | None = None) -> int:
        """Let the accounts know what has moved, then delete the copies beside these stripes, or
        all; how many are left, because their account does not answer, or a put may still arrive.
        Raises `Unreachable` while too few accounts take the journal."""
        async with self._settling:
            beside = await self._beside(sids)
            if any(self._answers(account) for copies in beside.values() for _, account in copies):
                await self._parts.publisher.publish()
                await self._readers.settled()
                for sid, copies in beside.items():
                    async with self._parts.repairs.holds.hold(sid):
                        for index, account in filter(lambda one: self._answers(one[1]), copies):
                            await self._delete(sid, index, account)
                await self._parts.database.durable()
            return sum(map(len, (await self._beside(sids)).values()))

    async def _beside(self, sids: Collection[bytes] | None) -> Beside:
        known = self._blocks.moving() if sids is None else sids
        states = await list_in_slices(map(self._blocks.stripe, known))
        return {state.row.sid: state.moving for state in states if state is not None}

    def _answers(self, account_id: bytes) -> bool:
        """Whether something can be deleted there now, or needs not be any more."""
        account = self._accounts.get(account_id)
        return account is None or account.healthy

    async def _delete(self, sid: bytes, index: int, account_id: bytes) -> None:
        """Delete one copy that was beside the place when the row was published, if it still is."""
        state = self._blocks.stripe(sid)
        if state is None or (index, account_id) not in state.moving:
            return
        account = self._accounts.get(account_id)
        if account is not None:
            if sid in self._former and account.arrivals.former_may_come():
                return
            if not await account.delete_for_good(self._name(state, index, account_id)):
                return
        state = self._blocks.stripe(sid)
        if state is not None and (index, account_id) in state.moving:
            left = tuple(one for one in state.moving if one != (index, account_id))
            self._blocks.put_stripe(replace(state, moving=left))
            self._accounts.ledger.add(AccountId(account_id), -size_of(state))


def is_ours(parts: Parts, state: StripeState) -> bool:
    """Whether this device may change where a stripe is. Others seal its blocks again."""
    return owner_of(state.row.sid, parts.tree.members()) == parts.checkpointer.device


def is_movable(parts: Parts, state: StripeState) -> bool:
    """Whether a stripe may be moved now: ours, and in the accounts. What is staged still, or was
    never announced, is the business of `engine.writing.stripes`."""
    return state.announced and state.row.sid not in parts.staging and is_ours(parts, state)


def held_by(state: StripeState) -> tuple[frozenset[AccountId], ...]:
    """Where each fragment is or may be; also those that the row does not have any more."""
    held: list[frozenset[AccountId]] = [frozenset() for _ in state.row.places]
    for index, account in state.copies():
        while index >= len(held):
            held.append(frozenset())
        held[index] |= {account}
    return tuple(held)


def spread_of(state: StripeState) -> Spread:
    """The stripe as placement sees it."""
    places = tuple(AccountId(place) for place in state.row.places)
    return Spread(state.row.sid, size_of(state), places, held_by(state))


def size_of(state: StripeState) -> int:
    """The size of each of its fragments."""
    return fragment_bytes(state.row.sealed_bytes, state.row.k)
