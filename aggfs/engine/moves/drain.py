"""Emptying an account while it stays readable, and forgetting it.

Theory of operation. A leaving account takes nothing new. Its fragments move to the others, as
`engine.moves.move` does it: copied, or made again where it does not answer. What it holds of the
journal is made superfluous by a checkpoint that lies elsewhere. When nothing needs it any more, its
head and its header may go too, and the account is no part of the volume.

An account that does not answer is forgotten with what lies there: nobody can delete that, and
what is left is fewer than k fragments of anything. Of a stripe of another device what is live is
sealed again here: only its owner may move or delete its fragments.
"""

from collections.abc import Mapping, Sequence

import trio

from aggfs.cache.blocks import StripeState
from aggfs.coding.keys import is_header_name
from aggfs.engine.accounts import Account
from aggfs.engine.journal.attend import HeaderRows
from aggfs.engine.moves.move import Mover, held_by, is_movable, is_ours, size_of
from aggfs.engine.moves.movement import Answer, Told
from aggfs.engine.moves.rebalance import BATCH_MOVES, carry_out, pages
from aggfs.engine.moves.rewrite import Rewriter
from aggfs.engine.volume import Parts
from aggfs.errors import NoEntry
from aggfs.model import AccountEntry, AccountId
from aggfs.placement.leaving import check_without, place_elsewhere, with_moves
from aggfs.placement.rebalance import Move

LEAVING = b"l"
WAIT_SECONDS = 1.0


