"""A stripe is brought around a read where that pays, and a few in any case."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.reading.around import (
    CREDIT_LIMIT,
    CREDIT_STRIPES,
    EARNED_STRIPES,
    FREE_MISSES,
    Around,
)


def stripes_of(reads: str) -> int:
    """How many stripes come around reads that miss ("m") or find ("f") their bytes."""
    around, stripes = Around(), 0
    for read in reads:
        if read == "f":
            around.found()
        elif around.missed():
            around.brought()
            stripes += 1
    return stripes


def test_who_looks_at_a_head_and_a_tail_gets_no_more() -> None:
    assert stripes_of("m" * FREE_MISSES) == 0


def test_the_next_read_brings_its_stripe() -> None:
    assert stripes_of("m" * FREE_MISSES + "m") == 1


def test_who_never_comes_back_pays_for_a_few_stripes() -> None:
    assert stripes_of("m" * 1000) == CREDIT_STRIPES


def test_who_comes_back_is_brought_more() -> None:
    assert stripes_of("mf" * 1000) > 900


@given(st.text("mf", max_size=300))
def test_no_more_comes_than_was_found_worth_it(reads: str) -> None:
    assert stripes_of(reads) <= CREDIT_STRIPES + EARNED_STRIPES * reads.count("f")


@given(st.integers(0, 1000))
def test_what_was_earned_has_an_end(found: int) -> None:
    reads = "m" * (FREE_MISSES + 1) + "f" * found + "m" * 1000
    assert stripes_of(reads) <= CREDIT_LIMIT + 1
