"""Ranges against a plain set of integers."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.sync.holes import Ranges

SPAN = 60
pairs = st.tuples(st.integers(0, SPAN), st.integers(0, SPAN))
steps = st.lists(st.tuples(st.booleans(), pairs), max_size=25)


def build(changes: list[tuple[bool, tuple[int, int]]]) -> tuple[Ranges, set[int]]:
    ranges, members = Ranges(), set()
    for adds, (start, end) in changes:
        if adds:
            ranges.add(start, end)
            members |= set(range(start, end))
        else:
            ranges.remove(start, end)
            members -= set(range(start, end))
    return ranges, members


def spread(parts: list[tuple[int, int]]) -> set[int]:
    return {x for start, end in parts for x in range(start, end)}


@given(steps)
def test_ranges_hold_what_a_set_of_integers_holds(changes) -> None:
    ranges, members = build(changes)
    assert spread(list(ranges)) == members
    assert ranges.total == len(members)
    assert bool(ranges) == bool(members)
    assert ranges.start == min(members, default=0)
    assert ranges.end == max(members, default=-1) + 1


@given(steps)
def test_ranges_are_sorted_and_never_touch(changes) -> None:
    flat = [edge for pair in build(changes)[0] for edge in pair]
    assert flat == sorted(set(flat))


@given(steps, pairs)
def test_a_question_about_a_part_agrees_with_the_set(changes, pair) -> None:
    ranges, members = build(changes)
    asked = set(range(*pair))
    assert spread(ranges.intersect(*pair)) == asked & members
    assert spread(ranges.missing(*pair)) == asked - members
    assert ranges.contains(*pair) == (asked <= members)
    assert ranges.overlaps(*pair) == bool(asked & members)


@given(steps)
def test_a_copy_stays_as_it_was(changes) -> None:
    ranges, _ = build(changes)
    before = list(ranges)
    twin = ranges.copy()
    assert twin == ranges
    ranges.add(0, SPAN + 1)
    assert list(twin) == before


def test_sets_can_be_added_and_removed_whole() -> None:
    ranges = Ranges([(0, 10), (20, 30)])
    ranges.add_all(Ranges([(5, 25)]))
    assert list(ranges) == [(0, 30)]
    ranges.remove_all(ranges)
    assert not ranges
    ranges.add(1, 2)
    ranges.clear()
    assert ranges.total == 0


def test_a_long_append_stays_one_range() -> None:
    ranges = Ranges()
    for at in range(100_000):
        ranges.add(at * 4096, at * 4096 + 4096)
    assert list(ranges) == [(0, 100_000 * 4096)]
