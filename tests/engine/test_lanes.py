"""As many stripes side by side as the lines to the accounts carry."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.writing.lanes import (
    FIRST_LANES,
    LANES_LIMIT,
    NEAR_SECONDS,
    QUICK_SECONDS,
    SLOW_SECONDS,
    Lanes,
)


def lanes_after(*seconds: float) -> int:
    lanes = Lanes()
    for each in seconds:
        lanes.took(each)
    return lanes.count


def test_accounts_that_are_far_and_quick_get_more() -> None:
    assert lanes_after(*[0.2] * 10) == LANES_LIMIT


def test_accounts_that_are_near_need_few() -> None:
    assert lanes_after(*[NEAR_SECONDS / 2] * 10) == FIRST_LANES
    assert lanes_after(*[0.2] * 10, *[NEAR_SECONDS / 2] * 10) == FIRST_LANES


def test_a_slow_line_is_left_to_one() -> None:
    assert lanes_after(SLOW_SECONDS) < FIRST_LANES
    assert lanes_after(*[SLOW_SECONDS] * 4) == 1


def test_what_is_neither_leaves_them_as_they_are() -> None:
    assert lanes_after(QUICK_SECONDS, 5, 10) == FIRST_LANES
    assert lanes_after(*[SLOW_SECONDS] * 4, QUICK_SECONDS, 5) == 1


def test_a_line_that_became_quick_is_used_again() -> None:
    assert lanes_after(*[SLOW_SECONDS] * 4, *[0.2] * 10) == LANES_LIMIT


@given(st.lists(st.floats(0, 1000)))
def test_there_is_always_one_and_never_too_many(seconds: list[float]) -> None:
    assert 1 <= lanes_after(*seconds) <= LANES_LIMIT
