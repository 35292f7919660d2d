"""Which account gets which fragment."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aggfs.errors import BadConfig, NoSpace, Unreachable
from aggfs.model import NO_ACCOUNT, AccountId, Layout
from aggfs.placement.accounts import AccountState
from aggfs.placement.plan import (
    check_complete_copy,
    plan_fragments,
    plan_missing,
    unfillable,
    usable_bytes,
    usable_free_bytes,
)

MIB = 1 << 20
GIB = 1 << 30
CODES = [(2, 3, 1), (2, 4, 1), (3, 5, 1), (3, 5, 2), (4, 6, 2), (10, 14, 4)]


def account(number: int, quota_bytes: int = 10 * GIB, **changes) -> AccountState:
    state = AccountState(
        account=AccountId(number.to_bytes(8)),
        name=f"account{number}",
        provider=f"provider{number}",
        quota_bytes=quota_bytes,
        used_bytes=0,
    )
    return replace(state, **changes)


def accounts_with(*quotas: int) -> list[AccountState]:
    return [account(number, quota) for number, quota in enumerate(quotas)]


@st.composite
def some_accounts(draw) -> list[AccountState]:
    states = []
    for number in range(draw(st.integers(1, 8))):
        quota = draw(st.integers(1, 40)) * 100 * MIB
        shared = draw(st.booleans())
        states.append(
            account(
                number,
                quota if draw(st.booleans()) else 0,
                provider=f"provider{draw(st.integers(0, 5))}",
                used_bytes=draw(st.integers(0, quota)),
                healthy=draw(st.integers(0, 5)) > 0,
                writable=draw(st.integers(0, 5)) > 0,
                pool=f"disk{draw(st.integers(0, 1))}" if shared else "",
                pool_free_bytes=draw(st.integers(0, 10)) * 100 * MIB if shared else None,
            )
        )
    return states


def with_plan(
    states: Sequence[AccountState], places: Sequence[AccountId], size_bytes: int
) -> list[AccountState]:
    """The accounts after the plan was carried out."""
    taken = Counter(places)
    return [
        replace(state, used_bytes=state.used_bytes + taken[state.account] * size_bytes)
        for state in states
    ]


def fill(
    states: Sequence[AccountState], k: int, n: int, q: int, size_bytes: int, stripes: int
) -> tuple[list[AccountState], int]:
    """Write stripes until there is no space, at most `stripes`; how many were written."""
    states = list(states)
    for stripe in range(stripes):
        try:
            places = plan_fragments(
                states, n=n, k=k, q=q, size_bytes=size_bytes, seed=stripe.to_bytes(8)
            )
        except NoSpace:
            return states, stripe
        states = with_plan(states, places, size_bytes)
    return states, stripes


def levels(states: Sequence[AccountState]) -> list[float]:
    return [state.level_with(0) for state in states]


@given(some_accounts(), st.sampled_from(CODES), st.integers(1, 300 * MIB), st.binary(max_size=64))
def test_no_provider_ever_gets_more_than_q_fragments(states, code, size_bytes, seed):
    k, n, q = code
    try:
        places = plan_fragments(states, n=n, k=k, q=q, size_bytes=size_bytes, seed=seed)
    except (NoSpace, Unreachable):
        return
    by_id = {state.account: state for state in states}
    chosen = [by_id[place] for place in places if place != NO_ACCOUNT]
    assert len(places) == n
    assert len(chosen) >= k
    assert max(Counter(state.provider for state in chosen).values()) <= q
    assert all(state.healthy and state.writable for state in chosen)
    for state, count in Counter(chosen).items():
        assert count * size_bytes <= state.free_bytes
    for pool in {state.pool for state in chosen if state.pool}:
        took = sum(state.pool == pool for state in chosen) * size_bytes
        assert took <= min(s.pool_free_bytes for s in states if s.pool == pool)


@given(some_accounts(), st.sampled_from(CODES), st.data())
def test_fragments_that_may_be_somewhere_count_against_q(states, code, data):
    k, n, q = code
    ids = [state.account for state in states]
    provider_of = {state.account: state.provider for state in states}
    held = [frozenset(data.draw(st.sets(st.sampled_from(ids), max_size=2))) for _ in range(n)]
    missing = sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1)))
    before: dict[str, set[int]] = {}
    for index, places in enumerate(held):
        for place in places:
            before.setdefault(provider_of[place], set()).add(index)
    assume(all(len(indices) <= q for indices in before.values()))
    try:
        placed = plan_missing(
            states, held=held, missing=missing, n=n, k=k, q=q, size_bytes=MIB, seed=b"s"
        )
    except NoSpace:
        return
    after = {provider: set(indices) for provider, indices in before.items()}
    for index, place in placed.items():
        assert index in missing
        after.setdefault(provider_of[place], set()).add(index)
    assert all(len(indices) <= q for indices in after.values())


def test_a_fragment_tried_at_a_provider_leaves_room_there_for_itself_only():
    states = accounts_with(GIB, GIB, GIB, GIB)
    held = [
        frozenset({states[0].account}),
        frozenset({states[1].account}),
        frozenset({states[2].account}),
    ]
    down = [replace(states[0], healthy=False), *states[1:3]]
    placed = plan_missing(states, held=held, missing=[0], n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert placed[0] in {states[0].account, states[3].account}
    placed = plan_missing(down, held=held, missing=[0], n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert placed == {}


def test_a_place_that_only_one_fragment_may_use_is_left_to_it():
    states = [account(0, GIB, used_bytes=GIB // 2), account(1, GIB)]
    held = [frozenset({states[0].account}), frozenset()]
    placed = plan_missing(
        states, held=held, missing=[0, 1], n=2, k=2, q=1, size_bytes=MIB, seed=b""
    )
    assert placed == {0: states[0].account, 1: states[1].account}


@given(some_accounts(), st.sampled_from(CODES), st.binary(max_size=64), st.randoms())
def test_a_plan_depends_on_accounts_and_seed_alone(states, code, seed, shuffler):
    k, n, q = code

    def plan(accounts):
        try:
            return plan_fragments(accounts, n=n, k=k, q=q, size_bytes=MIB, seed=seed)
        except (NoSpace, Unreachable) as error:
            return type(error)

    shuffled = list(states)
    shuffler.shuffle(shuffled)
    assert plan(states) == plan(shuffled)


@pytest.mark.parametrize(
    "quotas", [(1, 1, 2, 2, 5, 5), (3, 3, 3), (1, 1, 1, 1, 1, 1, 1), (4, 5, 6, 3)]
)
def test_accounts_fill_evenly_in_percent(quotas):
    states = accounts_with(*(quota * GIB for quota in quotas))
    total = sum(state.capacity_bytes for state in states)
    stripes = int(0.6 * total / (3 * 2 * MIB))
    after, written = fill(states, 2, 3, 1, 2 * MIB, stripes)
    assert written == stripes
    assert max(levels(after)) - min(levels(after)) <= 0.05
    assert min(levels(after)) >= 0.55


def test_a_provider_with_twice_the_room_takes_two_fragments_where_the_volume_allows():
    states = accounts_with(4 * GIB, 2 * GIB, 2 * GIB, 2 * GIB)
    stripes = int(0.6 * 10 * GIB / (5 * 4 * MIB))
    after, written = fill(states, 3, 5, 2, 4 * MIB, stripes)
    assert written == stripes
    assert max(levels(after)) - min(levels(after)) <= 0.05


def test_levels_even_out_after_an_account_is_added():
    old, _ = fill(accounts_with(2 * GIB, 2 * GIB, 2 * GIB), 2, 3, 1, 2 * MIB, 150)
    new = account(9, 2 * GIB)
    places = plan_fragments([*old, new], n=3, k=2, q=1, size_bytes=2 * MIB, seed=b"x")
    assert new.account in places
    after, _ = fill([*old, new], 2, 3, 1, 2 * MIB, 500)
    assert max(levels(after)) - min(levels(after)) <= 0.05


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (accounts_with(GIB, GIB, 2 * GIB, 2 * GIB, 5 * GIB, 5 * GIB), (2, 3, 1)),
        (accounts_with(8 * GIB, GIB, GIB, GIB), (2, 3, 1)),
        (accounts_with(3 * GIB, 2 * GIB, GIB, GIB), (3, 5, 2)),
        (
            [
                account(0, 10 * GIB, used_bytes=9 * GIB),
                account(1, 10 * GIB, used_bytes=9 * GIB),
                account(2, GIB // 2),
                account(3, GIB // 2),
            ],
            (2, 3, 1),
        ),
        (
            [
                account(0, 0, pool="disk", pool_free_bytes=3 * GIB),
                account(1, 0, pool="disk", pool_free_bytes=3 * GIB),
                account(2, 2 * GIB),
                account(3, GIB),
            ],
            (2, 3, 1),
        ),
    ],
)
def test_what_df_promises_can_be_written(states, code):
    k, n, q = code
    promised = usable_free_bytes(states, n=n, k=k, q=q)
    size_bytes = 8 * MIB
    written = 0
    shared = {state.pool for state in states} - {""}
    for stripe in range(promised // (k * size_bytes) + 1):
        try:
            places = plan_fragments(
                states, n=n, k=k, q=q, size_bytes=size_bytes, seed=stripe.to_bytes(8)
            )
        except NoSpace:
            break
        took = sum(s.account in places for s in states if s.pool in shared) * size_bytes
        states = [
            replace(state, pool_free_bytes=state.pool_free_bytes - took) if state.pool else state
            for state in with_plan(states, places, size_bytes)
        ]
        written += k * size_bytes
    assert written >= 0.97 * promised


def test_data_that_was_accepted_may_go_where_nothing_more_is_accepted() -> None:
    full = [account(number, 40 * MIB, used_bytes=34 * MIB) for number in range(3)]
    shape = {"n": 3, "k": 2, "q": 1}
    assert usable_free_bytes(full, **shape) < 4 * MIB
    with pytest.raises(NoSpace):
        plan_fragments(full, **shape, size_bytes=3 * MIB, seed=b"")
    pressed = [replace(state, pressed=True) for state in full]
    assert len(set(plan_fragments(pressed, **shape, size_bytes=3 * MIB, seed=b""))) == 3
    with pytest.raises(NoSpace):
        plan_fragments(pressed, **shape, size_bytes=4 * MIB, seed=b"")


def test_placement_moves_on_when_one_account_is_full():
    states = [account(0, GIB, used_bytes=GIB), *(account(i, GIB) for i in range(1, 4))]
    places = plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert set(places) == {state.account for state in states[1:]}


def test_there_is_no_space_when_a_fragment_finds_no_room():
    states = [account(0, GIB, used_bytes=GIB), account(1), account(2)]
    with pytest.raises(NoSpace):
        plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")


def test_an_account_that_is_down_leaves_its_fragment_for_later():
    states = [account(0, healthy=False), account(1), account(2)]
    places = plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert sorted(places) == sorted([NO_ACCOUNT, states[1].account, states[2].account])


def test_others_take_the_fragment_of_an_account_that_is_down():
    states = [account(0, healthy=False), account(1), account(2), account(3)]
    places = plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert set(places) == {state.account for state in states[1:]}


def test_fewer_than_k_answering_accounts_are_unreachable_and_not_full():
    states = [account(0, healthy=False), account(1, healthy=False), account(2)]
    with pytest.raises(Unreachable):
        plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")


@pytest.mark.parametrize(("k", "copies"), [(2, 2), (2, 3), (3, 2), (4, 4)])
def test_in_copies_what_is_placed_while_accounts_are_down_has_every_cell(k, copies):
    """k accounts that answer get k different cells, never two copies of one."""
    n = k * copies
    for seed in range(50):
        for up in range(k, n + 1):
            states = [account(number, healthy=number < up) for number in range(n)]
            places = plan_fragments(
                states,
                n=n,
                k=k,
                q=1,
                size_bytes=MIB,
                seed=bytes([seed, up]),
                layout=Layout.CONTIGUOUS_COPIES,
            )
            placed = [index for index, place in enumerate(places) if place]
            assert len(placed) == up
            counts = Counter(index % k for index in placed)
            assert min(counts[cell] for cell in range(k)) == up // k


def test_a_drained_account_takes_nothing():
    states = [account(0, writable=False), account(1), account(2), account(3)]
    places = plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=b"")
    assert states[0].account not in places


def test_which_account_gets_which_fragment_differs_from_stripe_to_stripe():
    states = accounts_with(GIB, GIB, GIB)
    plans = {
        plan_fragments(states, n=3, k=2, q=1, size_bytes=MIB, seed=bytes([i])) for i in range(99)
    }
    assert len(plans) == 6


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6), st.sampled_from(CODES))
def test_usable_bytes_is_the_largest_that_the_formula_allows(quotas, code):
    k, n, q = code
    states = accounts_with(*(quota * 997 for quota in quotas))
    capacities = [state.capacity_bytes if state.quota_bytes else 0 for state in states]
    assume(all(state.quota_bytes for state in states))

    def fits(size: int) -> bool:
        return sum(min(k * capacity, q * size) for capacity in capacities) >= n * size

    usable = usable_bytes(states, n=n, k=k, q=q)
    assert fits(usable)
    assert not fits(usable + 1)


@given(some_accounts(), st.sampled_from(CODES))
def test_usable_space_falls_short_of_no_cut_and_exceeds_none(states, code):
    """The same figure from first principles: the lowest of all cuts of the network."""
    k, n, q = code
    usable = usable_free_bytes(states, n=n, k=k, q=q)

    def smallest_cut(size: int) -> int:
        providers = sorted({state.provider for state in states})
        best = None
        for chosen in range(1 << len(providers)):
            inside = {p for i, p in enumerate(providers) if chosen >> i & 1}
            cut = q * size * (len(providers) - len(inside))
            spaces: dict[str, int] = {}
            for state in states:
                if state.provider in inside:
                    name = state.pool or f"own {state.account.hex()}"
                    spaces[name] = spaces.get(name, 0) + k * state.free_bytes
            for name, space in spaces.items():
                pool = [s for s in states if s.pool == name and s.pool_free_bytes is not None]
                if pool:
                    used = sum(s.used_bytes for s in pool)
                    free = min(s.pool_free_bytes for s in pool)
                    reserve = max((used + free) // 100, min(64 * MIB, (used + free) // 8))
                    space = min(space, k * max(0, free - reserve))
                cut += space
            best = cut if best is None else min(best, cut)
        return best

    assert smallest_cut(usable) >= n * usable
    assert smallest_cut(usable + 1) < n * (usable + 1)


def test_two_directories_on_one_disk_share_its_room():
    on_one_disk = [account(i, 0, pool="disk", pool_free_bytes=30 * GIB) for i in range(3)]
    apart = [account(i, 0, pool=f"disk{i}", pool_free_bytes=30 * GIB) for i in range(3)]
    together = usable_bytes(on_one_disk, n=3, k=2, q=1)
    assert together == pytest.approx(20 * GIB, rel=0.02)
    assert usable_bytes(apart, n=3, k=2, q=1) == pytest.approx(3 * together, rel=0.01)


def test_writing_moves_free_space_to_used_and_leaves_the_total():
    before = accounts_with(*(quota * GIB for quota in (1, 1, 2, 2, 5, 5)))
    after, stripes = fill(before, 2, 3, 1, 2 * MIB, 500)
    total = usable_bytes(before, n=3, k=2, q=1)
    assert usable_bytes(after, n=3, k=2, q=1) == total
    free = usable_free_bytes(after, n=3, k=2, q=1)
    assert free == pytest.approx(total - stripes * 4 * MIB, rel=0.001)


def test_an_account_that_can_never_be_filled_is_named():
    states = accounts_with(GIB, GIB, GIB, 10 * GIB)
    assert unfillable(states, n=3, k=2, q=1) == (states[3],)
    assert unfillable(accounts_with(GIB, GIB, GIB), n=3, k=2, q=1) == ()


def test_a_volume_that_gives_no_provider_a_complete_copy_is_accepted():
    check_complete_copy(accounts_with(GIB, GIB, GIB), k=2, n=3, q=1)
    check_complete_copy(accounts_with(GIB, GIB, GIB), k=3, n=5, q=2)


@pytest.mark.parametrize(
    ("count", "k", "n", "q", "reason"),
    [
        (3, 1, 3, 1, "k must be >= 2"),
        (3, 3, 3, 1, "n must be more than k"),
        (2, 2, 3, 1, "3 providers are needed, there are 2"),
        (3, 2, 3, 2, "may hold 1 to 1"),
        (5, 3, 5, 0, "may hold 1 to 2"),
    ],
)
def test_a_volume_that_would_give_a_provider_a_complete_copy_is_refused(count, k, n, q, reason):
    with pytest.raises(BadConfig, match=reason):
        check_complete_copy(accounts_with(*[GIB] * count), k=k, n=n, q=q)


def test_two_accounts_at_one_provider_count_once():
    states = [account(i, provider="same") for i in range(2)] + [account(3)]
    with pytest.raises(BadConfig, match="there are 2"):
        check_complete_copy(states, k=2, n=3, q=1)


def test_a_plan_takes_little_time():
    """Printed, not judged: a stripe of 4 MiB may cost 15 ms in all."""
    chooser = random.Random(1)
    states = [account(i, used_bytes=chooser.randrange(GIB)) for i in range(6)]
    from time import perf_counter

    started = perf_counter()
    for seed in range(1000):
        plan_fragments(states, n=5, k=3, q=1, size_bytes=MIB, seed=seed.to_bytes(8))
    print(f"plan_fragments 3-of-5 over 6 accounts: {(perf_counter() - started) * 1e3:.0f} us")
    assert all(a.account < b.account for a, b in pairwise(states))
