"""Which fragments should move so that all accounts are about as full: one move after the other.

Theory. Every account has a goal: the level at which all are equally full, except where a provider
may not hold so much (at most q of the n fragments of each stripe). An account's *surplus* is what
it holds beyond its goal, as a part of its capacity. A fragment moves from a higher surplus to a
lower one, and only where the surpluses at half the move differ by more than a small part of the
highest level (`TOLERANCE`): each move lowers the sum of capacity times surplus squared by a fixed
part of its size, so there is an end, and no level rises above the highest there is.

Stripes are shown one by one (`Leveller.next_move`), so that a volume of any size needs no more
memory than a small one.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aggfs.model import NO_ACCOUNT, AccountId
from aggfs.placement.accounts import AccountState, pool_free_bytes
from aggfs.placement.plan import rooms

TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a stripe is: each fragment is `size_bytes` long; fragment i has its place at
    `places[i]`, and is or may be at the accounts `held[i]` (invariant 3 counts those)."""

    sid: bytes
    size_bytes: int
    places: tuple[AccountId, ...]
    held: tuple[frozenset[AccountId], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Fragment `index` of a stripe goes from `source` to `target`."""

    sid: bytes
    index: int
    source: AccountId
    target: AccountId
    size_bytes: int


class Leveller:
    """The accounts as they will be after the moves that were drawn so far."""

    def __init__(self, accounts: Sequence[AccountState], *, n: int, q: int) -> None:
        """n and q are those of most stripes: they tell how much one provider may ever hold."""
        self._q = q
        self._states = {state.account: state for state in accounts}
        room = rooms(accounts, pool_free_bytes(accounts))
        self._bytes = {state.account: state.used_bytes for state in accounts}
        self._capacity = {
            state.account: max(1, state.used_bytes + room[state.account]) for state in accounts
        }
        self._goal = _goals(accounts, self._capacity, most=q / n)
        self._tolerance = TOLERANCE * max(self.levels().values(), default=0.0)

    def levels(self) -> Mapping[AccountId, float]:
        """How full each account will be."""
        return {one: self._bytes[one] / self._capacity[one] for one in self._bytes}

    def next_move(self, stripe: Spread) -> Move | None:
        """The move of a fragment of this stripe that does most, taken as done; None if none does
        anything. The caller shows the stripe again, with its new places, for a second one."""
        highest = max(self.levels().values(), default=0.0)
        best: tuple[float, int, AccountId] | None = None
        for index, source in enumerate(stripe.places):
            if source == NO_ACCOUNT or not self._can_give(source):
                continue
            for target in self._states:
                if not self._can_take(stripe, index, target, highest):
                    continue
                gain = self._middle(source, -stripe.size_bytes) - self._middle(
                    target, stripe.size_bytes
                )
                if gain > self._tolerance and (best is None or gain > best[0]):
                    best = gain, index, target
        if best is None:
            return None
        _, index, target = best
        move = Move(stripe.sid, index, stripe.places[index], target, stripe.size_bytes)
        self._bytes[move.source] -= move.size_bytes
        self._bytes[target] += move.size_bytes
        return move

    def _middle(self, account: AccountId, change_bytes: int) -> float:
        """The surplus when half of a move is done."""
        held = self._bytes[account] + change_bytes / 2
        return (held - self._goal[account]) / self._capacity[account]

    def _can_give(self, source: AccountId) -> bool:
        """What is down cannot delete: a move would only add to what it may hold."""
        return source in self._states and self._states[source].healthy

    def _can_take(self, stripe: Spread, index: int, target: AccountId, highest: float) -> bool:
        state = self._states[target]
        if not state.writable or not state.healthy or target in stripe.held[index]:
            return False
        after = self._bytes[target] + stripe.size_bytes
        if after > highest * self._capacity[target] or after > self._capacity[target]:
            return False
        return may_hold(stripe.held, index, state.provider, self._provider_of, self._q)

    def _provider_of(self, account: AccountId) -> str:
        known = self._states.get(account)
        return known.provider if known is not None else ""


def may_hold(
    held: Sequence[frozenset[AccountId]],
    index: int,
    provider: str,
    provider_of: Callable[[AccountId], str],
    q: int,
) -> bool:
    """Whether a provider may take fragment `index` of a stripe beside all that it has of it, or
    may have: at most q of its fragments."""
    there = {
        number
        for number, accounts in enumerate(held)
        if any(provider_of(account) == provider for account in accounts)
    }
    return len(there | {index}) <= q


def _goals(
    accounts: Sequence[AccountState], capacity: Mapping[AccountId, int], *, most: float
) -> Mapping[AccountId, float]:
    """How many bytes each account should hold: equal levels, but no provider more than the part
    `most` of all."""
    total = sum(state.used_bytes for state in accounts)
    weights: dict[str, int] = defaultdict(int)
    for state in accounts:
        weights[state.provider] += capacity[state.account]
    level: dict[str, float] = {}
    while len(level) < len(weights):
        left = total - sum(level[provider] * weights[provider] for provider in level)
        free = [provider for provider in weights if provider not in level]
        even = left / sum(weights[provider] for provider in free)
        capped = [one for one in free if even * weights[one] > most * total * 1.0001]
        level |= {one: most * total / weights[one] for one in capped}
        if not capped:
            level |= dict.fromkeys(free, even)
    return {state.account: level[state.provider] * capacity[state.account] for state in accounts}
