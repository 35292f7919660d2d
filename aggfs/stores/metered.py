"""Counting what an account is asked, and how long it takes: for `status`, and for hedging.

Latencies are kept per verb, since a whole fragment takes longer than a cell. A call cancelled
after it had lasted longer than the usual one counts as one of that length: the losers of hedged
reads are cancelled, and an account that always loses must not look fast.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from aggfs.errors import AlreadyThere, NotFound
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space, Store

VERBS = ("put", "create", "get", "get_range", "head", "list_page", "delete", "space")
SAMPLES = 64
SAMPLES_NEEDED = 8
WEIGHT = 0.1  # of the newest latency in the mean


@dataclass(frozen=True, slots=True)
class Figures:
    """What one verb did until now. Without enough answers there are no latencies.

    `answered` calls took `answered_seconds` together; `in_flight` are not over. `failed` counts
    calls that ended with an error other than `NotFound` and `AlreadyThere`, which are answers;
    `cancelled` those whose caller gave up.
    """

    requests: int
    answered: int
    answered_seconds: float
    in_flight: int
    failed: int
    cancelled: int
    sent_bytes: int
    received_bytes: int
    mean_seconds: float | None
    p95_seconds: float | None


class Meter:
    """The running figures of one verb. Pure: told the latencies."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.failed = 0
        self.cancelled = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self._answered = 0
        self._answered_seconds = 0.0
        self._mean: float | None = None
        self._recent: deque[float] = deque(maxlen=SAMPLES)
        self._p95: float | None = None

    def answered(self, seconds: float) -> None:
        """A call took this long."""
        self._answered += 1
        self._answered_seconds += seconds
        mean = self._mean
        self._mean = seconds if mean is None else mean + WEIGHT * (seconds - mean)
        self._recent.append(seconds)
        self._p95 = None

    def gave_up(self, seconds: float) -> None:
        """A caller waited this long, and no longer."""
        self.cancelled += 1
        if self._mean is None or seconds > self._mean:
            self.answered(seconds)

    @property
    def mean_seconds(self) -> float | None:
        """The latency to expect: newer calls weigh more."""
        return self._mean

    @property
    def p95_seconds(self) -> float | None:
        """What 95 % of the latest calls stayed below; None while there are too few."""
        if self._p95 is None and len(self._recent) >= SAMPLES_NEEDED:
            ordered = sorted(self._recent)
            self._p95 = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
        return self._p95

    def figures(self) -> Figures:
        """All of it as it is now."""
        return Figures(
            requests=self.requests,
            answered=self._answered,
            answered_seconds=self._answered_seconds,
            in_flight=self.in_flight,
            failed=self.failed,
            cancelled=self.cancelled,
            sent_bytes=self.sent_bytes,
            received_bytes=self.received_bytes,
            mean_seconds=self.mean_seconds,
            p95_seconds=self.p95_seconds,
        )


class MeteredStore:
    """A store that counts. It changes nothing of what the store within does."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = trio.current_time) -> None:
        self._store = store
        self._clock = clock
        self._meters = {verb: Meter() for verb in VERBS}

    @property
    def in_flight(self) -> int:
        """Calls that are not over."""
        return sum(meter.in_flight for meter in self._meters.values())

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def place(self) -> str:
        return self._store.place

    def figures(self) -> dict[str, Figures]:
        """What each verb did until now."""
        return {verb: meter.figures() for verb, meter in self._meters.items()}

    def mean_seconds(self, verb: str) -> float | None:
        """The latency to expect of a verb; None before its first answer."""
        return self._meters[verb].mean_seconds

    def p95_seconds(self, verb: str) -> float | None:
        """When a call of this verb is late; None while too few were seen."""
        return self._meters[verb].p95_seconds

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        with self._timed("put") as meter:
            await self._store.put(key, pieces)
            meter.sent_bytes += sum(map(_size_bytes, pieces))

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        with self._timed("create") as meter:
            await self._store.create(key, pieces)
            meter.sent_bytes += sum(map(_size_bytes, pieces))

    async def get(self, key: str) -> bytes:
        with self._timed("get") as meter:
            data = await self._store.get(key)
            meter.received_bytes += len(data)
            return data

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        with self._timed("get_range") as meter:
            data = await self._store.get_range(key, start, length)
            meter.received_bytes += len(data)
            return data

    async def head(self, key: str) -> ObjectInfo:
        with self._timed("head"):
            return await self._store.head(key)

    async def list_page(self, prefix: str, after: str) -> Page:
        with self._timed("list_page"):
            return await self._store.list_page(prefix, after)

    async def delete(self, key: str) -> None:
        with self._timed("delete"):
            await self._store.delete(key)

    async def space(self) -> Space | None:
        with self._timed("space"):
            return await self._store.space()

    async def prepare(self) -> None:
        await self._store.prepare()

    async def aclose(self) -> None:
        await self._store.aclose()

    @contextmanager
    def _timed(self, verb: str) -> Iterator[Meter]:
        meter = self._meters[verb]
        meter.requests += 1
        meter.in_flight += 1
        began = self._clock()
        try:
            yield meter
        except (NotFound, AlreadyThere):
            meter.answered(self._clock() - began)
            raise
        except trio.Cancelled:
            meter.gave_up(self._clock() - began)
            raise
        except BaseException:
            meter.failed += 1
            raise
        else:
            meter.answered(self._clock() - began)
        finally:
            meter.in_flight -= 1


def _size_bytes(piece: Buffer) -> int:
    return piece.nbytes if isinstance(piece, memoryview) else len(piece)
