"""Whether an account can be used, found out by using it: before it is added, and on request.

The probe writes one small object under a random name that looks like all our names, and removes
it again, whatever happens. What it refuses, it refuses with one line.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from aggfs.errors import AlreadyThere, NotFound, Refused, StoreError, Unreachable
from aggfs.stores.base import Space, Store

RACERS = 4
_OBJECT_BYTES = 4096
_RANGE = (100, 1000)  # start, length
_CLEAN_SECONDS = 30.0

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """An account that passed. `create_only`: of racing creates exactly one won.

    `seconds` is how long one put of a few KiB and five reads took together.
    """

    place: str
    create_only: bool
    space: Space | None
    seconds: float


async def probe(store: Store, *, random_bytes: RandomBytes = secrets.token_bytes) -> ProbeReport:
    """Put, get, range, list, delete and a race of creates, each checked by reading back.

    Raises `Refused` (bad key, missing bucket, read-only key, answers that are wrong), `QuotaFull`
    or `Unreachable`. Leaves nothing behind, unless it was the delete that was refused or the
    account went away: then the error names the object.
    """
    key, racing = _random_key(random_bytes), _random_key(random_bytes)
    data = random_bytes(_OBJECT_BYTES)
    await store.list_page(key, "")  # a wrong key or bucket shows here first, and most clearly
    async with _removed_afterwards(store, key):
        began = trio.current_time()
        await _put_or_say_read_only(store, key, data)
        try:
            await _check_reading(store, key, data)
        except NotFound as error:
            raise Refused(f"{store.place}: forgets what was just stored") from error
        seconds = trio.current_time() - began
        await _check_deleting(store, key)
    async with _removed_afterwards(store, racing):
        create_only = await _race(store, racing, random_bytes)
    space = await store.space()
    return ProbeReport(store.place, create_only, space, seconds)


async def same_place(
    store: Store, others: Sequence[Store], *, random_bytes: RandomBytes = secrets.token_bytes
) -> int | None:
    """The index of the first of `others` in which an object put into `store` appears.

    Two names, endpoints, links or mounts of one place are found out so. `Unreachable` if one of
    the others did not answer and none of the rest is the same: then nobody knows.
    """
    key = _random_key(random_bytes)
    async with _removed_afterwards(store, key):
        await _put_or_say_read_only(store, key, random_bytes(64))
        unknown: StoreError | None = None
        for index, other in enumerate(others):
            try:
                await other.head(key)
            except NotFound:
                continue
            except StoreError as error:
                unknown = unknown or error
            else:
                return index
    if unknown is not None:
        raise Unreachable(f"{store.place}: may be a place in use already: {unknown}") from unknown
    return None


def _random_key(random_bytes: RandomBytes) -> str:
    name = random_bytes(20).hex()
    return f"{name[:2]}/{name[2:]}"


async def _put_or_say_read_only(store: Store, key: str, data: bytes) -> None:
    try:
        await store.put(key, [data[:1], data[1:]])
    except Refused as error:
        if type(error) is Refused:  # a full account is no read-only one
            raise Refused(f"can be read but not written: {error}") from error
        raise


async def _check_reading(store: Store, key: str, data: bytes) -> None:
    start, length = _RANGE
    if await store.get(key) != data:
        raise Refused(f"{store.place}: gives back other bytes than were stored")
    if await store.get_range(key, start, length) != data[start : start + length]:
        raise Refused(f"{store.place}: gives other bytes than the range that was asked for")
    if await store.get_range(key, len(data) - 5, 10) != data[-5:]:
        raise Refused(f"{store.place}: a range over the end of an object gives wrong bytes")
    if (await store.head(key)).size_bytes != len(data):
        raise Refused(f"{store.place}: tells a wrong object size")
    if [each.key for each in (await store.list_page(key, "")).objects] != [key]:
        raise Refused(f"{store.place}: its listing does not show what was just stored")


async def _race(store: Store, key: str, random_bytes: RandomBytes) -> bool:
    """Whether of some creates at once exactly one wins, and its bytes are there afterwards."""
    winners: list[bytes] = []
    failures: list[StoreError] = []

    async def run(data: bytes) -> None:
        try:
            await store.create(key, [data])
        except AlreadyThere:
            return
        except StoreError as error:  # the service knows no such request, or not so many at once
            failures.append(error)
        else:
            winners.append(data)

    async with trio.open_nursery() as nursery:
        for _ in range(RACERS):
            nursery.start_soon(run, random_bytes(16))
    return not failures and len(winners) == 1 and await store.get(key) == winners[0]


async def _check_deleting(store: Store, key: str) -> None:
    try:
        await store.delete(key)
    except Refused as error:
        raise Refused(f"can be written but not deleted from ({key} stays): {error}") from error
    try:
        await store.head(key)
    except NotFound:
        return
    raise Refused(f"{store.place}: a deleted object ({key}) is still there")


@asynccontextmanager
async def _removed_afterwards(store: Store, key: str) -> AsyncIterator[None]:
    """Delete the object at the end, cancelled or not, as far as the account lets us."""
    try:
        yield
    except BaseException:
        with trio.move_on_after(_CLEAN_SECONDS, shield=True), suppress(StoreError):
            await store.delete(key)
        raise  # the first error is the one to tell
    with trio.move_on_after(_CLEAN_SECONDS, shield=True):
        await store.delete(key)
