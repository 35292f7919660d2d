"""The local state's database: LMDB behind group commit, with reads that see what was just put.

Theory of operation. All puts happen on the trio loop, into the *current* generation, a dictionary
per table. The committer task takes the whole generation at once (so puts made between two awaits
are one LMDB transaction), lets ONE worker thread begin, put and commit (a write transaction is
bound to its thread), and meanwhile the loop fills the next generation. A read looks into the
current generation, then into the committing one, then into LMDB through a read transaction that
is kept open and renewed after each commit. It is used on the loop only, and nothing of it
survives an await: `scan` gives lists.

A commit that failed once is never tried again: what it held may be half on disk, and what the
kernel says after a failed fsync means nothing. From then on `durable` and `put` raise
LocalDiskFailed; reads go on. Only a full disk is met once, with the space of the head-room file:
the new transaction writes every page of the batch afresh, so nothing rests on the failed one.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import lmdb
import trio

from aggfs.cache.generation import Generation, write_changes
from aggfs.cache.headroom import Headroom
from aggfs.cache.overlay import Changes
from aggfs.cache.ownership import lock_alone
from aggfs.cache.table import Table
from aggfs.errors import Busy, Damaged, LocalDiskFailed
from aggfs.threads import in_thread

COMMIT_SECONDS = 0.05  # what nobody waits for: a commit costs a sync, whatever it holds
GENERATION_BYTES = 16 * 1024 * 1024
DATA_NAME = "data.mdb"
WARM_BYTES = 512 << 20
WARM_PIECE_BYTES = 1 << 20
MAP_BYTES = 256 * 1024 * 1024
HEADROOM_BYTES = 8 * 1024 * 1024

_ROW_COST_BYTES = 200  # what a change costs in memory beside its bytes
_NO_DATABASE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)


class Snapshot:
    """The tables as they were committed at one instant; nothing can be put."""

    def __init__(self, reader: Any, handles: dict[str, Any]) -> None:
        self._reader = reader
        self._handles = handles

    def table(self, name: str) -> Table:
        """One of the tables."""
        table = Table(self, name, self._handles[name], self._reader, lmdb.Error)
        table.refuse()
        return table

    def note(self, size_bytes: int) -> None:
        """There are no changes to be told of."""


class Database:
    """One LMDB environment, alone in its directory. Opened by `open`; see the module's text."""

    def __init__(
        self, environment: Any, handles: dict[str, Any], lock: int, headroom: Headroom
    ) -> None:
        self._environment = environment
        self._lock = lock
        self._headroom = headroom
        self._handles = handles
        self._page_bytes = environment.stat()["psize"]
        self._snapshots = 0
        self._snapshot_ended = trio.Event()
        self._reader = environment.begin()
        self._tables = {
            name: Table(self, name, handle, self._reader, lmdb.Error)
            for name, handle in handles.items()
        }
        self._current = Generation()
        self._committing: Generation | None = None
        self._failure: str | None = None
        self._running = False
        self._writing = trio.Lock()
        self._threads = trio.CapacityLimiter(1)

    @classmethod
    def open(
        cls,
        path: str,
        *,
        tables: Sequence[str],
        map_bytes: int = MAP_BYTES,
        headroom: Headroom | None = None,
    ) -> Self:
        """Open or create the database in directory `path`.

        Raises Busy when somebody has it open, Damaged when it is no database any more,
        LocalDiskFailed when the disk does not let us.
        """
        os.makedirs(path, mode=0o700, exist_ok=True)
        lock = lock_alone(path)
        try:
            file = os.path.join(path, DATA_NAME)
            while os.path.exists(file) and map_bytes < os.path.getsize(file) * 2:
                map_bytes *= 2
            environment = lmdb.open(
                path,
                map_size=map_bytes,
                max_dbs=len(tables),
                mode=0o600,
                sync=True,
                metasync=True,
                writemap=False,
                readahead=False,
                max_spare_txns=2,
            )
            environment.reader_check()
            handles = {name: environment.open_db(name.encode()) for name in tables}
            return cls(environment, handles, lock, headroom or Headroom(path, HEADROOM_BYTES))
        except _NO_DATABASE as error:
            os.close(lock)
            raise Damaged(f"the local database in {path} is damaged: {error}") from error
        except lmdb.Error as error:
            os.close(lock)
            raise LocalDiskFailed(f"the database in {path} cannot be opened: {error}") from error
        except BaseException:
            os.close(lock)
            raise

    def table(self, name: str) -> Table:
        """One of the tables given to `open`."""
        return self._tables[name]

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """What is committed now, whatever comes: for one worker at a time; entered and left on
        the loop. While it is open the map cannot grow: commits that need that wait for its end,
        so nothing within may wait for a commit."""
        reader = self._environment.begin()
        self._snapshots += 1
        try:
            yield Snapshot(reader, self._handles)
        finally:
            reader.abort()
            self._snapshots -= 1
            self._snapshot_ended.set()
            self._snapshot_ended = trio.Event()

    # --- changing -----------------------------------------------------------------------------

    def note(self, size_bytes: int) -> None:
        """A change of so many bytes was made in the current generation (tables call this)."""
        generation = self._current
        generation.size_bytes += size_bytes + _ROW_COST_BYTES
        if not generation.dirty:
            generation.dirty = True
            generation.changed.set()
        elif generation.size_bytes > GENERATION_BYTES:
            generation.urgent.set()

    def before_commit(self, key: object, action: Callable[[], None]) -> None:
        """Run `action` in the writer's thread before what was just put is committed, once per
        `key` and commit: the fdatasync of a file that a row is about to name. Its OSError is a
        failed commit."""
        self._current.before[key] = action
        self.note(0)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` on the loop once everything put until now is on disk; never if that
        fails. It must be quick and must not raise."""
        self._current.after.append(action)
        self.note(0)

    @property
    def crowded(self) -> bool:
        """Whether so much is uncommitted that callers should `throttle` before they put more."""
        return self._current.size_bytes > GENERATION_BYTES

    async def throttle(self) -> None:
        """Wait until there is room for more changes. Returns at once (with no checkpoint) when
        there is. Raises LocalDiskFailed. May be cancelled at any point."""
        self.assert_works()
        while self.crowded:
            await self._settled(self._current)

    async def durable(self) -> None:
        """Return when everything put before this call is on disk.

        Raises LocalDiskFailed, and for ever once a commit has failed. When cancelled, what was
        put is committed all the same, a little later.
        """
        generation = self._current if self._current.dirty else self._committing
        if generation is None and self._failure is None:
            await trio.lowlevel.checkpoint()
        elif generation is not None:
            await self._settled(generation)
        self.assert_works()

    async def _settled(self, generation: Generation) -> None:
        self.assert_works()
        generation.urgent.set()
        if not self._running:
            await self._commit()
        await generation.done.wait()
        self.assert_works()

    def assert_works(self) -> None:
        """Raise LocalDiskFailed once nothing is acknowledged any more."""
        if self._failure is not None:
            raise LocalDiskFailed(self._failure)

    @property
    def failure(self) -> str | None:
        """Why nothing is acknowledged any more, or None."""
        return self._failure

    def give_up(self, reason: str) -> None:
        """A file's sync failed: acknowledge nothing any more, as after a failed commit."""
        if self._failure is None:
            self._fail(self._current, reason)

    @property
    def low_on_space(self) -> bool:
        """Whether the head-room is used up: only what frees space should be accepted."""
        return not self._headroom.held

    def restore_headroom(self) -> bool:
        """Try to take the head-room again; whether it is held now. For who freed space."""
        return self._headroom.reserve()

    # --- committing ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit for ever: at once when `durable` waits, else 50 ms after the first change.

        When cancelled, commits what was put until then and ends.
        """
        self._running = True
        task_status.started()
        try:
            while True:
                await self._current.changed.wait()
                with trio.move_on_after(COMMIT_SECONDS):
                    await self._current.urgent.wait()
                await self._commit()
        finally:
            self._running = False
            await self._commit()

    def warm(self) -> None:
        """In a worker, after a start: bring the file into memory, as far as `WARM_BYTES` go. Reads
        are on the loop, and a page that is not in memory would let everybody wait for the disk."""
        piece = bytearray(WARM_PIECE_BYTES)
        path = os.path.join(self._environment.path(), DATA_NAME)
        with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
            for _ in range(WARM_BYTES // WARM_PIECE_BYTES):
                if not file.readinto(piece):
                    break

    async def _commit(self) -> None:
        """Write one generation. Not cancellable: it ends when the disk answers."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                generation, batch = self._take()
                if not generation.dirty:
                    return
                write = functools.partial(self._write, generation, batch)
                while True:
                    try:
                        await in_thread(write, limiter=self._threads)
                        break
                    except (lmdb.Error, OSError, LocalDiskFailed) as error:
                        while self._snapshots and isinstance(error, lmdb.MapFullError):
                            await self._snapshot_ended.wait()
                        if not self._relieve(error):
                            self._fail(generation, error)
                            return
                self._settle(generation)

    def commit_now(self) -> None:
        """Commit everything in this very thread: for tools without a running committer.

        Raises LocalDiskFailed; Busy while the committer is at work.
        """
        self.assert_works()
        if self._writing.locked():
            raise Busy("the committer of this database is at work")
        generation, batch = self._take()
        while generation.dirty:
            try:
                self._write(generation, batch)
                break
            except (lmdb.Error, OSError, LocalDiskFailed) as error:
                if not self._relieve(error):
                    self._fail(generation, error)
                    self.assert_works()
        self._settle(generation)

    def _take(self) -> tuple[Generation, list[tuple[Any, Changes]]]:
        generation = self._current
        if not generation.dirty or self._failure is not None:
            return Generation(), []
        self._current = Generation()
        self._committing = generation
        return generation, [table.take() for table in self._tables.values()]

    def _write(self, generation: Generation, batch: list[tuple[Any, Changes]]) -> None:
        """In the writer's thread: the whole transaction."""
        try:
            for action in generation.before.values():
                action()
        except OSError as error:  # never retried, whatever it says: see the module's text
            raise LocalDiskFailed(f"a file could not be synced: {error}") from error
        generation.before.clear()
        with self._environment.begin(write=True) as transaction:
            for handle, changes in batch:
                if changes:
                    write_changes(transaction, handle, changes)

    def _relieve(self, error: Exception) -> bool:
        """Whether the same batch may be tried again: the map was full, or the disk was."""
        if isinstance(error, lmdb.MapFullError):
            self._grow()
            return True
        if not isinstance(error, lmdb.Error):
            return False
        full = error.code in (errno.ENOSPC, errno.EDQUOT)
        if error.code == errno.EIO:  # what LMDB makes of a write cut short by a full disk
            full = self._headroom.needed()
        return full and self._headroom.release()

    def _grow_in_time(self) -> None:
        """Keep half of the map free, so that a commit hardly ever finds it full."""
        info = self._environment.info()
        used = (info["last_pgno"] + 1) * self._page_bytes
        if used * 2 > info["map_size"] and not self._snapshots:
            self._grow()

    def _grow(self) -> None:
        """Double the map. On the loop, with no write transaction: nobody else reads the map."""
        self._reader.abort()
        self._environment.set_mapsize(self._environment.info()["map_size"] * 2)
        self._renew(settled=False)

    def _renew(self, *, settled: bool) -> None:
        self._reader.abort()
        self._reader = self._environment.begin()
        for table in self._tables.values():
            table.renew(self._reader, settled=settled)

    def _settle(self, generation: Generation) -> None:
        if generation.dirty:
            self._renew(settled=True)
            self._grow_in_time()
            self._committing = None
            for action in generation.after:
                action()
        generation.done.set()

    def _fail(self, generation: Generation, reason: object) -> None:
        """Say so for ever. What was put stays visible, what comes is refused."""
        self._failure = f"the local disk failed, nothing more is acknowledged: {reason}"
        for table in self._tables.values():
            table.refuse()
        generation.done.set()
        self._current.done.set()

    def abandon(self) -> None:
        """Close without committing. `run` has ended, or was never begun."""
        self._reader.abort()
        self._environment.close()
        os.close(self._lock)

    async def close(self) -> None:
        """Commit what is left and close; `run` has ended. Raises LocalDiskFailed, closed too."""
        await self._commit()
        self.abandon()
        self.assert_works()
