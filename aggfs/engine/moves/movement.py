"""The one big movement that is under way: rebalancing, draining an account, coding anew.

A movement is a row in the database. Whoever asks for one puts the row; the background job carries
it out, goes on with it after a restart, and tries again when accounts do not answer. Its task
looks at each start at what there is to do, so that nothing but the row has to be remembered.

Table `movement`: b"job" -> `MovementRow`, the one under way, or the last; b"l" + account 8 ->
nothing: an account that is leaving.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec
import trio

from aggfs.cache.database import Database
from aggfs.engine.moves.move import Mover
from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError, Busy, LocalDiskFailed, StoreError, TooFewFragments, Unreachable

TABLES = ("movement",)
SETTLE_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 1.0
PAUSE_LIMIT_SECONDS = 60.0
RUNNING, DONE, STOPPED, FAILED = "running", "done", "stopped", "failed"
logger = logging.getLogger(__name__)

Answer = dict[str, object]
Arguments = Mapping[str, object]
Told = Callable[[int], None]


class MovementRow(msgspec.Struct, frozen=True, array_like=True):
    """A movement: what, how far, and how it ended. `wanted` are the arguments of its task."""

    kind: str
    wanted: dict[str, str | int]
    total_bytes: int
    moved_bytes: int = 0
    began_ns: int = 0
    state: str = RUNNING
    text: str = ""


class Task(Protocol):
    """One kind of movement."""

    async def survey(self, wanted: Mapping[str, str | int]) -> Answer:
        """What would be moved: `total_bytes`, and what else there is to say. Raises what forbids
        it, with the numbers."""

    async def run(self, wanted: Mapping[str, str | int], told: Told) -> None:
        """Do it, or what is left of it; `told` hears of bytes that were moved. May be cancelled,
        and is run again after an account did not answer."""

    async def undo(self, wanted: Mapping[str, str | int]) -> None:
        """It was stopped, or has failed: nothing is on its way any more."""


class Movement:
    """The movement of a volume. On the loop."""

    def __init__(self, volume: Volume, mover: Mover, tasks: Mapping[str, Task]) -> None:
        self._database: Database = volume.parts.database
        self._table = self._database.table("movement")
        self._wall_ns = volume.parts.wall_ns
        self._mover = mover
        self._usual_rate = mover.pace.bytes_per_second
        self._tasks = tasks
        self._wake = trio.Event()
        self._changed = trio.Event()
        self._scope: trio.CancelScope | None = None
        self._began = (0.0, 0)  # when this run began, and with how many bytes moved

    # --- the row ------------------------------------------------------------------------------

    @property
    def row(self) -> MovementRow | None:
        """The movement under way, or the last one."""
        value = self._table.get(b"job")
        return msgspec.msgpack.decode(value, type=MovementRow) if value else None

    def _put(self, row: MovementRow) -> None:
        self._table.put(b"job", msgspec.msgpack.encode(row))
        self._changed.set()
        self._changed = trio.Event()

    def figures(self) -> Answer | None:
        """What `status` says of it; None where there never was one."""
        row = self.row
        if row is None:
            return None
        return {
            "kind": row.kind,
            "wanted": row.wanted,
            "state": row.state,
            "total_bytes": max(row.total_bytes, row.moved_bytes),
            "moved_bytes": row.moved_bytes,
            "eta_seconds": self._eta_seconds(row),
            "text": row.text,
        }

    def _eta_seconds(self, row: MovementRow) -> float | None:
        began, moved_before = self._began
        moved = row.moved_bytes - moved_before
        if row.state != RUNNING or not began or moved <= 0:
            return None
        speed = moved / max(1e-3, trio.current_time() - began)
        return max(0, row.total_bytes - row.moved_bytes) / speed

    # --- verbs --------------------------------------------------------------------------------

    def verb(
        self, kind: str, wanted_of: Callable[[Arguments], dict[str, str | int]]
    ) -> Callable[[Volume, Arguments], Awaitable[Answer]]:
        """The verb that asks for a movement of this kind. With `dry_run` it only says what would
        be moved; with `wait` it answers at the end."""

        async def ask(volume: Volume, arguments: Arguments) -> Answer:
            del volume
            wanted = wanted_of(arguments)
            rate = arguments.get("rate")
            if isinstance(rate, int) and rate > 0:
                wanted["rate"] = rate
            if arguments.get("dry_run"):
                return await self._tasks[kind].survey(wanted)
            await self._start(kind, wanted)
            if arguments.get("wait"):
                return await self._ended()
            return self.figures() or {}

        return ask

    async def _start(self, kind: str, wanted: dict[str, str | int]) -> None:
        row = self.row
        if row is not None and row.state == RUNNING:
            if (row.kind, row.wanted) == (kind, wanted):
                return
            raise Busy(f"a {row.kind} is under way: wait for its end, or stop it first")
        survey = await self._tasks[kind].survey(wanted)
        total = survey["total_bytes"]
        assert isinstance(total, int)
        self._put(MovementRow(kind, wanted, total, began_ns=self._wall_ns()))
        await self._database.durable()
        self._wake.set()

    async def _ended(self) -> Answer:
        while (row := self.row) is not None and row.state == RUNNING:
            await self._changed.wait()
        if row is not None and row.state == FAILED:
            raise AggfsError(row.text)
        return self.figures() or {}

    async def report(self, volume: Volume, arguments: Arguments) -> Answer:
        """How far it is."""
        del volume, arguments
        return self.figures() or {}

    async def stop(self, volume: Volume, arguments: Arguments) -> Answer:
        """End it where it is. What was moved stays where it is now."""
        del volume, arguments
        row = self.row
        if row is not None and row.state == RUNNING:
            self._put(msgspec.structs.replace(row, state=STOPPED, text="it was stopped"))
            await self._database.durable()
            if self._scope is not None:
                self._scope.cancel()
            await self._tasks[row.kind].undo(row.wanted)
        return self.figures() or {}

    # --- carrying out -------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry out what is asked for, and settle what earlier runs left, for ever."""
        while True:
            row = self.row
            if row is not None and row.state == RUNNING:
                await self._carry_out(row)
            with trio.move_on_after(SETTLE_SECONDS):
                await self._wake.wait()
            self._wake = trio.Event()
            await self._settle()

    async def _settle(self) -> None:
        try:
            await self._mover.settle()
        except Unreachable as error:
            logger.info("copies that have moved are deleted later: %s", error)

    async def _carry_out(self, row: MovementRow) -> None:
        rate = row.wanted.get("rate", self._usual_rate)
        self._mover.pace.bytes_per_second = int(rate)
        self._began = trio.current_time(), row.moved_bytes
        with trio.CancelScope() as self._scope:
            pause = FIRST_PAUSE_SECONDS
            while True:
                try:
                    await self._tasks[row.kind].run(row.wanted, self._moved)
                    await self._mover.settle()
                    break
                except LocalDiskFailed:
                    raise
                except (StoreError, TooFewFragments) as error:
                    self._say(f"waiting: {error}")
                except AggfsError as error:
                    self._end(FAILED, str(error))
                    await self._tasks[row.kind].undo(row.wanted)
                    break
                await trio.sleep(pause)
                pause = min(2 * pause, PAUSE_LIMIT_SECONDS)
            self._end(DONE, "")
        self._scope = None
        await self._database.durable()

    def _moved(self, size_bytes: int) -> None:
        row = self.row
        if row is not None:
            moved = row.moved_bytes + size_bytes
            self._put(msgspec.structs.replace(row, moved_bytes=moved, text=""))

    def _say(self, text: str) -> None:
        row = self.row
        if row is not None:
            logger.info("%s: %s", row.kind, text)
            self._put(msgspec.structs.replace(row, text=text))

    def _end(self, state: str, text: str) -> None:
        row = self.row
        if row is not None and row.state == RUNNING:
            total = row.total_bytes if state == DONE else row.moved_bytes
            moved = total if state == DONE else row.moved_bytes
            self._put(msgspec.structs.replace(row, state=state, text=text, moved_bytes=moved))
