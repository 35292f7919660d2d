"""How much of the past is kept: a table of tiers, and what it keeps of a row of moments.

A file's versions are a row of moments: each is current from its own time until that of the next.
A tier looks back over a span from now. The tier of all keeps every version that was current
within its span; a tier with a grid keeps what was current at each multiple of its step (in UTC).
So at the instants that `latest_instant` gives, *everything* is kept, of all files alike.

What is kept later was kept earlier too: to trim often loses nothing that rare trimming keeps.
Times are milliseconds since 1970.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Tier:
    """Back to `span_ms` before now: what was current at each multiple of `step_ms`; 0: all."""

    span_ms: int
    step_ms: int

    def keeps(self, begin_ms: int, end_ms: int, now_ms: int) -> bool:
        """Whether what was current from `begin_ms` until `end_ms` is kept."""
        oldest_ms = now_ms - self.span_ms
        if self.step_ms == 0:
            return end_ms > oldest_ms
        first_ms = -(-max(begin_ms, oldest_ms) // self.step_ms) * self.step_ms
        return first_ms < end_ms

    def instant(self, at_ms: int, now_ms: int) -> int | None:
        """The last instant not after `at_ms` at which this tier keeps everything."""
        found = at_ms if self.step_ms == 0 else at_ms // self.step_ms * self.step_ms
        return found if found >= now_ms - self.span_ms else None


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept of versions, and for how long removed files stay in the trash."""

    tiers: tuple[Tier, ...]
    trash_ms: int

    @property
    def span_ms(self) -> int:
        """How far back anything is kept."""
        return max(tier.span_ms for tier in self.tiers)


def retention(*, all_hours: int, hourly_days: int, daily_days: int, trash_days: int) -> Retention:
    """The table with three tiers: everything, then hourly, then daily."""
    tiers = (
        Tier(all_hours * HOUR_MS, 0),
        Tier(hourly_days * DAY_MS, HOUR_MS),
        Tier(daily_days * DAY_MS, DAY_MS),
    )
    return Retention(tiers, trash_days * DAY_MS)


def kept(times_ms: Sequence[int], now_ms: int, table: Retention) -> list[bool]:
    """Of versions by their times, in order, which are kept; the last, which is current, always."""
    found = [
        any(tier.keeps(begin_ms, end_ms, now_ms) for tier in table.tiers)
        for begin_ms, end_ms in pairwise(times_ms)
    ]
    return [*found, True] if times_ms else []


def latest_instant(at_ms: int, now_ms: int, table: Retention) -> int | None:
    """The last instant not after `at_ms` of which everything is kept; None: it is too long ago."""
    at_ms = min(at_ms, now_ms)
    found = [tier.instant(at_ms, now_ms) for tier in table.tiers]
    return max((instant for instant in found if instant is not None), default=None)


def grid_instants(now_ms: int, table: Retention) -> list[int]:
    """All instants of the tiers with a grid, oldest first."""
    found: set[int] = set()
    for tier in table.tiers:
        if tier.step_ms:
            first = -(-(now_ms - tier.span_ms) // tier.step_ms) * tier.step_ms
            found.update(range(first, now_ms + 1, tier.step_ms))
    return sorted(found)
