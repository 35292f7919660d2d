"""How fast accounts are: small requests, bytes up and down, one by one and all at once.

What is put lies under names of its own that look like all our names, and is removed afterwards,
whatever happened; nothing else in an account is read, changed or listed. A put is never cut off
half way, so that none can land after its object was removed: an interrupt waits for the few that
are under way.
"""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import trio

from aggfs.config import AccountConfig
from aggfs.errors import BadConfig, StoreError, Unreachable
from aggfs.stores.base import Store
from aggfs.stores.registry import open_store

SMALL_BYTES = 4096
SMALL_REQUESTS = 8
OBJECT_BYTES = 2 << 20  # a fragment of a full stripe where k is 2
AT_ONCE = 6  # requests to each account: below the slots that a driver has
CALL_SECONDS = 60.0

Report = Callable[[str], None]
OpenStore = Callable[[AccountConfig], Store]
Transfer = Callable[[int], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that one account is asked to move in one direction, and the longest."""

    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class AccountSpeed:
    """What one account gives while it alone is asked; latencies are medians."""

    name: str
    provider: str
    put_seconds: float
    get_seconds: float
    up_per_second: float
    down_per_second: float


@dataclass(slots=True)
class Measurement:
    """The accounts that answered; those that did not, or kept what they should not, and why; what
    all gave at once."""

    speeds: list[AccountSpeed] = field(default_factory=list)
    failures: dict[str, StoreError | BadConfig] = field(default_factory=dict)
    up_together: float = 0.0
    down_together: float = 0.0


async def measure_accounts(
    accounts: Sequence[AccountConfig],
    bounds: Bounds,
    *,
    report: Report = lambda text: None,
    open_store: OpenStore = open_store,
) -> Measurement:
    """Measure accounts, each within `bounds`, and then all at once. One that fails is left out of
    the rest. May be cancelled: nothing is left in them then, either."""
    found = Measurement()
    async with _opened(accounts, found, open_store) as subjects:
        for subject in subjects:
            report(f"{subject.name} alone")
            try:
                found.speeds.append(await _alone(subject, bounds))
            except StoreError as error:
                found.failures[subject.name] = error
        working = [one for one in subjects if one.name not in found.failures]
        if working:
            report("all at once")
            try:
                found.up_together, found.down_together = await _rates(working, bounds)
            except StoreError as error:
                found.failures["all at once"] = error
    return found


@dataclass(slots=True)
class _Subject:
    """An account that is measured; `keys` are of objects that are there, or may be."""

    name: str
    provider: str
    store: Store
    keys: list[str] = field(default_factory=list)
    refusal: StoreError | None = None
    _noise: memoryview = field(
        default_factory=lambda: memoryview(secrets.token_bytes(2 * OBJECT_BYTES))
    )

    async def put(self, size_bytes: int) -> int:
        """One object more, like no other; how many bytes."""
        name = secrets.token_hex(20)
        key = f"{name[:2]}/{name[2:]}"
        start = len(self.keys) * 4099 % OBJECT_BYTES
        self.keys.append(key)
        with trio.move_on_after(CALL_SECONDS) as scope:
            scope.shield = True
            await self.store.put(key, [self._noise[start : start + size_bytes]])
            return size_bytes
        raise Unreachable(f"no answer within {CALL_SECONDS:.0f} s; {key} may come to be there")

    async def get(self, number: int) -> int:
        """One of the objects; how many bytes."""
        with trio.move_on_after(CALL_SECONDS):
            return len(await self.store.get(self.keys[number % len(self.keys)]))
        raise Unreachable(f"no answer within {CALL_SECONDS:.0f} s")

    async def remove_all(self) -> None:
        """Remove what was put, cancelled or not. `keys` has what is left, if the account refuses
        or does not answer."""
        with trio.move_on_after(CALL_SECONDS) as scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:
                for number in range(AT_ONCE):
                    nursery.start_soon(self._remove, self.keys[number::AT_ONCE])

    async def _remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            try:
                await self.store.delete(key)
            except StoreError as error:
                self.refusal = error
                return
            self.keys.remove(key)


@asynccontextmanager
async def _opened(
    accounts: Sequence[AccountConfig], found: Measurement, open_store: OpenStore
) -> AsyncIterator[list[_Subject]]:
    """The accounts, open. What was put is gone afterwards, or it is noted as the failure."""
    subjects = []
    for account in accounts:
        try:
            subjects.append(_Subject(account.name, account.provider, open_store(account)))
        except (StoreError, BadConfig) as error:
            found.failures[account.name] = error
    try:
        yield subjects
    finally:
        for subject in subjects:
            await _close(subject, found)


async def _close(subject: _Subject, found: Measurement) -> None:
    await subject.remove_all()
    if subject.keys and subject.name not in found.failures:
        why = subject.refusal or "no answer"
        found.failures[subject.name] = Unreachable(
            f"{len(subject.keys)} objects could not be removed, {subject.keys[0]} is one: {why}"
        )
    with trio.CancelScope(shield=True):
        await subject.store.aclose()


async def _alone(subject: _Subject, bounds: Bounds) -> AccountSpeed:
    puts = [await _seconds(partial(subject.put, SMALL_BYTES)) for _ in range(SMALL_REQUESTS)]
    gets = [await _seconds(partial(subject.get, number)) for number in range(SMALL_REQUESTS)]
    up, down = await _rates([subject], bounds)
    return AccountSpeed(subject.name, subject.provider, median(puts), median(gets), up, down)


async def _seconds(call: Callable[[], Awaitable[object]]) -> float:
    began = trio.current_time()
    await call()
    return trio.current_time() - began


async def _rates(subjects: Sequence[_Subject], bounds: Bounds) -> tuple[float, float]:
    """Bytes a second up, and down again, of accounts at once, which share what all may move: what
    one is slow at others do. Nothing stays there."""
    size = min(OBJECT_BYTES, bounds.size_bytes)
    for subject in subjects:  # small objects would be read as well
        await subject.remove_all()
    puts = [partial(_put, subject, size) for subject in subjects]
    up = await _rate(puts, size, bounds)
    gets = [subject.get for subject in subjects if subject.keys]
    down = await _rate(gets, size, bounds)
    for subject in subjects:
        await subject.remove_all()
    return up, down


async def _put(subject: _Subject, size_bytes: int, number: int) -> int:
    del number
    return await subject.put(size_bytes)


async def _rate(transfers: Sequence[Transfer], size_bytes: int, bounds: Bounds) -> float:
    """Bytes a second of transfers of `size_bytes`, each by several tasks, until the bytes of all
    are moved or the time is over. Raises the first error, when all have ended."""
    began = trio.current_time()
    numbers = iter(range(max(1, bounds.size_bytes // size_bytes) * len(transfers)))
    moved = 0
    errors: list[StoreError] = []

    async def work(transfer: Transfer) -> None:
        nonlocal moved
        for number in numbers:
            try:
                size = await transfer(number)
                moved += size  # apart: others add to it while one waits
            except StoreError as error:
                errors.append(error)
            if errors or trio.current_time() - began >= bounds.seconds:
                return

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            for transfer in transfers:
                nursery.start_soon(work, transfer)
    if errors:
        raise errors[0]
    return moved / max(trio.current_time() - began, 1e-6)
