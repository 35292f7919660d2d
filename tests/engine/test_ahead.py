"""What a sequential reader gets ahead of time, and a random one does not."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.ahead import SEQUENTIAL_BYTES, SLACK_BYTES, WINDOW_LIMIT, ReadAhead
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS

MIB = 1 << 20


def test_the_first_bytes_of_a_file_are_read_alone():
    assert ReadAhead().wanted(0, SEQUENTIAL_BYTES - 1) is None


def test_a_reader_in_order_gets_one_stripe_ahead_then_two_then_four():
    ahead, windows = ReadAhead(), []
    for start in range(0, 64 * MIB, MIB):
        wanted = ahead.wanted(start, start + MIB)
        if wanted is not None:
            windows.append(wanted[1] - (start + MIB) // BLOCK_BYTES)
            ahead.reached(-(-wanted[1] // STRIPE_BLOCKS) * STRIPE_BLOCKS)
    assert windows[:3] == [STRIPE_BLOCKS, 2 * STRIPE_BLOCKS, 4 * STRIPE_BLOCKS]
    assert set(windows[3:]) == {WINDOW_LIMIT * STRIPE_BLOCKS}


def test_pieces_that_come_out_of_order_are_still_in_order():
    ahead = ReadAhead()
    found = [ahead.wanted(at * MIB, (at + 1) * MIB) for at in (1, 0, 3, 2)]
    assert any(found)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_jumps_are_never_read_ahead(places):
    ahead = ReadAhead()
    last = -1
    for place in places:
        if place == last:
            continue
        last = place
        start = place * 3 * SLACK_BYTES
        assert ahead.wanted(start, start + 4096) is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_what_is_wanted_is_bounded_and_not_wanted_twice(steps):
    ahead, at, reached = ReadAhead(), 0, 0
    for step in steps:
        end = at + step * 64 * 1024
        wanted = ahead.wanted(at, end)
        if wanted is not None:
            first, stop = wanted
            assert first >= min(reached, at // BLOCK_BYTES)
            assert stop <= -(-end // BLOCK_BYTES) + WINDOW_LIMIT * STRIPE_BLOCKS
            ahead.reached(stop)
            reached = stop
        at = end
