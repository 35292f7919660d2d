"""Moves that make accounts equally full."""

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from aggfs.errors import NoSpace, Unreachable
from aggfs.model import NO_ACCOUNT, AccountId
from aggfs.placement.accounts import AccountState, reserve_bytes
from aggfs.placement.plan import plan_fragments
from aggfs.placement.rebalance import Leveller, Move, Spread

MIB = 1 << 20
CODES = [(2, 3, 1), (2, 4, 1), (3, 5, 1), (3, 5, 2), (4, 6, 2)]
MOVES_LIMIT = 5000


def account(number: int, quota_mib: int, provider: int | None = None) -> AccountState:
    return AccountState(
        account=AccountId(number.to_bytes(8)),
        name=f"account{number}",
        provider=f"provider{number if provider is None else provider}",
        quota_bytes=quota_mib * MIB,
        used_bytes=0,
    )


def stripe_at(number: int, places: Iterable[AccountId], size_bytes: int) -> Spread:
    known = tuple(places)
    held = tuple(frozenset({place} if place else ()) for place in known)
    return Spread(number.to_bytes(24), size_bytes, known, held)


def filled(states: list[AccountState], stripes: Iterable[Spread]) -> list[AccountState]:
    used = {state.account: 0 for state in states}
    for stripe in stripes:
        for place in stripe.places:
            if place:
                used[place] += stripe.size_bytes
    return [replace(state, used_bytes=used[state.account]) for state in states]


def carried_out(stripe: Spread, move: Move) -> Spread:
    places = tuple(
        move.target if index == move.index else place for index, place in enumerate(stripe.places)
    )
    return stripe_at(int.from_bytes(stripe.sid), places, stripe.size_bytes)


def rebalanced(leveller: Leveller, stripes: list[Spread]) -> tuple[list[Spread], list[Move]]:
    """Round after round over all stripes, until nothing moves."""
    stripes, moves = list(stripes), []
    while True:
        before = len(moves)
        for at, stripe in enumerate(stripes):
            while (move := leveller.next_move(stripe)) is not None:
                moves.append(move)
                stripe = stripes[at] = carried_out(stripe, move)
                assert len(moves) < MOVES_LIMIT, "no end"
        if len(moves) == before:
            return stripes, moves


def most_at_one_provider(states: list[AccountState], stripe: Spread) -> int:
    provider = {state.account: state.provider for state in states}
    held: dict[str, int] = {}
    for place in stripe.places:
        if place:
            held[provider[place]] = held.get(provider[place], 0) + 1
    return max(held.values(), default=0)


