"""Accounts that leave: what the others can take, and who takes what."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aggfs.errors import BadConfig, NoSpace
from aggfs.model import AccountId
from aggfs.placement.accounts import AccountState
from aggfs.placement.leaving import check_without, place_elsewhere, with_moves
from aggfs.placement.rebalance import Move

MIB = 1 << 20
NOBODY = AccountId(b"")


def account(number: int, quota_mib: int, used_mib: int = 0, provider: int = -1) -> AccountState:
    return AccountState(
        account=AccountId(number.to_bytes(8)),
        name=f"account{number}",
        provider=f"provider{number if provider < 0 else provider}",
        quota_bytes=quota_mib * MIB,
        used_bytes=used_mib * MIB,
    )


def check(states: list[AccountState], *, moving: int, stored: int, allowed: bool = False) -> None:
    check_without(
        states,
        states[0].account,
        k=2,
        n=3,
        q=1,
        moving_bytes=moving * MIB,
        stored_bytes=stored * MIB,
        complete_copy=allowed,
    )


def test_an_account_is_done_without_where_the_others_have_room():
    check([account(n, 100, 30) for n in range(4)], moving=30, stored=120)


def test_too_few_providers_are_named():
    with pytest.raises(BadConfig, match=r"without account0: .* there are 2"):
        check([account(n, 100) for n in range(3)], moving=0, stored=0)
    two_of_one = [account(0, 100), *(account(n, 100, provider=n % 2) for n in range(1, 4))]
    with pytest.raises(BadConfig, match="there are 2"):
        check(two_of_one, moving=0, stored=0)
    check(two_of_one, moving=0, stored=0, allowed=True)


def test_too_little_room_is_told_in_bytes():
    states = [account(n, 100, 70) for n in range(4)]
    with pytest.raises(NoSpace, match=r"account0 holds 73400320 bytes .* bytes too few"):
        check(states, moving=70, stored=280)


def test_room_that_cannot_be_used_is_no_room():
    states = [account(0, 100, 50), account(1, 400, 50), account(2, 400, 50), account(3, 10, 5)]
    with pytest.raises(NoSpace, match=r"without account0 the accounts can hold \d+"):
        check(states, moving=50, stored=155)


@given(
    providers=st.lists(st.integers(0, 5), min_size=3, max_size=8),
    used=st.lists(st.integers(0, 90), min_size=8, max_size=8),
    code=st.sampled_from([(2, 3, 1), (3, 5, 2), (4, 6, 2)]),
    data=st.data(),
)
def test_what_leaves_goes_where_it_may(providers, used, code, data):
    k, n, q = code
    states = [account(i, 100, used[i], provider) for i, provider in enumerate(providers)]
    states[0] = replace(states[0], writable=False)
    ids = [state.account for state in states]
    provider_of = {state.account: state.provider for state in states}
    held = [frozenset({data.draw(st.sampled_from(ids))}) for _ in range(n)]
    before: dict[str, set[int]] = {}
    for index, places in enumerate(held):
        for place in places:
            before.setdefault(provider_of[place], set()).add(index)
    assume(all(len(indices) <= q for indices in before.values()))
    indices = [index for index in range(n) if ids[0] in held[index]]
    preferred = data.draw(st.sampled_from([NOBODY, *ids]))
    try:
        found = place_elsewhere(
            states,
            held=held,
            indices=indices,
            k=k,
            q=q,
            size_bytes=MIB,
            seed=b"s",
            preferred=preferred,
        )
    except NoSpace:
        return
    assert set(found) == set(indices)
    for index, target in found.items():
        assert target != ids[0]
        before.setdefault(provider_of[target], set()).add(index)
    assert all(len(indices) <= q for indices in before.values())


def test_what_is_on_its_way_takes_room():
    states = [
        account(0, 100, 10),
        replace(account(1, 100, 10), pool="disk", pool_free_bytes=50 * MIB),
        replace(account(2, 100, 10), pool="disk", pool_free_bytes=50 * MIB),
    ]
    ids = [state.account for state in states]
    moves = [Move(b"s", 0, ids[2], target, 3 * MIB) for target in (ids[0], ids[1], ids[1])]
    after = with_moves(states, moves)
    assert [state.used_bytes // MIB for state in after] == [13, 16, 10]
    assert [state.pool_free_bytes for state in after] == [None, 44 * MIB, 44 * MIB]
