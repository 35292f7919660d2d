"""The volume's header on its accounts: found by a listing, replaced as a new generation.

A generation is written to every account before older ones are deleted, so that there is always a
header that opens. An account that was away keeps an older one until it is seen again.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import trio

from aggfs.coding.keys import header_name, is_header_name
from aggfs.coding.slots import OpenedHeader, seal_header
from aggfs.errors import Damaged, NotFound, StoreError
from aggfs.formats.header import OBJECT_LIMIT_BYTES, Header, decode_header
from aggfs.model import AccountId
from aggfs.stores.base import ObjectInfo, Store

UNDO_SECONDS = 30.0

RandomBytes = Callable[[int], bytes]
Intend = Callable[[bytes, str, int], Awaitable[None]]  # account, key, size in bytes


async def put_header(
    store: Store, opened: OpenedHeader, account: bytes, random_bytes: RandomBytes
) -> tuple[str, int]:
    """Put this generation on one account; its key and size."""
    data = seal_header(opened, account, random_bytes=random_bytes)
    key = header_name(random_bytes(8))
    await store.put(key, [data])
    return key, len(data)


async def put_on_all(
    stores: Mapping[AccountId, Store], opened: OpenedHeader, random_bytes: RandomBytes
) -> dict[AccountId, tuple[str, int]]:
    """Put this generation on every account, or on none: key and size of each."""
    placed: dict[AccountId, tuple[str, int]] = {}
    try:
        for account, store in stores.items():
            placed[account] = await put_header(store, opened, account, random_bytes)
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(UNDO_SECONDS):
            for account, (key, _) in placed.items():
                await stores[account].delete(key)
        raise
    return placed


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


async def replace_headers(
    stores: Iterable[tuple[bytes, Store]],
    opened: OpenedHeader,
    random_bytes: RandomBytes,
    intend: Intend | None = None,
) -> tuple[dict[bytes, tuple[str, int]], dict[bytes, StoreError]]:
    """Put a new generation on every account: where it lies now, and which accounts failed.
    `intend`, if given, is awaited before each put: from then on the object may be there."""
    placed: dict[bytes, tuple[str, int]] = {}
    failed: dict[bytes, StoreError] = {}
    for account, store in stores:
        try:
            data = seal_header(opened, account, random_bytes=random_bytes)
            key = header_name(random_bytes(8))
            if intend is not None:
                await intend(account, key, len(data))
            await store.put(key, [data])
            placed[account] = key, len(data)
        except StoreError as error:
            failed[account] = error
    return placed, failed
