"""The volume's header on its accounts: found by a listing, replaced as a new generation.

A generation is written to every account before older ones are deleted, so that there is always a
header that opens. An account that was away keeps an older one until it is seen again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from aggfs.coding.keys import header_name, is_header_name
from aggfs.coding.slots import OpenedHeader, Secret, open_header, seal_header
from aggfs.errors import Damaged, NotFound, StoreError, Unreachable, WrongKey
from aggfs.formats.header import OBJECT_LIMIT_BYTES, Header, decode_header
from aggfs.stores.base import ObjectInfo, Store

RandomBytes = Callable[[int], bytes]


async def list_all(store: Store, prefix: str = "") -> list[ObjectInfo]:
    """A complete listing. Raises `StoreError` where it cannot be had complete."""
    found: list[ObjectInfo] = []
    after: str | None = ""
    while after is not None:
        page = await store.list_page(prefix, after)
        found += page.objects
        after = page.next_after
    return found


async def put_header(
    store: Store, opened: OpenedHeader, account: bytes, random_bytes: RandomBytes
) -> tuple[str, int]:
    """Put this generation on one account; its key and size."""
    data = seal_header(opened, account, random_bytes=random_bytes)
    key = header_name(random_bytes(8))
    await store.put(key, [data])
    return key, len(data)


@dataclass(frozen=True, slots=True)
class FoundHeader:
    """A header object that lies on an account."""

    key: str
    size_bytes: int
    header: Header


async def find_headers(store: Store, listing: Iterable[ObjectInfo]) -> list[FoundHeader]:
    """Everything on an account that is a header of some volume, newest generation first."""
    found = []
    for known in listing:
        if is_header_name(known.key) and known.size_bytes <= OBJECT_LIMIT_BYTES:
            try:
                header = decode_header(await store.get(known.key))
            except (Damaged, NotFound):
                continue
            found.append(FoundHeader(known.key, known.size_bytes, header))
    return sorted(found, key=lambda one: one.header.generation, reverse=True)


def open_newest(headers: Iterable[FoundHeader], secret: Secret) -> OpenedHeader:
    """The newest generation that the secret opens, of whichever volume.

    Raises `WrongKey` when it opens none of them, `Unreachable` when there are none.
    """
    ordered = sorted(headers, key=lambda one: one.header.generation, reverse=True)
    if not ordered:
        raise Unreachable("no header of a volume was found in these accounts")
    refusal: WrongKey | None = None
    seen: set[tuple[bytes, int]] = set()
    for found in ordered:
        identity = (found.header.volume, found.header.generation)
        if identity in seen:
            continue
        seen.add(identity)
        try:
            return open_header(found.header, secret)
        except WrongKey as error:
            refusal = error
    raise refusal or WrongKey("this secret opens no header of these accounts")


async def replace_headers(
    stores: Iterable[tuple[bytes, Store]], opened: OpenedHeader, random_bytes: RandomBytes
) -> tuple[dict[bytes, tuple[str, int]], dict[bytes, StoreError]]:
    """Put a new generation on every account: where it lies now, and which accounts failed."""
    placed: dict[bytes, tuple[str, int]] = {}
    failed: dict[bytes, StoreError] = {}
    for account, store in stores:
        try:
            placed[account] = await put_header(store, opened, account, random_bytes)
        except StoreError as error:
            failed[account] = error
    return placed, failed