@st.composite
def volumes(draw) -> tuple[list[AccountState], list[Spread], tuple[int, int, int]]:
    k, n, q = draw(st.sampled_from(CODES))
    providers = draw(st.integers(-(-n // q), 7))
    states = [account(number, draw(st.integers(50, 400)), number) for number in range(providers)]
    states += [
        account(10 + number, draw(st.integers(50, 400)), draw(st.integers(0, providers - 1)))
        for number in range(draw(st.integers(0, 2)))
    ]
    stripes = []
    for number in range(draw(st.integers(0, 12))):
        seed = draw(st.integers(0, 1 << 30)).to_bytes(8)
        size = draw(st.sampled_from((4096, MIB, 3 * MIB)))
        some = [state for state in states if draw(st.integers(0, 4))]
        try:
            places = plan_fragments(some, n=n, k=k, q=q, size_bytes=size, seed=seed)
        except (NoSpace, Unreachable):
            continue
        stripes.append(stripe_at(number, places, size))
    states = [
        replace(one, healthy=draw(st.integers(0, 6)) > 0, writable=draw(st.integers(0, 6)) > 0)
        for one in filled(states, stripes)
    ]
    return states, stripes, (k, n, q)


@given(volumes())
def test_rebalancing_ends_lifts_no_account_above_the_highest_and_keeps_to_q(volume):
    states, stripes, (_, n, q) = volume
    leveller = Leveller(states, n=n, q=q)
    before = leveller.levels()
    after, moves = rebalanced(leveller, stripes)
    assert max(leveller.levels().values()) <= max(before.values()) + 1e-9
    assert all(most_at_one_provider(states, stripe) <= q for stripe in after)
    known = {state.account: state for state in states}
    assert all(known[move.source].healthy for move in moves)
    assert all(known[move.target].healthy and known[move.target].writable for move in moves)
    used = {one.account: one.used_bytes for one in filled(states, after)}
    for account_id, level in leveller.levels().items():
        room = known[account_id].free_bytes
        assert level * max(1, known[account_id].used_bytes + room) - used[account_id] < 1


@given(volumes())
def test_rounds_that_begin_with_what_the_last_one_left_come_to_an_end(volume):
    states, stripes, (_, n, q) = volume
    for _ in range(20):
        stripes, moves = rebalanced(Leveller(filled_as(states, stripes), n=n, q=q), stripes)
        if not moves:
            return
    raise AssertionError("no end")


def filled_as(states: list[AccountState], stripes: list[Spread]) -> list[AccountState]:
    return [
        replace(one, healthy=state.healthy, writable=state.writable)
        for one, state in zip(filled(states, stripes), states, strict=True)
    ]


def test_a_new_account_is_filled_up_to_the_level_of_the_others():
    states = [account(number, 1000) for number in range(4)]
    stripes = [stripe_at(n, (one.account for one in states[:3]), MIB) for n in range(300)]
    leveller = Leveller(filled(states, stripes), n=3, q=1)
    _, moves = rebalanced(leveller, stripes)
    levels = leveller.levels().values()
    assert max(levels) - min(levels) < 0.02
    assert len(moves) <= 230  # a quarter of 900 fragments


def test_unequal_accounts_reach_equal_percentages():
    states = [account(n, quota) for n, quota in enumerate((100, 100, 200, 200, 500, 500))]
    room = [one.quota_bytes - reserve_bytes(one.quota_bytes) for one in states]
    stripes = []
    for number in range(sum(room) * 6 // 10 // (3 * MIB)):
        order = sorted(states, key=lambda one: (one.account[-1] * 7 + number * 5) % 6)
        stripes.append(stripe_at(number, (one.account for one in order[:3]), MIB))
    leveller = Leveller(filled(states, stripes), n=3, q=1)
    rebalanced(leveller, stripes)
    levels = leveller.levels().values()
    assert max(levels) - min(levels) < 0.05


def test_a_provider_that_can_never_be_filled_gets_its_part_and_no_more():
    states = [account(0, 1000), account(1, 100), account(2, 100), account(3, 100)]
    stripes = [stripe_at(n, (one.account for one in states[1:]), MIB) for n in range(60)]
    leveller = Leveller(filled(states, stripes), n=3, q=1)
    after, _ = rebalanced(leveller, stripes)
    held = sum(states[0].account in stripe.places for stripe in after)
    assert 55 <= held <= 60  # at most one fragment of each stripe
    levels = list(leveller.levels().values())[1:]
    assert max(levels) - min(levels) < 0.03


def test_two_accounts_of_one_provider_share_what_it_may_hold():
    states = [account(0, 100, 0), account(1, 100, 0), account(2, 100, 1), account(3, 100, 2)]
    ids = [one.account for one in states]
    stripes = [stripe_at(n, (ids[0], ids[2], ids[3]), MIB) for n in range(40)]
    leveller = Leveller(filled(states, stripes), n=3, q=1)
    after, moves = rebalanced(leveller, stripes)
    assert {(move.source, move.target) for move in moves} == {(ids[0], ids[1])}
    assert sum(ids[1] in stripe.places for stripe in after) in (19, 20, 21)


def test_a_fragment_that_is_nowhere_is_not_moved():
    states = [account(number, 100) for number in range(3)]
    stripe = stripe_at(1, (states[0].account, NO_ACCOUNT, states[1].account), MIB)
    leveller = Leveller(filled(states, [stripe]), n=3, q=1)
    move = leveller.next_move(stripe)
    assert move is None or move.index != 1
