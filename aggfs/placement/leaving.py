"""What happens when an account leaves: whether the others can do without it, and who takes what."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aggfs.errors import BadConfig, NoSpace
from aggfs.model import AccountId
from aggfs.placement.accounts import AccountState
from aggfs.placement.plan import check_complete_copy, plan_missing, usable_bytes
from aggfs.placement.rebalance import Move, may_hold


def check_without(
    accounts: Sequence[AccountState],
    leaving: AccountId,
    *,
    k: int,
    n: int,
    q: int,
    moving_bytes: int,
    stored_bytes: int,
    complete_copy: bool,
) -> None:
    """Raise where an account cannot be done without: `BadConfig` where too few providers would be
    left (unless a `complete_copy` is allowed), `NoSpace` where the others have no room for the
    `moving_bytes` of fragments that lie there, or could not be spread as they must: they are part
    of `stored_bytes` of fragments in all."""
    rest = [state for state in accounts if state.account != leaving]
    name = next((state.name for state in accounts if state.account == leaving), "?")
    if not complete_copy:
        try:
            check_complete_copy(rest, k, n, q)
        except BadConfig as error:
            raise BadConfig(f"without {name}: {error}") from None
    room = sum(state.free_bytes for state in rest)
    if moving_bytes > room:
        raise NoSpace(
            f"{name} holds {moving_bytes} bytes of fragments; the other accounts have room for"
            f" {room}: {moving_bytes - room} bytes too few"
        )
    stored, usable = stored_bytes * k // n, usable_bytes(rest, n=n, k=k, q=q)
    if stored > usable:
        raise NoSpace(
            f"{stored} bytes of data are stored; without {name} the accounts can hold {usable}, at"
            f" most {q} of {n} fragments at one provider: {stored - usable} bytes too few"
        )


def with_moves(accounts: Sequence[AccountState], moves: Sequence[Move]) -> list[AccountState]:
    """The accounts with what is on its way to them; nothing has left its place yet."""
    coming: Counter[AccountId] = Counter()
    pooled: Counter[str] = Counter()
    pool = {state.account: state.pool for state in accounts}
    for move in moves:
        coming[move.target] += move.size_bytes
        pooled[pool.get(move.target, "")] += move.size_bytes
    return [
        replace(
            state,
            used_bytes=state.used_bytes + coming[state.account],
            pool_free_bytes=None
            if state.pool_free_bytes is None
            else max(0, state.pool_free_bytes - pooled[state.pool]),
        )
        for state in accounts
    ]


def place_elsewhere(
    accounts: Sequence[AccountState],
    *,
    held: Sequence[frozenset[AccountId]],
    indices: Sequence[int],
    k: int,
    q: int,
    size_bytes: int,
    seed: bytes,
    preferred: AccountId,
) -> Mapping[int, AccountId]:
    """Accounts for fragments whose account leaves (it is not writable): the preferred one where it
    may take them, else those that suit best. Indices that find none because accounts are down
    are left out. Raises `NoSpace`. `held` as in `plan_missing`."""
    states = {state.account: state for state in accounts}
    chosen = states.get(preferred)
    placed: dict[int, AccountId] = {}
    now = list(held)
    if chosen is not None and chosen.writable and chosen.healthy:

        def provider_of(account: AccountId) -> str:
            known = states.get(account)
            return known.provider if known is not None else ""

        for index in indices:
            fits = chosen.free_bytes >= size_bytes * (len(placed) + 1)
            if fits and may_hold(now, index, chosen.provider, provider_of, q):
                placed[index] = preferred
                now[index] |= {preferred}
    missing = [index for index in indices if index not in placed]
    if not missing:
        return placed
    found = plan_missing(
        accounts,
        held=now,
        missing=missing,
        n=len(held),
        k=k,
        q=q,
        size_bytes=size_bytes,
        seed=seed,
    )
    return {**placed, **found}
