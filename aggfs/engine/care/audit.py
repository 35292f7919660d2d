"""Proof that no provider can rebuild anything, from what really lies in the accounts.

Neither the database nor any row is asked: every object is listed, its header opened with the
volume's keys, and the fragments that one provider has of one stripe are put together. A provider
with k different ones can rebuild the stripe; that is then done, so that no verdict rests on a
header's word. Heads are whole everywhere by design (they name the end of a journal and hold
nothing of the tree); headers of the volume are whole too, and open only with a secret.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.keys import VolumeKeys, is_header_name, is_object_name
from aggfs.coding.records import open_record
from aggfs.errors import Damaged, NotFound, TooFewFragments
from aggfs.formats.fragment import FragmentHeader, Kind
from aggfs.formats.sizes import FRAGMENT_HEADER_BYTES
from aggfs.model import spare
from aggfs.stores.base import Store
from aggfs.threads import in_thread

READERS = 8


@dataclass(frozen=True, slots=True)
class Holding:
    """What one provider holds. `complete` names the stripes it could rebuild by itself."""

    provider: str
    objects: int
    stripes: int
    heads: int
    headers: int
    foreign: int
    most_fragments: int
    complete: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """One provider, while its accounts are read."""

    objects: int = 0
    heads: int = 0
    headers: int = 0
    foreign: int = 0
    # stripe -> fragment index -> where it is
    stripes: dict[FragmentHeader, dict[int, tuple[Store, str]]] = field(default_factory=dict)


async def audit_complete_copies(
    accounts: Iterable[tuple[str, Store]], keys: VolumeKeys
) -> Sequence[Holding]:
    """What each provider holds; `accounts` are pairs of provider and store.

    Raises `StoreError` when a listing is not complete: a part of it would prove nothing. Changes
    nothing; may be cancelled.
    """
    found: dict[str, _Found] = {}
    async with trio.open_nursery() as nursery:
        for provider, store in accounts:
            mine = found.setdefault(provider, _Found())
            nursery.start_soon(_read_account, store, keys, mine)
    return [await _judged(provider, mine, keys) for provider, mine in sorted(found.items())]


async def _read_account(store: Store, keys: VolumeKeys, found: _Found) -> None:
    send, receive = trio.open_memory_channel[str](READERS)
    async with trio.open_nursery() as nursery:
        for _ in range(READERS):
            nursery.start_soon(_read_headers, store, keys, receive.clone(), found)
        receive.close()
        async with send:
            async for key in _listed(store):
                await send.send(key)


async def _listed(store: Store) -> AsyncIterator[str]:
    after: str | None = ""
    while after is not None:
        page = await store.list_page("", after)
        for each in page.objects:
            yield each.key
        after = page.next_after


async def _read_headers(
    store: Store, keys: VolumeKeys, names: trio.MemoryReceiveChannel[str], found: _Found
) -> None:
    async with names:
        async for key in names:
            await _read_header(store, keys, key, found)


async def _read_header(store: Store, keys: VolumeKeys, key: str, found: _Found) -> None:
    if is_header_name(key):
        found.headers += 1
        return
    if not is_object_name(key):
        found.foreign += 1
        return
    try:
        header = open_header_of_fragment(keys, await store.get_range(key, 0, FRAGMENT_HEADER_BYTES))
    except NotFound:
        return  # deleted since it was listed
    except Damaged:
        found.foreign += 1
        return
    found.objects += 1
    if header.kind is Kind.HEAD:
        found.heads += 1
    else:
        found.stripes.setdefault(header.of_stripe(), {})[header.index] = (store, key)


async def _judged(provider: str, found: _Found, keys: VolumeKeys) -> Holding:
    complete = [
        f"stripe {stripe.sid.hex()} ({len(fragments)} of {stripe.k} that are needed)"
        for stripe, fragments in found.stripes.items()
        if spare(stripe, fragments) >= 0 and await _can_rebuild(stripe, fragments, keys)
    ]
    return Holding(
        provider,
        found.objects,
        len(found.stripes),
        found.heads,
        found.headers,
        found.foreign,
        max(map(len, found.stripes.values()), default=0),
        tuple(sorted(complete)),
    )


async def _can_rebuild(
    stripe: FragmentHeader, fragments: Mapping[int, tuple[Store, str]], keys: VolumeKeys
) -> bool:
    objects = []
    for store, key in fragments.values():
        try:
            objects.append(await store.get(key))
        except NotFound:
            continue
    try:
        await in_thread(open_record, keys, stripe.kind, objects)
    except (TooFewFragments, Damaged):
        return False
    return True