class Draining:
    """A task of `engine.moves.movement`: `account` is to be emptied; `prefer`, if given, takes what
    it may of it."""

    def __init__(self, parts: Parts, mover: Mover, rewriter: Rewriter) -> None:
        self._parts = parts
        self._rewriter = rewriter
        self._mover = mover
        self._table = parts.database.table("movement")
        for key, _ in self._table.scan(LEAVING):
            known = parts.accounts.get(key[1:])
            if known is not None:
                known.leaving = True

    def _account(self, wanted: Mapping[str, str | int]) -> Account:
        account = self._parts.accounts.get(bytes.fromhex(str(wanted["account"])))
        if account is None:
            raise NoEntry("there is no such account in this volume any more")
        return account

    async def survey(self, wanted: Mapping[str, str | int]) -> Answer:
        """How much would move. Raises `BadConfig` where the volume would not be spread any more as
        it must be, `NoSpace` where the rest cannot hold it: with the numbers."""
        account = self._account(wanted)
        count = size = stored = 0
        for page in pages(self._parts):
            for state in page:
                here = _indices_at(state, account.id)
                count, size = count + len(here), size + len(here) * size_of(state)
                stored += len(state.row.places) * size_of(state)
            await trio.lowlevel.checkpoint()
        policy = self._parts.policy
        check_without(
            self._parts.accounts.states(),
            account.id,
            k=policy.storage_class.k,
            n=policy.storage_class.n,
            q=policy.per_provider,
            moving_bytes=size,
            stored_bytes=stored,
            complete_copy=self._parts.allow_complete_copy,
        )
        return {"total_bytes": size, "fragments": count, "account": account.name}

    async def run(self, wanted: Mapping[str, str | int], told: Told) -> None:
        """Empty it. Raises `NoSpace` where a fragment finds no room elsewhere."""
        account = self._account(wanted)
        account.leaving = True
        self._table.put(LEAVING + account.id, b"")
        await self._parts.database.durable()
        preferred = AccountId(bytes.fromhex(str(wanted.get("prefer", ""))))
        while await self._round(account, preferred, told):
            with trio.move_on_after(WAIT_SECONDS):  # what is staged still is moved when it is full
                await self._parts.stripes.wait_change()
        await self._mover.settle()
        await self._empty_of_journal(account)

    async def _round(self, account: Account, preferred: AccountId, told: Told) -> bool:
        """Move what can be moved now; whether something was or is left."""
        left = False
        batch: list[Move] = []
        others: list[bytes] = []
        for page in pages(self._parts):
            for state in page:
                if not is_ours(self._parts, state):
                    if _indices_at(state, account.id):
                        others.append(state.row.sid)
                    continue
                left = left or self._names(state, account)
                batch += self._moves(state, account, preferred, batch)
                if len(batch) >= BATCH_MOVES:
                    await carry_out(self._mover, batch, told)
                    batch = []
            await trio.lowlevel.checkpoint()
        await carry_out(self._mover, batch, told)
        if account.healthy and self._parts.blocks.moving():
            await self._mover.settle()
        used = self._parts.policy.storage_class
        return await self._rewriter.replace_all(others, used, self._turn) or left

    async def _turn(self, state: StripeState) -> None:
        await self._mover.pace.turn(sum(state.row.sealed_bytes))

    def _names(self, state: StripeState, account: Account) -> bool:
        """Whether a stripe still has, or may have, something there that can be taken away."""
        if _indices_at(state, account.id):
            return True
        beside = (*state.attempts, *state.moving)
        return account.healthy and any(place == account.id for _, place in beside)

    def _moves(
        self,
        state: StripeState,
        account: Account,
        preferred: AccountId,
        planned: Sequence[Move],
    ) -> list[Move]:
        """Where what lies there may go, beside the moves that are planned already."""
        indices = _indices_at(state, account.id)
        if not indices or not is_movable(self._parts, state):
            return []
        found = place_elsewhere(
            with_moves(self._parts.accounts.states(), planned),
            held=held_by(state),
            indices=indices,
            k=state.row.k,
            q=self._parts.policy.per_provider,
            size_bytes=size_of(state),
            seed=state.row.sid,
            preferred=preferred,
        )
        return [
            Move(state.row.sid, index, account.id, target, size_of(state))
            for index, target in found.items()
        ]

    async def _empty_of_journal(self, account: Account) -> None:
        """What it holds of the journal is needed no more once a checkpoint lies elsewhere; its head
        and header stay while it is an account."""
        parts = self._parts
        await parts.checkpointer.make()
        if not account.healthy:
            return
        kept = self._head_name(account)
        for key, _ in parts.accounts.ledger.objects(account.id):
            if key != kept and not is_header_name(key):
                await self._delete(account, key)
        await parts.database.durable()

    def _head_name(self, account: Account) -> str:
        keys, device = self._parts.keys, self._parts.checkpointer.device
        return keys.head_name(keys.epoch, device, account.id)

    async def _delete(self, account: Account, key: str) -> None:
        if await account.delete(key):
            self._parts.accounts.ledger.drop_object(account.id, key)

    async def undo(self, wanted: Mapping[str, str | int]) -> None:
        """It is an account like any other again. What was moved stays where it is."""
        account_id = bytes.fromhex(str(wanted["account"]))
        account = self._parts.accounts.get(account_id)
        if account is not None:
            account.leaving = False
        self._table.delete(LEAVING + account_id)
        await self._parts.database.durable()


class Removing(Draining):
    """A task of `engine.moves.movement`: the account is emptied, and forgotten."""

    async def run(self, wanted: Mapping[str, str | int], told: Told) -> None:
        """Empty it, and take it out of the volume. Nothing is left to do where that was done."""
        if self._parts.accounts.get(bytes.fromhex(str(wanted["account"]))) is None:
            return
        await super().run(wanted, told)
        await self._forget(self._account(wanted))

    async def _forget(self, account: Account) -> None:
        """The last objects, the account itself, and the word to all."""
        parts = self._parts
        if account.healthy:
            for key, _ in parts.accounts.ledger.objects(account.id):
                await self._delete(account, key)
        parts.accounts.remove(account.id)
        parts.accounts.ledger.drop_account(account.id)
        self._table.delete(LEAVING + account.id)
        HeaderRows(parts.database).drop(account.id)
        parts.publisher.taken.drop(account.id)
        parts.namespace.add_control(
            AccountEntry(
                account.id, account.name, account.provider, account.quota_bytes, removed=True
            )
        )
        await parts.database.durable()
        await parts.publisher.publish()
        await self._mover.settle()
        await account.store.aclose()


def _indices_at(state: StripeState, account: AccountId) -> list[int]:
    return [index for index, place in enumerate(state.row.places) if place == account]
