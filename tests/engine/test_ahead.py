"""Who reads on is read ahead of, and nobody else."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.ahead import SLACK_BYTES, ReadAhead
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
