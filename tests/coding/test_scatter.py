"""The layout interleave: a permutation, keyed, that leaves no run of a block in one cell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding.scatter import GROUP_ROWS, gather, pattern, scatter

KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, st.integers(1, 32))
def test_a_pattern_fills_every_place_of_every_cell_once(key: bytes, k: int) -> None:
    places = {(cell, place) for cell in range(k) for place in range(GROUP_ROWS)}
    assert len(pattern(key, k)) == len(places)
    assert set(pattern(key, k)) == places


@given(KEYS, st.integers(2, 32))
def test_no_cell_takes_three_bytes_that_follow_each_other(key: bytes, k: int) -> None:
    cells = [cell for cell, _ in pattern(key, k)] * 2
    for at in range(len(cells) - 2):
        assert len(set(cells[at : at + 3])) > 1


@given(KEYS, st.integers(1, 12), st.integers(0, 40), st.randoms())
def test_what_was_strewn_is_gathered(key: bytes, k: int, groups: int, chance) -> None:
    block = chance.randbytes(GROUP_ROWS * k * groups)
    cells = scatter(block, key, k)
    assert {len(cell) for cell in cells} == {GROUP_ROWS * groups}
    assert gather(cells, key) == block


@pytest.mark.parametrize("k", [2, 3, 10])
def test_another_key_strews_otherwise(k: int) -> None:
    patterns = {pattern(bytes([seed]) * 32, k) for seed in range(50)}
    assert len(patterns) == 50
