"""Bringing the fragments of one coded thing into its accounts, all at once.

Used for stripes, journal segments, heads and checkpoints alike. Each put has a deadline; a put
that was begun and not confirmed may be there (the ledger and the rows count it).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from aggfs.engine.accounts import Account
from aggfs.errors import StoreError, Unreachable
from aggfs.stores.base import Buffer

PUT_SECONDS = 60.0


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


async def put_all(parcels: Sequence[Parcel], on_stored: Callable[[Parcel], None]) -> None:
    """Put every parcel; returns when each was stored or failed.

    `on_stored` runs on the loop and must not raise; a failure is noted on the account. When
    cancelled, what is under way may or may not arrive.
    """
    async with trio.open_nursery() as nursery:
        for parcel in parcels:
            nursery.start_soon(_put, parcel, on_stored)


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
