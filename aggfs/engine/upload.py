"""Bringing the fragments of one coded thing into its accounts, all at once.

Used for stripes, journal segments, heads and checkpoints alike. Each put has a deadline; a put
that was begun and not confirmed may be there (the ledger and the rows count it).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import trio

from aggfs.engine.accounts import Account
from aggfs.errors import StoreError, Unreachable
from aggfs.stores.base import Buffer

PUT_SECONDS = 60.0
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


def homes_of(accounts: Iterable[Account], n: int, turn: int) -> list[Account]:
    """The accounts that take the n fragments of a record of the journal, in order: one of each
    provider in a fixed order, turned, so that parity rotates and a retry chooses the same."""
    providers: dict[str, Account] = {}
    for account in sorted(accounts, key=lambda one: one.id):
        providers.setdefault(account.provider, account)
    homes = list(providers.values())
    start = turn % len(homes)
    return (homes[start:] + homes[:start])[:n]


async def put_all(
    parcels: Sequence[Parcel],
    on_stored: Callable[[Parcel], None],
    enough: Callable[[], bool],
) -> None:
    """Put every parcel; returns when each was stored, failed, or is too late.

    Once `enough` are stored, the rest get three times as long as it took until then, and are
    left to be caught up with: a hanging account must not hold the others up. Accounts that did
    not answer last time get little more.
    `on_stored` and `enough` run on the loop and must not raise; a failure is noted on the
    account. When cancelled, what is under way may or may not arrive.
    """
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
            on_stored(parcel)
            if scope.deadline == math.inf and enough():
                lose_patience()

        async with trio.open_nursery() as nursery:
            for parcel in parcels:
                nursery.start_soon(_put, parcel, stored)
    if scope.cancelled_caught:
        for parcel in waiting.values():
            if parcel.account.healthy:
                parcel.account.failed(Unreachable(f"account {parcel.account.name} is too slow"))


async def _put(parcel: Parcel, on_stored: Callable[[Parcel], None]) -> None:
    try:
        with trio.move_on_after(PUT_SECONDS) as scope:
            await parcel.account.store.put(parcel.key, parcel.pieces)
        if scope.cancelled_caught:
            raise Unreachable(f"account {parcel.account.name} took longer than {PUT_SECONDS:.0f} s")
    except StoreError as error:
        parcel.account.failed(error)
    else:
        parcel.account.answered()
        on_stored(parcel)
