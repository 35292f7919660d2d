"""Storage classes: how the stripes of some files are coded.

A class is immutable: what was written under an id stays readable under it, so a change of k or
layout is a new class, and the old data is relocated into it.
"""

from dataclasses import dataclass

from aggfs.errors import BadConfig
from aggfs.model import Layout

K_LIMIT = 32
N_LIMIT = 32


@dataclass(frozen=True, slots=True)
class StorageClass:
    """k of n fragments rebuild a stripe, in copies k that are no copies of each other;
    `compression` is None or the name of a method."""

    id: int
    name: str
    k: int
    n: int
    layout: Layout = Layout.CONTIGUOUS
    compression: str | None = None


def per_provider_limit(k: int, n: int) -> int:
    """The most fragments of one stripe that one provider may ever hold.

    With k - 1 it cannot read; with n - k the others can still read without it.
    """
    return min(k - 1, n - k)


def check_class(storage_class: StorageClass, per_provider: int) -> None:
    """Raise `BadConfig` for a class that no volume may have, whatever its accounts: so many
    fragments may lie at one provider."""
    k, n = storage_class.k, storage_class.n
    what = f"class {storage_class.name!r}: {k}-of-{n}"
    if not 1 <= k <= K_LIMIT or not 1 <= n <= N_LIMIT:
        raise BadConfig(f"{what}: k must be 1 to {K_LIMIT} and n 1 to {N_LIMIT}")
    if n < k:
        raise BadConfig(f"{what}: n must not be less than k")
    if storage_class.layout.in_copies:
        _check_copies(k, n, per_provider, what)
    if not 0 <= storage_class.id <= 255:
        raise BadConfig(f"{what}: the class id must be 0 to 255")
    if storage_class.compression not in (None, "zstd"):
        raise BadConfig(f"{what}: unknown compression {storage_class.compression!r} (none, zstd)")


def _check_copies(k: int, n: int, per_provider: int, what: str) -> None:
    if n % k or n == k:
        raise BadConfig(
            f"{what} in copies: n must be a larger multiple of k: {2 * k}, {3 * k}, ..."
        )
    if per_provider != 1:
        raise BadConfig(
            f"{what} in copies: a provider may hold 1 fragment, not {per_provider}: two could be"
            " copies of each other"
        )
