"""Which account gets which fragment of a stripe.

Theory. A stripe's n fragments go to the accounts whose level (percentage in use) would be lowest
afterwards, at most q fragments to a provider; a second one only if that evens out a whole point.
Equal levels is what users expect to see, but it is not always what makes most use of the space: a
nearly full account with much room left must be in every stripe, or its room can never be used.
So once any account nears its capacity, a second plan is drawn, by remaining bytes, and the one
that leaves more usable space is taken.

Which fragment goes to which of the chosen accounts is drawn from the seed, so that parity rotates
and nothing of the order is the same for two stripes. In copies a second one of a cell comes after
the first of each: where accounts are down, those that are placed are as different as may be. The
plan is a function of its arguments.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from aggfs.errors import BadConfig, NoSpace, Unreachable
from aggfs.model import NO_ACCOUNT, AccountId, Code, Layout, cell_of, spare
from aggfs.placement.accounts import AccountState, pool_free_bytes
from aggfs.placement.capacity import largest_volume
from aggfs.placement.policy import per_provider_limit

NEAR_CAPACITY = 0.75
DOUBLING_LEVEL = 0.01  # a second fragment at a provider, where q allows, to even out one point


def plan_fragments(
    accounts: Sequence[AccountState],
    *,
    n: int,
    k: int,
    q: int,
    size_bytes: int,
    seed: bytes,
    layout: Layout = Layout.CONTIGUOUS,
) -> tuple[AccountId, ...]:
    """The account of each of the n fragments, each `size_bytes` long, of a new stripe.

    Where accounts are down, as many fragments as the others can take are placed, and the rest
    are NO_ACCOUNT: the caller stores what it can and catches up later. Never more than q at one
    provider. Raises `NoSpace` if n fragments would not fit even with every account answering,
    `Unreachable` if those that answer could take fewer than k.
    """
    held: tuple[frozenset[AccountId], ...] = (frozenset(),) * n
    placed = plan_missing(
        accounts,
        held=held,
        missing=range(n),
        n=n,
        k=k,
        q=q,
        size_bytes=size_bytes,
        seed=seed,
        layout=layout,
    )
    if spare(Code(k, layout), placed) < 0:
        raise Unreachable(f"only {len(placed)} of the {k} accounts that a write needs answer")
    return tuple(placed.get(index, NO_ACCOUNT) for index in range(n))


def plan_missing(
    accounts: Sequence[AccountState],
    *,
    held: Sequence[frozenset[AccountId]],
    missing: Sequence[int],
    n: int,
    k: int,
    q: int,
    size_bytes: int,
    seed: bytes,
    layout: Layout = Layout.CONTIGUOUS,
) -> Mapping[int, AccountId]:
    """Accounts for the `missing` fragments of a stripe, some of which may already be somewhere.

    `held[i]` are the accounts where fragment i is or may be: a put that was tried and whose
    object is not confirmed deleted counts against q (invariant 3). Indices that find no account
    because some are down are left out. Raises `NoSpace` if that is not the reason.
    """
    request = _Request(
        tuple(missing), tuple(held), tuple(accounts), n, k, q, size_bytes, seed, layout
    )
    writable = [state for state in accounts if state.writable]
    up = [state for state in writable if state.healthy]
    placed = request.best_plan(up)
    if len(placed) == len(missing):
        return placed
    if len(up) < len(writable) and len(request.best_plan(writable)) == len(missing):
        return placed
    raise NoSpace(
        f"{len(missing)} fragments of {size_bytes} bytes do not fit: "
        f"{len(placed)} of them would find room (at most {q} at one provider)"
    )


def usable_bytes(accounts: Sequence[AccountState], *, n: int, k: int, q: int) -> int:
    """How much data the accounts can hold in all, what they hold now included: the `df` total.

    The largest T with sum over providers of min(capacity, q*T/k) >= n*T/k, reserves taken off.
    An account that takes nothing new counts with what it holds.
    """
    capacities = {
        state.account: state.capacity_bytes if state.writable else state.used_bytes
        for state in accounts
    }
    pools = dict(pool_free_bytes(accounts))
    for state in accounts:
        if state.pool in pools:
            pools[state.pool] += state.used_bytes
    return _largest(accounts, capacities, pools, n=n, k=k, q=q)


def usable_free_bytes(accounts: Sequence[AccountState], *, n: int, k: int, q: int) -> int:
    """How much more data the accounts can take, as they are filled now."""
    free = {state.account: state.free_bytes for state in accounts}
    return _largest(accounts, free, pool_free_bytes(accounts), n=n, k=k, q=q)


def unfillable(
    accounts: Sequence[AccountState], *, n: int, k: int, q: int
) -> tuple[AccountState, ...]:
    """Accounts of providers that can never be filled: theirs is more than q/n of what is used.

    `status` names them, so that nobody wonders why their level stays behind.
    """
    limit = q * usable_bytes(accounts, n=n, k=k, q=q) // k
    capacity: dict[str, int] = {}
    for state in accounts:
        capacity[state.provider] = capacity.get(state.provider, 0) + state.capacity_bytes
    return tuple(state for state in accounts if capacity[state.provider] > limit + limit // 100)


def check_complete_copy(accounts: Sequence[AccountState], k: int, n: int, q: int) -> None:
    """Raise `BadConfig` if some provider would hold a complete copy, or could take one along.

    What must hold: k >= 2, q <= min(k-1, n-k), and enough providers for n fragments.
    """
    what = f"{k}-of-{n} with at most {q} at one provider"
    if k < 2:
        raise BadConfig(f"{what}: with k = {k} every fragment is a complete copy; k must be >= 2")
    limit = per_provider_limit(k, n)
    if limit < 1:
        raise BadConfig(f"{what}: n must be more than k, or no provider may ever fail")
    if not 1 <= q <= limit:
        raise BadConfig(f"{what}: a provider may hold 1 to {limit} (the lower of k-1 and n-k)")
    check_providers(accounts, n, q, what)


def check_providers(accounts: Sequence[AccountState], n: int, q: int, what: str) -> None:
    """Raise `BadConfig` where there are too few providers for n fragments, q at each."""
    providers = {state.provider for state in accounts if state.writable}
    if len(providers) * q < n:
        raise BadConfig(
            f"{what}: {-(-n // q)} providers are needed, there are {len(providers)}"
            f" ({', '.join(sorted(providers)) or 'none'})"
        )


def _largest(
    accounts: Sequence[AccountState],
    bytes_of: Mapping[AccountId, int],
    pools: Mapping[str, int],
    *,
    n: int,
    k: int,
    q: int,
) -> int:
    spaces: dict[str, int] = {}
    edges: dict[tuple[str, str], int] = {}
    for state in accounts:
        # The names of shared and private pools must not meet: prefixes keep them apart.
        pool = f"pool {state.pool}" if state.pool in pools else f"provider {state.provider}"
        edges[state.provider, pool] = edges.get((state.provider, pool), 0) + bytes_of[state.account]
        if state.pool in pools:
            spaces[pool] = pools[state.pool]
        else:
            spaces[pool] = spaces.get(pool, 0) + bytes_of[state.account]
    return largest_volume(edges, spaces, n=n, k=k, q=q)


@dataclass(frozen=True, slots=True)
class _Request:
    """The fragments that need an account."""

    missing: tuple[int, ...]
    held: tuple[frozenset[AccountId], ...]
    accounts: tuple[AccountState, ...]
    n: int
    k: int
    q: int
    size_bytes: int
    seed: bytes
    layout: Layout

    def in_turn(self) -> list[int]:
        """The missing fragments, in the order in which they get their place."""
        turns: Counter[int] = Counter()
        turn_of = {}
        for index in sorted(self.missing, key=self._lot):
            cell = cell_of(self, index)
            turn_of[index] = turns[cell]
            turns[cell] += 1
        # Those that may lie somewhere already have one place more to go: they can wait.
        return sorted(turn_of, key=lambda index: (bool(self.held[index]), turn_of[index]))

    def _lot(self, index: int) -> bytes:
        return self.draw(index.to_bytes(2))

    def best_plan(self, candidates: Sequence[AccountState]) -> Mapping[int, AccountId]:
        """As many of the missing fragments as find room, on the candidates that suit best."""
        by_level = _Draft(self, candidates, _Draft.level).fill()
        if not by_level.is_near_capacity():
            return by_level.placed
        by_room = _Draft(self, candidates, _Draft.fullness).fill()
        if len(by_room.placed) != len(by_level.placed):
            return max(by_room.placed, by_level.placed, key=len)
        return max(by_level, by_room, key=_Draft.usable_bytes_left).placed

    def draw(self, value: bytes) -> bytes:
        """The lot that the seed gives to an account or an index."""
        return blake2b(value, digest_size=8, key=self.seed[:64]).digest()


def rooms(candidates: Sequence[AccountState], pools: Mapping[str, int]) -> Mapping[AccountId, int]:
    """Free bytes to reckon with: accounts of one pool have their part of its room each, or they
    would look emptier than they are."""
    sharing = Counter(state.pool for state in candidates)
    return {
        state.account: min(state.free_bytes, pools[state.pool] // sharing[state.pool])
        if state.pool in pools
        else state.free_bytes
        for state in candidates
    }


class _Draft:
    """A plan that is being drawn: what was placed, and what is still free.

    `measure` says how little an account suits the next fragment; the lowest takes it.
    """

    def __init__(
        self,
        request: _Request,
        candidates: Sequence[AccountState],
        measure: Callable[["_Draft", AccountState], float],
    ) -> None:
        self.placed: dict[int, AccountId] = {}
        self._request = request
        # In the order of their lots, so that `min` breaks ties by lot.
        self._candidates = sorted(candidates, key=lambda state: request.draw(state.account))
        self._measure = measure
        self._took: dict[AccountId, int] = {state.account: 0 for state in candidates}
        self._pools = dict(pool_free_bytes(request.accounts))
        self._room = rooms(candidates, self._pools)
        # Fragment indices at each provider, those held before and those placed now.
        self._indices: dict[str, set[int]] = {state.provider: set() for state in request.accounts}
        for state in request.accounts:
            for index, places in enumerate(request.held):
                if state.account in places:
                    self._indices[state.provider].add(index)

    def level(self, state: AccountState) -> float:
        """How full the account would be; doubling up on a provider costs a point."""
        more_bytes = (self._took[state.account] + 1) * self._request.size_bytes
        doubled = len(self._indices[state.provider])
        room = self._room[state.account]
        level = (state.used_bytes + more_bytes) / max(1, state.used_bytes + room)
        return level + DOUBLING_LEVEL * doubled

    def fullness(self, state: AccountState) -> float:
        """The less room is left, the higher."""
        return self._took[state.account] * self._request.size_bytes - self._room[state.account]

    def is_near_capacity(self) -> bool:
        """Whether equal levels may no longer be what uses the space best."""
        return any(self.level(state) > NEAR_CAPACITY for state in self._candidates)

    def fill(self) -> "_Draft":
        """Place fragment after fragment until none is left or none finds room."""
        left = self._request.in_turn()
        while left:
            offers = [
                (state, index)
                for state in self._candidates
                for index in left[:1] + self._held_by(state, left)
                if self._may_take(state, index)
            ]
            if not offers:
                break
            state, index = min(offers, key=lambda offer: self._measure(self, offer[0]))
            self._take(state, index)
            left.remove(index)
        return self

    def usable_bytes_left(self) -> int:
        """The space that stays usable if this plan is carried out."""
        size_bytes = self._request.size_bytes
        in_pool: dict[str, int] = {}
        for state in self._candidates:
            in_pool[state.pool] = in_pool.get(state.pool, 0) + self._took[state.account]
        after = [
            replace(
                state,
                used_bytes=state.used_bytes + self._took[state.account] * size_bytes,
                pool_free_bytes=None
                if state.pool_free_bytes is None
                else state.pool_free_bytes - in_pool[state.pool] * size_bytes,
            )
            for state in self._candidates
        ]
        return usable_free_bytes(after, n=self._request.n, k=self._request.k, q=self._request.q)

    def _held_by(self, state: AccountState, left: Sequence[int]) -> list[int]:
        """Missing indices that the account's provider may hold already: they cost no distinct
        fragment more there."""
        held = self._indices[state.provider]
        return [index for index in left[1:] if index in held]

    def _may_take(self, state: AccountState, index: int) -> bool:
        """Whether this account has the room, and its provider may hold fragment `index`."""
        size_bytes = self._request.size_bytes
        if state.free_bytes < (self._took[state.account] + 1) * size_bytes:
            return False
        if self._pools.get(state.pool, size_bytes) < size_bytes:
            return False
        held = self._indices[state.provider]
        return index in held or len(held) < self._request.q

    def _take(self, state: AccountState, index: int) -> None:
        self.placed[index] = state.account
        self._took[state.account] += 1
        if state.pool in self._pools:
            self._pools[state.pool] -= self._request.size_bytes
        self._indices[state.provider].add(index)
