"""Bringing the fragments of one coded thing into its accounts, all at once.

Used for stripes, journal segments, heads and checkpoints alike. Each put has a deadline; a put
that was begun and not confirmed may be there (the ledger and the rows count it).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from aggfs.engine.accounts import Account
from aggfs.errors import LocalDiskFailed, StoreError, Unreachable
from aggfs.model import Layout, spare
from aggfs.stores.base import Buffer

PATIENCE_SECONDS = 10.0  # an account that is silent for so long is paused after a few times
LITTLE_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """One object on its way to one account."""

    index: int
    account: Account
    key: str
    pieces: Sequence[Buffer]

    @property
    def size_bytes(self) -> int:
        """The size of the object."""
        return sum(len(piece) for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Spread:
    """The accounts that take the fragments of a record of the journal, in order, and how many of
    these it takes to read it."""

    homes: tuple[Account, ...]
    k: int


@dataclass(slots=True)
class Spreading:
    """How records of the journal are spread: as data is, but at most one fragment an account,
    because their names tell no index, and never in copies. k and n follow the volume's policy."""

    k: int
    n: int
    layout: int
    per_provider: int

    @property
    def cut(self) -> Layout:
        """The layout of what the journal puts."""
        return Layout(self.layout).cut

    @property
    def vanishing(self) -> int:
        """How many providers may vanish."""
        return spare(self, range(self.n)) // self.per_provider

    def of(self, accounts: Iterable[Account], *, turn: int) -> Spread:
        """In a fixed order, turned, so that parity rotates. Full ones are left out where the others
        do as well.
        """
        known = list(accounts)
        all_of_them = self._over(known, turn)
        with_room = self._over([one for one in known if not one.full], turn)
        as_well = len(with_room.homes) == len(all_of_them.homes) and with_room.k == all_of_them.k
        return with_room if as_well else all_of_them

    def _over(self, accounts: Iterable[Account], turn: int) -> Spread:
        """As few of a provider as do. Where there are fewer accounts than n, fewer fragments are
        made, and as many providers may still vanish as the data survives; no provider gets as
        many as k.
        """
        providers: dict[str, list[Account]] = {}
        for account in sorted(accounts, key=lambda one: one.id):
            providers.setdefault(account.provider, []).append(account)
        held = list(providers.values())
        for most in range(1, self.per_provider + 1):
            homes = _first_of_each(held, most)
            if len(homes) >= self.n:
                start = turn % len(homes)
                return Spread(tuple((homes[start:] + homes[:start])[: self.n]), self.k)
        for most in range(self.per_provider, 0, -1):
            k = self._fewer(held, most)
            if k > most:
                return Spread(tuple(_first_of_each(held, most)), k)
        return Spread(tuple(_first_of_each(held, 1)), 2)

    def _fewer(self, held: Sequence[Sequence[Account]], most: int) -> int:
        """How many fragments are left when as many providers vanish as the data survives."""
        counts = sorted(min(most, len(accounts)) for accounts in held)
        return min(self.k, sum(counts[: max(0, len(counts) - self.vanishing)]))


def _first_of_each(held: Sequence[Sequence[Account]], most: int) -> list[Account]:
    """At most so many accounts of each provider, neighbours of different ones."""
    return [accounts[at] for at in range(most) for accounts in held if at < len(accounts)]


async def put_all(
    parcels: Sequence[Parcel],
    on_stored: Callable[[Parcel], None],
    enough: Callable[[], bool],
) -> float:
    """Put every parcel; returns when each was stored, failed, or is too late: after how long.

    Once `enough` are stored, the rest get three times as long as it took until then, and are
    left to be caught up with: a hanging account must not hold the others up. Accounts that did
    not answer last time get little more.
    `on_stored` and `enough` run on the loop. What `on_stored` raises for the local disk's fault is
    raised when all puts have ended; an account's fault is noted there. When cancelled, what is
    under way may or may not arrive.
    """
    refusals: list[LocalDiskFailed] = []
    began = trio.current_time()
    waiting = {id(parcel): parcel for parcel in parcels}
    with trio.CancelScope() as scope:

        def lose_patience() -> None:
            now = trio.current_time()
            usual = max(PATIENCE_SECONDS, 3 * (now - began))
            hope = any(parcel.account.healthy for parcel in waiting.values())
            scope.deadline = now + (usual if hope else LITTLE_PATIENCE_SECONDS)

        if enough() and not any(parcel.account.healthy for parcel in parcels):
            lose_patience()

        def stored(parcel: Parcel) -> None:
            del waiting[id(parcel)]
            try:
                on_stored(parcel)
            except LocalDiskFailed as error:  # beside a cancellation it would be lost in a group
                refusals.append(error)
            if scope.deadline == math.inf and enough():
                lose_patience()

        async with trio.open_nursery() as nursery:
            for parcel in parcels:
                nursery.start_soon(_put, parcel, stored)
    if scope.cancelled_caught:
        _note_slow(waiting.values())
    if refusals:
        raise refusals[0]
    return trio.current_time() - began


def _note_slow(parcels: Iterable[Parcel]) -> None:
    for parcel in parcels:
        if parcel.account.healthy:
            parcel.account.failed(Unreachable(f"account {parcel.account.name} is too slow"))


async def _put(parcel: Parcel, on_stored: Callable[[Parcel], None]) -> None:
    try:
        await parcel.account.put(parcel.key, parcel.pieces)
    except StoreError as error:
        parcel.account.failed(error)
    else:
        parcel.account.answered()
        on_stored(parcel)
