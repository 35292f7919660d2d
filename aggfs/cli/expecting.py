"""What k and n would cost and give over accounts that were measured. Pure.

A stripe of S bytes of files becomes n fragments of S/k bytes, each at another provider, and the
stripes take turns over all A accounts. So to store R bytes of files a second each account takes
R·n/(k·A), and all together take R·n/k: the slowest account, what this machine brings to all of them
at once, or its coding is the limit. A reader takes k fragments of each stripe, from the accounts
that answer best, but no more than the one that each has, R·n/(k·A) a second; what a slow account
cannot bring others do, as far as n > k.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CLOSE_ENOUGH = 60  # halvings


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of each account alone, by its name, and of all at once, in bytes a second."""

    alone: Mapping[str, float]
    together: float


@dataclass(frozen=True, slots=True)
class Expected:
    """Bytes of files a second, and what sets the limit."""

    per_second: float
    limit: str


def codes_for(providers: int) -> list[tuple[int, int]]:
    """Every (k, n) that has a provider for each fragment, stands the loss of one, and gives no
    provider a complete copy."""
    return [(k, n) for n in range(3, providers + 1) for k in range(2, n)]


def expected_upload(k: int, n: int, up: Speeds, encode_per_second: float) -> Expected:
    """Until all n fragments are in place, while it goes on and on."""
    slowest = min(up.alone, key=lambda name: up.alone[name])
    return _least(
        Expected(up.alone[slowest] * k * len(up.alone) / n, slowest),
        Expected(up.together * k / n, "all at once"),
        Expected(encode_per_second, "coding"),
    )


def expected_read(k: int, n: int, down: Speeds, decode_per_second: float) -> Expected:
    """Of what is not on this machine, read in order."""
    accounts = "the accounts" if n > k else min(down.alone, key=lambda name: down.alone[name])
    return _least(
        Expected(_shared_rate(list(down.alone.values()), n / (k * len(down.alone))), accounts),
        Expected(down.together, "all at once"),
        Expected(decode_per_second, "coding"),
    )


def _shared_rate(speeds: Sequence[float], share: float) -> float:
    """The largest R that accounts of these speeds bring together, where none brings more than
    `share` of it."""
    low, high = 0.0, sum(speeds)
    for _ in range(CLOSE_ENOUGH):
        middle = (low + high) / 2
        if sum(min(speed, middle * share) for speed in speeds) >= middle * (1 - 1e-12):
            low = middle
        else:
            high = middle
    return low


def _least(*limits: Expected) -> Expected:
    return min(limits, key=lambda one: one.per_second)
