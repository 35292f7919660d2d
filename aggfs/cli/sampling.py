"""From two samples of a daemon's counters to what happened between them. Pure, and imports nothing.

A sample is the answer to `counters`: figures that only grow, so that whoever looks needs no help of
the daemon, and several may look at once. An empty sample stands for the moment of the mount.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Sample = Mapping[str, Any]
Histogram = Sequence[Sequence[float]]

NOTHING: Sample = {}
PERCENTILE = 0.95


@dataclass(frozen=True, slots=True)
class OperationRate:
    """One kind of request. Without an answer in that time there are no latencies."""

    name: str
    per_second: float
    mean_seconds: float | None
    p95_seconds: float | None
    under_way: int


@dataclass(frozen=True, slots=True)
class AccountRate:
    """One account. `failed` counts errors of that time."""

    name: str
    state: str
    in_flight: int
    per_second: float
    mean_seconds: float | None
    sent_per_second: float
    received_per_second: float
    failed: int


@dataclass(frozen=True, slots=True)
class Rates:
    """All of it. `hit_rate`: the share of the bytes read that nothing had to be fetched for."""

    seconds: float
    operations: tuple[OperationRate, ...]
    read_per_second: float
    written_per_second: float
    fetched_per_second: float
    hit_rate: float | None
    accounts: tuple[AccountRate, ...]


def rates_between(before: Sample, after: Sample) -> Rates:
    """What happened between two samples of one daemon."""
    began = before.get("clock_seconds", after["mounted_seconds"])
    seconds = max(after["clock_seconds"] - began, 1e-3)

    def grown(name: str) -> float:
        return float(after[name] - before.get(name, 0))

    read, fetched = grown("read_bytes"), grown("fetched_bytes")
    earlier_accounts = {account["name"]: account for account in before.get("accounts", ())}
    operations = [
        _operation(name, before.get("operations", {}).get(name, {}), figures, seconds)
        for name, figures in after["operations"].items()
    ]
    return Rates(
        seconds=seconds,
        operations=tuple(one for one in operations if one.per_second or one.under_way),
        read_per_second=read / seconds,
        written_per_second=grown("written_bytes") / seconds,
        fetched_per_second=fetched / seconds,
        hit_rate=max(0.0, 1 - fetched / read) if read else None,
        accounts=tuple(
            _account(earlier_accounts.get(account["name"], {}), account, seconds)
            for account in after["accounts"]
        ),
    )


def _operation(name: str, before: Sample, after: Sample, seconds: float) -> OperationRate:
    answered = after["answered"] - before.get("answered", 0)
    taken = after["seconds"] - before.get("seconds", 0.0)
    return OperationRate(
        name=name,
        per_second=answered / seconds,
        mean_seconds=taken / answered if answered else None,
        p95_seconds=percentile(before.get("histogram", ()), after["histogram"]),
        under_way=after["begun"] - after["answered"],
    )


def percentile(before: Histogram, after: Histogram) -> float | None:
    """What 95 % of the latencies that came between two histograms stayed below, as buckets tell
    it; None where none came."""
    earlier = {bucket[0]: bucket[1] for bucket in before}
    new = [(ceiling, count - earlier.get(ceiling, 0)) for ceiling, count in after]
    left = PERCENTILE * sum(count for _, count in new)
    for ceiling, count in new:
        left -= count
        if count and left <= 0:
            return ceiling
    return None


def _account(before: Sample, after: Sample, seconds: float) -> AccountRate:
    def grown(name: str) -> float:
        return float(after[name] - before.get(name, 0))

    answered = grown("answered")
    return AccountRate(
        name=after["name"],
        state=_state(after),
        in_flight=after["in_flight"],
        per_second=grown("requests") / seconds,
        mean_seconds=grown("answered_seconds") / answered if answered else None,
        sent_per_second=grown("sent_bytes") / seconds,
        received_per_second=grown("received_bytes") / seconds,
        failed=int(grown("failed")),
    )


def _state(account: Sample) -> str:
    if account["paused_seconds"]:
        return f"DOWN, asked again in {account['paused_seconds']:.0f} s: {account['error']}"
    if not account["healthy"]:
        return f"DOWN: {account['error']}"
    if account["full"]:
        return "FULL"
    return "leaving" if account["leaving"] else "healthy"
