"""Accounts of which nothing is known but where they are: what a recovery begins with.

Each is listed completely, its headers are read, and once a secret has opened one of them, every
account's own header tells its id. An account that cannot be listed completely is left out: a
part of a listing would prove nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.coding.keys import Keyring, VolumeKeys
from aggfs.coding.slots import OpenedHeader, Secret, open_header, read_header
from aggfs.engine.journal.headers import FoundHeader, find_headers
from aggfs.engine.listing import Listing
from aggfs.errors import AggfsError, BadConfig, Damaged, StoreError, Unreachable, WrongKey
from aggfs.formats.header import describe_slot
from aggfs.model import NO_ACCOUNT, AccountId
from aggfs.stores.base import Store

logger = logging.getLogger(__name__)

Report = Callable[[str], None]


@dataclass(slots=True)
class Source:
    """An account that answers. `id` is NO_ACCOUNT until one of its objects has told it."""

    name: str
    store: Store
    listing: Listing
    headers: list[FoundHeader] = field(default_factory=list)
    id: AccountId = NO_ACCOUNT
    complaints: set[str] = field(default_factory=set)

    def headers_of(self, volume: bytes) -> list[FoundHeader]:
        """The headers of one volume, the newest generation first."""
        return [found for found in self.headers if found.header.volume == volume]


async def survey(stores: Sequence[tuple[str, Store]], report: Report) -> list[Source]:
    """The accounts, (name, store), that could be listed completely, in their order.

    Never raises for an account's fault: who is left out is reported.
    """
    sources: dict[str, Source] = {}

    async def look(name: str, store: Store) -> None:
        try:
            listing = await Listing.read(store)
            sources[name] = Source(name, store, listing, await find_headers(store, listing.headers))
        except StoreError as error:
            report(f"account {name} is left out: {error}")
        else:
            report(f"account {name}: {len(listing)} objects")

    async with trio.open_nursery() as nursery:
        for name, store in stores:
            nursery.start_soon(look, name, store)
    return [sources[name] for name, _ in stores if name in sources]


# --- which volume it is ---------------------------------------------------------------------------


def open_newest(sources: Sequence[Source], secret: Secret) -> OpenedHeader:
    """The newest header that the secret opens, of the volume that lies in most of the accounts.

    Raises `Unreachable` when there is no header at all, `WrongKey` when the secret opens none,
    or was removed from the volume. Slow: for a worker thread.
    """
    spread = Counter(
        volume for source in sources for volume in {one.header.volume for one in source.headers}
    )
    if not spread:
        raise Unreachable("no header of a volume was found in these accounts")
    refusal: AggfsError | None = None
    opened: OpenedHeader | None = None
    for volume, count in spread.most_common():
        if opened is not None and count < spread[opened.keyring.volume]:
            break
        try:
            found = _open_volume(sources, volume, secret)
        except (WrongKey, Damaged) as error:
            refusal = refusal or error
            continue
        if opened is not None:
            raise BadConfig("this secret opens two volumes in these accounts: leave one out")
        opened = found
    if opened is None:
        raise refusal or WrongKey("this secret opens no header of these accounts")
    return opened


def _open_volume(sources: Sequence[Source], volume: bytes, secret: Secret) -> OpenedHeader:
    """As `open_newest`, of one volume. Whatever an account made up, a genuine header opens."""
    ordered = _newest_first(found for source in sources for found in source.headers_of(volume))
    refusal: AggfsError | None = None
    tried: set[bytes] = set()
    for found in ordered:
        slots = {describe_slot(s) + s.commitment for s in found.header.slots} - tried
        if not slots:
            continue
        try:
            opened = open_header(found.header, secret)
        except WrongKey as error:
            tried |= slots
            refusal = refusal or error
            continue
        except Damaged as error:
            refusal = error
            continue
        _assert_not_removed(ordered, opened)
        return opened
    raise refusal or WrongKey("this secret opens no header of these accounts")


def _assert_not_removed(ordered: Iterable[FoundHeader], opened: OpenedHeader) -> None:
    """A newer header that the volume's own key opens, and the secret did not, is the last word."""
    for found in ordered:
        if found.header.generation > opened.generation:
            try:
                read_header(found.header, opened.keyring)
            except (WrongKey, Damaged):
                continue
            raise WrongKey("this key was removed from the volume; an old header still knew it")


def _newest_first(headers: Iterable[FoundHeader]) -> list[FoundHeader]:
    return sorted(headers, key=lambda found: found.header.generation, reverse=True)


# --- which account is which -----------------------------------------------------------------------


def identify(sources: Sequence[Source], keyring: Keyring) -> None:
    """Let each account's own header of the volume tell its id.

    Raises `BadConfig` when two are one and the same account.
    """
    for source in sources:
        for found in source.headers_of(keyring.volume):
            try:
                source.id = AccountId(read_header(found.header, keyring).account)
            except (WrongKey, Damaged):
                continue
            break
    _assert_different(sources)


def identify_by_heads(
    sources: Sequence[Source], keys: VolumeKeys, devices: Iterable[bytes], ids: Iterable[AccountId]
) -> None:
    """Accounts whose header is lost are known by the heads in them, which are named by their id.

    `ids` are the accounts that the volume has.
    """
    unclaimed = set(ids) - {source.id for source in sources}
    names = [(device, epoch) for device in devices for epoch in range(keys.epoch, 0, -1)]
    for source in sources:
        if source.id == NO_ACCOUNT:
            for account in sorted(unclaimed):
                listed = (
                    source.listing.size_of(keys.head_name(epoch, device, account))
                    for device, epoch in names
                )
                if any(size is not None for size in listed):
                    source.id = account
                    source.complaints.add("its header is lost or damaged")
    _assert_different(sources)


def _assert_different(sources: Sequence[Source]) -> None:
    known: dict[AccountId, str] = {}
    for source in sources:
        if source.id != NO_ACCOUNT and known.setdefault(source.id, source.name) != source.name:
            raise BadConfig(f"{known[source.id]} and {source.name} are one and the same account")
