"""A complete listing of one account beside what the local database says should lie there.

Both sides move while they are compared: what was put meanwhile may be missing from the listing,
and what was deleted may still be in it. So nothing here is a verdict yet. Who acts on it looks
again: at the row as it is now, and at the object itself.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from aggfs.cache.blocks import Blocks, StripeState
from aggfs.coding.codec import fragment_bytes
from aggfs.coding.keys import VolumeKeys, is_header_name
from aggfs.engine.care.dying import Dying
from aggfs.engine.listing import Listing
from aggfs.model import AccountId, StripeRow
from aggfs.stores.base import ObjectInfo

STRIPES_AT_ONCE = 500


@dataclass(slots=True)
class Compared:
    """What does not fit together, of one account: fragments as (sid, index), other objects of
    the ledger by their key. `unnamed` have the form of ours and nothing here names them."""

    fragments: int = 0
    objects: int = 0
    missing: list[tuple[bytes, int]] = field(default_factory=list)
    wrong_size: list[tuple[bytes, int]] = field(default_factory=list)
    missing_objects: list[str] = field(default_factory=list)
    wrong_objects: list[str] = field(default_factory=list)
    unnamed: list[ObjectInfo] = field(default_factory=list)


def compare_steps(
    keys: VolumeKeys,
    account: AccountId,
    listing: Listing,
    blocks: Blocks,
    dying: Dying,
    objects: Iterable[tuple[str, int]],
) -> Generator[None, None, Compared]:
    """Compare a listing with all rows; a step is some of them. `objects` are those of the ledger
    that are no fragments of data."""
    found = Compared()
    named = bytearray(len(listing))
    after: bytes | None = None
    while page := blocks.stripes(after, limit=STRIPES_AT_ONCE):
        for state in page:
            _compare_stripe(keys, account, listing, state, found, named)
            yield
        after = page[-1].row.sid
    for _, row in dying.rows():
        if row.row is not None:
            for index, place in row.left:
                if place == account:
                    _mark(listing, named, _name(keys, row.row, index, account))
        yield
    for count, (key, size) in enumerate(objects):
        _compare_object(listing, key, size, found, named)
        if count % STRIPES_AT_ONCE == 0:
            yield
    found.unnamed = [
        listing.at(place)
        for place, known in enumerate(named)
        if not known and not is_header_name(listing.at(place).key)
    ]
    return found


def _name(keys: VolumeKeys, row: StripeRow, index: int, account: bytes) -> str:
    return keys.fragment_name(row.epoch, row.sid, index, account)


def _mark(listing: Listing, named: bytearray, key: str) -> int | None:
    """Somebody names this object; its size, None if it is not listed."""
    place = listing.find(key)
    if place is None:
        return None
    named[place] = 1
    return listing.at(place).size_bytes


def _compare_stripe(
    keys: VolumeKeys,
    account: AccountId,
    listing: Listing,
    state: StripeState,
    found: Compared,
    named: bytearray,
) -> None:
    row = state.row
    for index, place in state.copies():
        if place != account:
            continue
        size = _mark(listing, named, _name(keys, row, index, account))
        if not state.is_in_place(index, account):
            continue
        found.fragments += 1
        if size is None:
            found.missing.append((row.sid, index))
        elif size != fragment_bytes(row.sealed_bytes, row.k):
            found.wrong_size.append((row.sid, index))


def _compare_object(
    listing: Listing, key: str, size: int, found: Compared, named: bytearray
) -> None:
    found.objects += 1
    listed = _mark(listing, named, key)
    if listed is None:
        found.missing_objects.append(key)
    elif listed != size:
        found.wrong_objects.append(key)
