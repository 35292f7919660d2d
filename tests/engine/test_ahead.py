"""Who reads on is read ahead of, and nobody else."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.reading.ahead import SLACK_BYTES, WINDOW_LIMIT, ReadAhead
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS

KIB = 1024


def reads(*ranges: tuple[int, int]) -> list[tuple[int, int] | None]:
    ahead = ReadAhead()
    found = []
    for start, end in ranges:
        wanted = ahead.wanted(start, end)
        found.append(wanted)
        if wanted is not None:
            ahead.reached(wanted[1])
    return found


@given(st.integers(0, 1 << 40))
def test_one_small_read_anywhere_fetches_nothing_ahead(offset: int) -> None:
    assert reads((offset, offset + 4 * KIB)) == [None]


def test_small_reads_with_jumps_between_them_are_not_reading_on() -> None:
    offsets = [(number * 7919 * KIB) % SLACK_BYTES for number in range(50)]
    assert all(abs(a - b) <= SLACK_BYTES for a, b in pairwise(offsets))
    assert set(reads(*((offset, offset + 4 * KIB) for offset in offsets))) == {None}


def test_a_reader_who_reads_on_finds_more_and_more_stripes_ahead() -> None:
    step = 128 * KIB
    wanted = [w for w in reads(*((at, at + step) for at in range(0, 64 << 20, step))) if w]
    assert wanted[0][0] == 1  # where the reader is when he is known to read on
    assert wanted[0][1] == 2 + STRIPE_BLOCKS
    assert all(later[0] == earlier[1] for earlier, later in pairwise(wanted))
    assert wanted[-1][1] * BLOCK_BYTES > 64 << 20


def test_pieces_of_one_read_in_any_order_are_reading_on() -> None:
    step = 128 * KIB
    ranges = [
        (at + part * step, at + (part + 1) * step)
        for at in range(0, 8 << 20, 4 * step)
        for part in (1, 0, 3, 2)
    ]
    assert any(reads(*ranges))


def test_the_window_grows_from_one_stripe_to_two_to_four_and_stays() -> None:
    ahead, windows, step = ReadAhead(), [], 4 * BLOCK_BYTES
    for start in range(0, 64 << 20, step):
        wanted = ahead.wanted(start, start + step)
        if wanted is not None:
            windows.append(wanted[1] - (start + step) // BLOCK_BYTES)
            ahead.reached(-(-wanted[1] // STRIPE_BLOCKS) * STRIPE_BLOCKS)
    assert windows[:3] == [STRIPE_BLOCKS, 2 * STRIPE_BLOCKS, 4 * STRIPE_BLOCKS]
    assert set(windows[3:]) == {WINDOW_LIMIT * STRIPE_BLOCKS}


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_what_is_wanted_is_bounded_and_not_wanted_twice(steps: list[int]) -> None:
    ahead, at, reached = ReadAhead(), 0, 0
    for step in steps:
        end = at + step * 64 * KIB
        wanted = ahead.wanted(at, end)
        if wanted is not None:
            first, stop = wanted
            assert first >= min(reached, at // BLOCK_BYTES)
            assert stop <= -(-end // BLOCK_BYTES) + WINDOW_LIMIT * STRIPE_BLOCKS
            ahead.reached(stop)
            reached = stop
        at = end
