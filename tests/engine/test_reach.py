"""No more is read ahead than the lines bring in a few seconds."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.reading.reach import AHEAD_SECONDS, FIRST_BLOCKS, Reach


def brought_at(block_seconds: float, runs: int = 30, *, blocks: int = 4) -> Reach:
    """After runs one after the other."""
    reach = Reach()
    for number in range(runs):
        mark = reach.began(number * blocks * block_seconds)
        reach.came(mark, (number + 1) * blocks * block_seconds, blocks)
    return reach


def test_little_is_asked_for_while_nothing_is_known() -> None:
    assert Reach().blocks == FIRST_BLOCKS


def test_a_quick_line_has_no_limit_that_shows() -> None:
    assert brought_at(0.01).blocks >= 100


def test_a_slow_line_has_a_few_blocks() -> None:
    assert brought_at(1.0).blocks == AHEAD_SECONDS
    assert brought_at(60.0).blocks == 1


def test_what_came_side_by_side_shared_the_line() -> None:
    reach = Reach()
    for number in range(30):
        now = number * 8.0
        marks = [reach.began(now) for _ in range(4)]
        for mark in marks:
            reach.came(mark, now + 8.0, 4)
    assert 4 <= reach.blocks <= 8  # two blocks a second; the first of each four does not know it


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 16))))
def test_there_is_always_one(runs: list[tuple[float, int]]) -> None:
    reach, now = Reach(), 0.0
    for seconds, blocks in runs:
        mark = reach.began(now)
        now += seconds
        reach.came(mark, now, blocks)
        assert reach.blocks >= 1
