"""Moments as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.sync.moments import format_moment, parse_moment


@given(st.integers(0, 4_102_444_800_000))
def test_a_moment_comes_back_to_the_millisecond(moment) -> None:
    assert parse_moment(format_moment(moment)) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T01:00", 3_600_000),
        ("1970-01-01T01:00+01:00", 0),
        ("1970-01-01T00:00:00.25Z", 250),
        ("@1.5", 1500),
    ],
)
def test_what_people_write_is_understood(text, moment) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "@", "@inf", "12:00"])
def test_what_is_no_time_is_refused(text) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_moment(text)
