"""A store that misbehaves on demand, the same way each time: for tests and drills.

Faults are injected and healed while it runs. All chance comes from the seed, so a failing run can
be repeated. What each kind does is written beside its name in `FaultKind`.
"""

import enum
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from aggfs.errors import NotFound, QuotaFull, Refused, Unreachable
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space, Store

Result = TypeVar("Result")

WRITES = frozenset({"put", "create"})
CHANGES = WRITES | {"delete"}
READS = frozenset({"get", "get_range"})
VERBS = CHANGES | READS | {"head", "list_page", "space"}


class FaultKind(enum.Enum):
    """What goes wrong."""

    DOWN = "down"  # no connection
    HANG = "hang"  # no answer, for ever
    SLOW = "slow"  # the answer comes late
    SERVER_ERROR = "server error"  # a 5xx; `applied`: the request was carried out all the same
    THROTTLE = "throttle"  # a 503 with Retry-After
    RESET = "reset"  # the connection breaks after the request; `applied` as above
    TRUNCATE = "truncate"  # reads give only a `fraction` of the bytes, and say nothing
    BITFLIP = "bitflip"  # rot at rest: one bit wrong in every `every_bytes`, always the same ones
    STALE = "stale"  # reads and listings show the account as it was when the fault began
    LOST_WRITE = "lost write"  # writes are acknowledged and forgotten
    QUOTA = "quota"  # no room for writes
    AUTH = "auth"  # the key is not accepted


