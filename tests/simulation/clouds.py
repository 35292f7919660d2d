"""The accounts of a simulation: objects in memory behind faults, and a trace of all that is asked.

A cloud outlives the daemons that use it. What a daemon is given is a `Line` to it: it can be cut,
as the death of the daemon cuts it, and all that is asked and answered over it goes into the trace.
Three things are beyond what `FaultyStore` does: a put whose caller gave up may arrive later all
the same; writes that were acknowledged and forgotten may show up in the end; and in a truce reads
go past all faults, so that what there really is can be looked at.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio
import xxhash

from aggfs.coding.keys import is_header_name
from aggfs.errors import StoreError
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space
from aggfs.stores.faulty import FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from tests.simulation.chance import Chance

Result = TypeVar("Result")

LATE_SECONDS = 100.0  # less than the engine waits for what it gave up
SHOWN_LINES = 40
LATE_ONCE_IN = 3.0


class Wrong(AssertionError):
    """Something happened that never may."""


class Trace:
    """Everything that was asked and answered, as one number; and the last lines of it."""

    def __init__(self) -> None:
        self._hash = xxhash.xxh3_128()
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.requests = 0

    def note(self, *parts: object) -> None:
        line = " ".join((f"{trio.current_time():.6f}", *map(str, parts)))
        self._hash.update(line.encode())
        self.lines.append(line)

    def hexdigest(self) -> str:
        return str(self._hash.hexdigest())


@dataclass
class Cloud:
    """One account at its provider."""

    name: str
    provider: str
    trace: Trace
    chance: Chance
    objects: MemoryObjects = field(init=False)
    faulty: FaultyStore = field(init=False)
    lost: dict[str, bytes] = field(default_factory=dict)  # acknowledged and forgotten
    undead: set[str] = field(default_factory=set)  # deleted, and still there
    fixed: Container[str] = ()  # keys whose bytes never change
    arrived_late: set[str] = field(default_factory=set)
    late: list[tuple[float, str, bytes]] = field(default_factory=list)
    _given_up: trio.Event = field(default_factory=trio.Event)
    calm_since: float = 0.0
    troubled: bool = False
    wrong: list[str] = field(default_factory=list)  # what was asked of it and never may be
    former: dict[str, bytes] = field(default_factory=dict)  # of keys that may change: older bytes
    truce: bool = False

    def __post_init__(self) -> None:
        self.objects = MemoryObjects(self.name)
        seed = self.chance.randrange(1 << 30)
        self.faulty = FaultyStore(MemoryStore(self.objects), seed=seed)

    @property
    def faults(self) -> int:
        """How many requests met a fault."""
        return self.faulty.hits.total()

    def is_calm(self, since: float) -> bool:
        """Whether nothing goes wrong here now, and nothing did since then."""
        return not self.troubled and self.calm_since <= since

    def heal(self) -> None:
        """All is well again, but for what it has forgotten."""
        self.faulty.heal()
        self.troubled = False
        self.calm_since = trio.current_time()

    def remember(self, *, but: Container[str] = ()) -> None:
        """What it had acknowledged and forgotten shows up after all, but for these keys."""
        for key in self.undead:
            self.objects.remove(key)
        self.undead.clear()
        for key, data in list(self.lost.items()):
            if key in but:
                continue
            if key not in self.objects or key not in self.fixed:
                self.objects.write(key, data)
            del self.lost[key]

    def holds(self, key: str) -> bool:
        """Whether an object is there, or was taken and forgotten."""
        return key in self.objects or key in self.lost

    # --- what happens to it -------------------------------------------------------------------

    async def put(self, key: str, data: bytes) -> None:
        self._assert_same(key, data)
        try:
            await self.faulty.put(key, [data])
        except trio.Cancelled:
            if not self.chance.once_in(LATE_ONCE_IN):
                raise
            when = trio.current_time() + self.chance.random() * LATE_SECONDS
            self.late.append((when, key, data))
            self._given_up.set()
            raise
        if key not in self.objects or self.objects.read(key) != data:
            self.lost[key] = data
        else:
            self.lost.pop(key, None)
            self.undead.discard(key)

    def _assert_same(self, key: str, data: bytes) -> None:
        before = self.objects.read(key) if key in self.objects else data
        if before == data:
            return
        if key in self.fixed:
            self.wrong.append(f"{self.name}: {key} is put again, with other bytes")
            raise Wrong(self.wrong[-1])
        if self.chance.once_in(8) or key not in self.former:
            self.former[key] = before

    async def delete(self, key: str) -> None:
        await self.faulty.delete(key)
        self.lost.pop(key, None)
        if key in self.objects:
            self.undead.add(key)

    async def deliver_late(self) -> None:
        """What was given up arrives, for ever."""
        while True:
            with trio.move_on_at(min((one[0] for one in self.late), default=math.inf)):
                await self._given_up.wait()
            self._given_up = trio.Event()
            now = trio.current_time()
            arriving = [one for one in self.late if one[0] <= now]
            self.late = [one for one in self.late if one[0] > now]
            for _, key, data in arriving:
                self._assert_same(key, data)
                self.objects.write(key, data)
                self.arrived_late.add(key)
                self.trace.note(self.name, "late", key, len(data))


class Line:
    """The store of one account, as one daemon has it."""

    def __init__(self, cloud: Cloud, trace: Trace) -> None:
        self._cloud = cloud
        self._trace = trace
        self._truthful = MemoryStore(cloud.objects)
        self.is_cut = False

    @property
    def capabilities(self) -> Capabilities:
        return self._cloud.faulty.capabilities

    @property
    def place(self) -> str:
        return self._cloud.faulty.place

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        data = b"".join(pieces)
        await self._ask("put", key, _told(key, data), lambda: self._cloud.put(key, data))

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        data = b"".join(pieces)
        await self._ask(
            "create", key, _told(key, data), lambda: self._cloud.faulty.create(key, [data])
        )

    async def get(self, key: str) -> bytes:
        return await self._ask("get", key, "", lambda: self._reader.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._ask(
            "get_range",
            key,
            f"{start}+{length}",
            lambda: self._reader.get_range(key, start, length),
        )

    async def head(self, key: str) -> ObjectInfo:
        return await self._ask("head", key, "", lambda: self._reader.head(key))

    async def list_page(self, prefix: str, after: str) -> Page:
        return await self._ask(
            "list_page", prefix, after, lambda: self._reader.list_page(prefix, after)
        )

    async def delete(self, key: str) -> None:
        await self._ask("delete", key, "", lambda: self._cloud.delete(key))

    async def space(self) -> Space | None:
        return await self._ask("space", "", "", self._cloud.faulty.space)

    async def prepare(self) -> None:
        """There is nothing to make."""

    async def aclose(self) -> None:
        """Nothing to give back."""

    @property
    def _reader(self) -> MemoryStore | FaultyStore:
        return self._truthful if self._cloud.truce else self._cloud.faulty

    async def _ask(
        self, verb: str, key: str, told: str, job: Callable[[], Awaitable[Result]]
    ) -> Result:
        if self.is_cut:
            await trio.sleep_forever()
        trace, name = self._trace, self._cloud.name
        trace.requests += 1
        number = trace.requests
        trace.note(number, name, verb, key, told)
        try:
            answer = await job()
        except StoreError as error:
            trace.note(number, type(error).__name__)
            raise
        except trio.Cancelled:
            trace.note(number, "given up")
            raise
        trace.note(number, _told(key, answer) if isinstance(answer, bytes) else answer)
        return answer


def _told(key: str, data: bytes) -> str:
    """An object in the trace. Those of a header are of keys that their library draws by itself."""
    shown = "" if is_header_name(key) else xxhash.xxh3_64_hexdigest(data)
    return f"{len(data)} {shown}"


def copy_of(cloud: Cloud, seed: int) -> Cloud:
    """Another account with the same objects, and no faults."""
    copy = Cloud(cloud.name, cloud.provider, Trace(), Chance(seed, "copy"))
    for key in cloud.objects.keys("", "", 1 << 30):
        copy.objects.write(key, cloud.objects.read(key))
    return copy


def faults_met(clouds: Sequence[Cloud]) -> dict[FaultKind, int]:
    """How often each kind was met."""
    return {kind: sum(cloud.faulty.hits[kind] for cloud in clouds) for kind in FaultKind}
