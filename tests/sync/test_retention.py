"""What the retention table keeps, judged by what was current when."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.sync.retention import (
    DAY_MS,
    HOUR_MS,
    Retention,
    Tier,
    grid_instants,
    kept,
    latest_instant,
    retention,
)

MINUTE_MS = 60_000
DEFAULT = retention(all_hours=1, hourly_days=1, daily_days=30, trash_days=30)
NOW = 20_000 * DAY_MS + 9 * HOUR_MS + 25 * MINUTE_MS

tiers = st.builds(Tier, st.integers(0, 300), st.sampled_from((0, 1, 7, 10, 60)))
tables = st.lists(tiers, min_size=1, max_size=3).map(lambda some: Retention(tuple(some), 0))
moments = st.lists(st.integers(0, 400), max_size=30).map(sorted)


def left(times: list[int], now: int, table: Retention) -> list[int]:
    return [at for at, stays in zip(times, kept(times, now, table), strict=True) if stays]


def current(times: list[int], at: int) -> int | None:
    return max((time for time in times if time <= at), default=None)


@given(moments, st.integers(0, 200), tables)
def test_what_is_current_always_stays(times, later, table) -> None:
    now = max(times, default=0) + later
    assert left(times, now, table)[-1:] == times[-1:]


@given(moments, st.lists(st.integers(0, 200), min_size=2, max_size=5), tables)
def test_trimming_often_keeps_what_trimming_once_keeps(times, steps, table) -> None:
    now, often = max(times, default=0), times
    for step in steps:
        now += step
        often = left(often, now, table)
    assert often == left(times, now, table)


@given(moments, st.integers(0, 200), tables, st.integers(0, 600))
def test_at_an_instant_everything_is_kept(times, later, table, asked) -> None:
    now = max(times, default=0) + later
    instant = latest_instant(asked, now, table)
    if instant is not None:
        assert instant <= min(asked, now)
        assert current(left(times, now, table), instant) == current(times, instant)


@given(moments, st.integers(0, 200), tables)
def test_the_instants_of_a_grid_are_instants(times, later, table) -> None:
    now = max(times, default=0) + later
    found = grid_instants(now, table)
    assert found == sorted(found)
    assert all(latest_instant(one, now, table) == one for one in found)


def test_a_version_a_minute_for_two_months_leaves_an_hour_a_day_and_a_month() -> None:
    times = list(range(NOW - 60 * DAY_MS, NOW + 1, MINUTE_MS))
    stays = left(times, NOW, DEFAULT)
    assert [at for at in stays if at > NOW - HOUR_MS] == times[-60:]
    hours = [at for at in stays if NOW - DAY_MS <= at <= NOW - HOUR_MS - MINUTE_MS]
    assert all(at % HOUR_MS == 0 for at in hours)
    assert len(hours) == 23
    days = [at for at in stays if at < NOW - DAY_MS]
    assert all(at % DAY_MS == 0 for at in days)
    assert len(days) == 30 - 1
    assert stays[0] >= NOW - 30 * DAY_MS


def test_a_year_old_content_stays_for_a_while_after_it_was_replaced() -> None:
    old = NOW - 365 * DAY_MS
    assert left([old, NOW - 30 * MINUTE_MS], NOW, DEFAULT) == [old, NOW - 30 * MINUTE_MS]
    replaced = NOW - 20 * DAY_MS
    assert left([old, replaced], NOW, DEFAULT) == [old, replaced]
    assert left([old, NOW - 31 * DAY_MS], NOW, DEFAULT) == [NOW - 31 * DAY_MS]


def test_what_is_too_long_ago_has_no_instant() -> None:
    assert latest_instant(NOW - 31 * DAY_MS, NOW, DEFAULT) is None
    assert latest_instant(NOW + DAY_MS, NOW, DEFAULT) == NOW
    assert latest_instant(NOW - 5 * DAY_MS, NOW, DEFAULT) == NOW // DAY_MS * DAY_MS - 5 * DAY_MS