_TOUCHES = {
    FaultKind.TRUNCATE: READS,
    FaultKind.BITFLIP: READS,
    FaultKind.STALE: READS | {"head", "list_page"},
    FaultKind.LOST_WRITE: CHANGES,
    FaultKind.QUOTA: WRITES,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `verbs` None: all that this kind can touch; `times` None: until it is healed."""

    kind: FaultKind
    verbs: frozenset[str] | None = None
    chance: float = 1.0
    times: int | None = None
    applied: bool = False
    seconds: float = 0.5
    jitter_seconds: float = 0.0
    retry_after_seconds: float = 1.0
    fraction: float = 0.5
    every_bytes: int = 512

    def touches(self, verb: str) -> bool:
        """Whether a request of this verb can meet this fault."""
        touched = _TOUCHES.get(self.kind, VERBS)
        return verb in touched and (self.verbs is None or verb in self.verbs)


class FaultyStore:
    """A store with faults put before it. Without faults it does what the store within does."""

    def __init__(self, store: Store, *, seed: int) -> None:
        self._store = store
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - faults must be repeatable, not secret
        self._faults: list[Fault] = []
        self._met: list[int] = []  # how often each was met
        self._past: dict[str, bytes | None] = {}  # what STALE shows; None: was not there
        self.hits: Counter[FaultKind] = Counter()

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def place(self) -> str:
        return self._store.place

    def inject(self, fault: Fault) -> None:
        """From now on, requests meet this fault too."""
        self._faults.append(fault)
        self._met.append(0)

    def heal(self) -> None:
        """No more faults. What was lost or damaged at rest by STALE and BITFLIP is as it was."""
        self._faults.clear()
        self._met.clear()
        self._past.clear()

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._change("put", key, lambda: self._store.put(key, pieces))

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._change("create", key, lambda: self._store.create(key, pieces))

    async def get(self, key: str) -> bytes:
        async def job() -> bytes:
            return self._past_bytes(key) if key in self._past else await self._store.get(key)

        return self._damaged(key, 0, *await self._pass("get", job))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        async def job() -> bytes:
            if key in self._past:
                return self._past_bytes(key)[start : start + length]
            return await self._store.get_range(key, start, length)

        return self._damaged(key, start, *await self._pass("get_range", job))

    async def head(self, key: str) -> ObjectInfo:
        async def job() -> ObjectInfo:
            if key in self._past:
                return ObjectInfo(key, len(self._past_bytes(key)))
            return await self._store.head(key)

        return (await self._pass("head", job))[0]

    async def list_page(self, prefix: str, after: str) -> Page:
        page, _ = await self._pass("list_page", lambda: self._store.list_page(prefix, after))
        if not self._past:
            return page
        sizes = {each.key: each.size_bytes for each in page.objects}
        for key, data in self._past.items():
            if data is None:
                sizes.pop(key, None)
            elif key.startswith(prefix) and after < key <= (page.next_after or key):
                sizes[key] = len(data)
        return Page(tuple(ObjectInfo(*each) for each in sorted(sizes.items())), page.next_after)

    async def delete(self, key: str) -> None:
        await self._change("delete", key, lambda: self._store.delete(key))

    async def space(self) -> Space | None:
        return (await self._pass("space", self._store.space))[0]

    async def prepare(self) -> None:
        await self._store.prepare()

    async def aclose(self) -> None:
        await self._store.aclose()

    async def _change(self, verb: str, key: str, job: Callable[[], Awaitable[None]]) -> None:
        async def change() -> None:
            if any(fault.kind is FaultKind.STALE for fault in self._faults):
                await self._remember(key)
            await job()

        await self._pass(verb, change)

    async def _pass(
        self, verb: str, job: Callable[[], Awaitable[Result]]
    ) -> tuple[Result, list[Fault]]:
        """What the request gives, and the faults that are still to damage it."""
        met = self._draw(verb)
        for fault in met:
            if fault.applied and fault.kind in (FaultKind.SERVER_ERROR, FaultKind.RESET):
                await job()
            await self._fail(fault)
        if any(fault.kind is FaultKind.LOST_WRITE for fault in met):

            async def forget() -> None:
                await trio.lowlevel.checkpoint()

            job = forget  # type: ignore[assignment]  # changes give None, and only they meet it
        return await job(), met

    def _draw(self, verb: str) -> list[Fault]:
        met = []
        for index, fault in enumerate(self._faults):
            used_up = fault.times is not None and self._met[index] >= fault.times
            if fault.touches(verb) and not used_up and self._random.random() < fault.chance:
                self._met[index] += 1
                self.hits[fault.kind] += 1
                met.append(fault)
        return met

    async def _fail(self, fault: Fault) -> None:
        """What a fault does before the answer: delays, or an error."""
        place = self.place
        match fault.kind:
            case FaultKind.HANG:
                await trio.sleep_forever()
            case FaultKind.SLOW:
                await trio.sleep(fault.seconds + self._random.random() * fault.jitter_seconds)
            case FaultKind.THROTTLE:
                asked = fault.retry_after_seconds
                raise Unreachable(f"{place}: slow down", retry_after_seconds=asked)
            case FaultKind.DOWN | FaultKind.SERVER_ERROR | FaultKind.RESET:
                raise Unreachable(f"{place}: {fault.kind.value}")
            case FaultKind.QUOTA:
                raise QuotaFull(f"{place}: the account is full")
            case FaultKind.AUTH:
                raise Refused(f"{place}: the key is not accepted")
            case _:
                return

    async def _remember(self, key: str) -> None:
        if key not in self._past:
            try:
                self._past[key] = await self._store.get(key)
            except NotFound:
                self._past[key] = None

    def _past_bytes(self, key: str) -> bytes:
        data = self._past[key]
        if data is None:
            raise NotFound(f"{self.place}: there is no object {key}")
        return data

    def _damaged(self, key: str, start: int, data: bytes, met: Sequence[Fault]) -> bytes:
        for fault in met:
            if fault.kind is FaultKind.TRUNCATE:
                data = data[: int(len(data) * fault.fraction)]
            elif fault.kind is FaultKind.BITFLIP:
                data = _rotten(data, start, fault.every_bytes, f"{self._seed} {key}")
        return data


def _rotten(data: bytes, start: int, every_bytes: int, seed: str) -> bytes:
    """One bit flipped in each run of `every_bytes` of the object; `data` begins at `start`."""
    fixed = random.Random(seed)  # noqa: S311 - the same bits each time
    offset, bit = fixed.randrange(every_bytes), 1 << fixed.randrange(8)
    rotten = bytearray(data)
    for position in range((offset - start) % every_bytes, len(data), every_bytes):
        rotten[position] ^= bit
    return bytes(rotten)
