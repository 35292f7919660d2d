"""Blocking drivers made async: worker threads, limited per account, that can be abandoned.

A driver thread cannot be cancelled. When a caller gives up, the call is *abandoned*: the caller
goes on at once, the thread runs on to its own end (socket timeouts) and keeps its slot of the
limiter until then, so that a silent account can never tie up more threads than its slots. Reads
have slots of their own: uploads that hang cannot keep a reader waiting.

Buffers of a `put` are only *lent* to the thread. The loan ends when the caller's `put` returns or
raises, which may be while the thread still runs. A thread takes the bytes (copies them, or writes
them to a file that nobody sees yet) and asks `keep` afterwards: if the loan had ended by then,
what it took may be anything and must not be stored; if not, all of it was read before the caller
could touch it again. One flag, set by the caller and read by the thread, decides it; no lock.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import trio

from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space
from aggfs.threads import in_thread

Result = TypeVar("Result")

WRITE_SLOTS = 8
READ_SLOTS = 8


class LoanEnded(Exception):
    """The caller took its buffers back before they were wholly read. Nobody hears this."""


class Loan:
    """Buffers of a caller, readable until the caller's call ends."""

    __slots__ = ("_ended", "pieces")

    def __init__(self, pieces: Sequence[Buffer]) -> None:
        self.pieces = pieces
        self._ended = False

    def end(self) -> None:
        """The caller may reuse the buffers from now on."""
        self._ended = True

    def keep(self) -> None:
        """All that was read from the pieces before this call is good, else `LoanEnded`."""
        if self._ended:
            raise LoanEnded

    def joined(self) -> Buffer:
        """A copy of all the pieces in one buffer, or `LoanEnded`."""
        data = b"".join(self.pieces)
        self.keep()
        return data


class Driver(Protocol):
    """An account behind a blocking library, with the errors and promises of `Store`.

    Every method is called in a worker thread, several at a time, and must end by itself: all
    waiting on the network has a timeout. `put` and `create` get the whole object as one buffer.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def place(self) -> str: ...

    def put(self, key: str, data: Buffer) -> None: ...

    def create(self, key: str, data: Buffer) -> None: ...

    def get(self, key: str) -> bytes: ...

    def get_range(self, key: str, start: int, length: int) -> bytes: ...

    def head(self, key: str) -> ObjectInfo: ...

    def list_page(self, prefix: str, after: str) -> Page: ...

    def delete(self, key: str) -> None: ...

    def space(self) -> Space | None: ...

    def prepare(self) -> None: ...

    def close(self) -> None: ...


class Threads:
    """The worker threads of one account: slots for reads, and slots for all the rest."""

    def __init__(self, *, writes: int = WRITE_SLOTS, reads: int = READ_SLOTS) -> None:
        self._writes = trio.CapacityLimiter(writes)
        self._reads = trio.CapacityLimiter(reads)

    @property
    def busy(self) -> tuple[int, int]:
        """How many slots are taken now, abandoned calls included: (writes, reads)."""
        return int(self._writes.borrowed_tokens), int(self._reads.borrowed_tokens)

    async def read(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Run `job` in a slot for reads. May be cancelled at any time: the job runs on, unheard."""
        return await _run(job, *arguments, limiter=self._reads)

    async def write(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Run `job` in a slot for everything but reads. Cancelled as `read` is."""
        return await _run(job, *arguments, limiter=self._writes)

    async def lend(
        self, job: Callable[[str, Loan], None], key: str, pieces: Sequence[Buffer]
    ) -> None:
        """Run `job(key, loan)` in a slot for writes; the loan ends with this call, always."""
        loan = Loan(pieces)
        try:
            await _run(job, key, loan, limiter=self._writes)
        finally:
            loan.end()


class ThreadedStore:
    """A blocking driver as a `Store`: one worker hop for each call, every call abandonable."""

    def __init__(
        self, driver: Driver, *, writes: int = WRITE_SLOTS, reads: int = READ_SLOTS
    ) -> None:
        self._driver = driver
        self._threads = Threads(writes=writes, reads=reads)

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    @property
    def place(self) -> str:
        return self._driver.place

    @property
    def busy(self) -> tuple[int, int]:
        """How many slots are taken now, abandoned calls included: (writes, reads)."""
        return self._threads.busy

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled half way: the object is there, whole, or not; perhaps only later."""
        await self._threads.lend(self._put, key, pieces)

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled half way: as `put`."""
        await self._threads.lend(self._create, key, pieces)

    async def get(self, key: str) -> bytes:
        return await self._threads.read(self._driver.get, key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._threads.read(self._driver.get_range, key, start, length)

    async def head(self, key: str) -> ObjectInfo:
        return await self._threads.read(self._driver.head, key)

    async def list_page(self, prefix: str, after: str) -> Page:
        return await self._threads.write(self._driver.list_page, prefix, after)

    async def delete(self, key: str) -> None:
        """Cancelled half way: the object is gone, or not; perhaps only later."""
        await self._threads.write(self._driver.delete, key)

    async def space(self) -> Space | None:
        return await self._threads.write(self._driver.space)

    async def prepare(self) -> None:
        await self._threads.write(self._driver.prepare)

    async def aclose(self) -> None:
        """Closes the driver's connections. Calls still running end with errors of their own."""
        with trio.CancelScope(shield=True):
            await in_thread(self._driver.close)

    def _put(self, key: str, loan: Loan) -> None:
        self._driver.put(key, loan.joined())

    def _create(self, key: str, loan: Loan) -> None:
        self._driver.create(key, loan.joined())


async def _run(
    job: Callable[..., Result], *arguments: object, limiter: trio.CapacityLimiter
) -> Result:
    return await in_thread(job, *arguments, abandon_on_cancel=True, limiter=limiter)
