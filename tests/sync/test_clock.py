"""Stamps rise, whatever the wall clock does and whoever is ahead."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.model import DeviceId, Stamp
from aggfs.sync.clock import HybridClock, milliseconds, pack, reading, unpack

DEVICE = DeviceId(b"d" * 8)
walls = st.integers(-(10**18), 4 * 10**18)
stamps = st.builds(Stamp, st.integers(0, (1 << 63) - 1), st.binary(min_size=8, max_size=8))


@given(st.lists(walls | stamps, max_size=40))
def test_a_clock_never_gives_a_reading_twice_nor_falls_behind(events) -> None:
    clock, highest = HybridClock(DEVICE), -1
    for event in events:
        if isinstance(event, Stamp):
            clock.observe(event)
            highest = max(highest, event.clock)
        else:
            given_stamp = clock.tick(event)
            assert given_stamp.clock > highest
            highest = given_stamp.clock


@given(walls)
def test_a_first_reading_tells_the_time_of_day(wall) -> None:
    stamp = HybridClock(DEVICE).tick(wall)
    assert abs(milliseconds(stamp.clock) - max(0, wall // 10**6)) <= 1
    assert reading(wall) <= stamp.clock


def test_entries_of_one_millisecond_are_counted() -> None:
    clock = HybridClock(DEVICE)
    readings = [clock.tick(10**18).clock for _ in range(5)]
    assert readings == [reading(10**18) + step for step in range(5)]


@given(stamps, stamps)
def test_packed_stamps_sort_as_stamps_do(one, other) -> None:
    assert (pack(one) < pack(other)) == (one < other)
    assert unpack(pack(one)) == one
