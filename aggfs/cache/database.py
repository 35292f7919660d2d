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

import errno
import functools
import os
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Self

import lmdb
import trio

from aggfs.cache.framing import unwrap, wrap
from aggfs.cache.generation import Generation, RefusedChanges
from aggfs.cache.headroom import Headroom
from aggfs.cache.overlay import Changes, end_of, merged_down, merged_up, window
from aggfs.cache.ownership import lock_alone
from aggfs.errors import Busy, Damaged, LocalDiskFailed

KEY_BYTES = 511
COMMIT_SECONDS = 0.005
GENERATION_BYTES = 16 * 1024 * 1024
MAP_BYTES = 256 * 1024 * 1024
HEADROOM_BYTES = 8 * 1024 * 1024

_ROW_COST_BYTES = 200  # what a change costs in memory beside its bytes
_ABSENT: Any = object()
_NOTHING = Changes()
_NO_DATABASE = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
)


class Table:
    """One table: bytes to bytes, in key order. On the loop only. A damaged row raises Damaged."""

    __slots__ = ("_committing", "_current", "_database", "_handle", "_name", "_reader")

    def __init__(self, database: "Database", name: str, handle: Any, reader: Any) -> None:
        self._database = database
        self._name = name
        self._handle = handle
        self._reader = reader
        self._current = Changes()
        self._committing = _NOTHING

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        value = self._current.get(key, _ABSENT)
        if value is _ABSENT:
            value = self._committing.get(key, _ABSENT)
            if value is _ABSENT:
                return self._stored(key)
        return value  # type: ignore[no-any-return]  # the marker of absence is Any

    def put(self, key: bytes, value: bytes) -> None:
        """Set it. Durable together with everything else put before the next await."""
        if not 0 < len(key) <= KEY_BYTES:
            raise ValueError(f"a key has 1 to {KEY_BYTES} bytes, not {len(key)}")
        self._current[key] = value
        self._database.note(len(key) + len(value))

    def delete(self, key: bytes) -> None:
        """Forget the key, if it is there."""
        if not 0 < len(key) <= KEY_BYTES:
            raise ValueError(f"a key has 1 to {KEY_BYTES} bytes, not {len(key)}")
        self._current[key] = None
        self._database.note(len(key))

    def scan(
        self, prefix: bytes, after: bytes | None = None, *, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` rows whose keys start with `prefix` and are above `after`, in order."""
        start = prefix if after is None else max(prefix, after + b"\0")
        names = window(self._committing, self._current, start, end_of(prefix))
        rows: list[tuple[bytes, bytes]] = []
        if limit is not None and limit <= 0:
            return rows
        try:
            with self._reader.cursor(self._handle) as cursor:
                stored = cursor.iternext() if cursor.set_range(start) else ()
                inside = takewhile(lambda row: row[0].startswith(prefix), stored)
                for key, raw in merged_up(names, inside):
                    value = self._shown(key, raw)
                    if value is not None:
                        rows.append((key, value))
                        if len(rows) == limit:
                            break
        except lmdb.Error as error:
            raise self._damaged(error) from error
        return rows

    def last(self, prefix: bytes, at_most: bytes | None = None) -> tuple[bytes, bytes] | None:
        """The row with the largest key that starts with `prefix` and is not above `at_most`."""
        stop = end_of(prefix)
        if at_most is not None and (stop is None or at_most < stop):
            stop = at_most + b"\0"
        names = window(self._committing, self._current, prefix, stop)
        try:
            with self._reader.cursor(self._handle) as cursor:
                beyond = stop is not None and cursor.set_range(stop)
                placed = cursor.prev() if beyond else cursor.last()
                stored = cursor.iterprev() if placed else ()
                inside = takewhile(lambda row: row[0].startswith(prefix), stored)
                for key, raw in merged_down(names, inside):
                    value = self._shown(key, raw)
                    if value is not None:
                        return key, value
        except lmdb.Error as error:
            raise self._damaged(error) from error
        return None

    def _shown(self, key: bytes, raw: bytes | None) -> bytes | None:
        if raw is not None:
            return unwrap(self._name, key, raw)
        value = self._current.get(key, _ABSENT)
        return self._committing[key] if value is _ABSENT else value

    def _stored(self, key: bytes) -> bytes | None:
        try:
            raw = self._reader.get(key, None, self._handle)
        except lmdb.Error as error:
            raise self._damaged(error) from error
        return None if raw is None else unwrap(self._name, key, raw)

    def _damaged(self, error: lmdb.Error) -> Damaged:
        return Damaged(f"the local database cannot be read (table {self._name}): {error}")

    # --- for the database ---

    def take(self) -> tuple[Any, Changes]:
        """The current changes become the committing ones."""
        self._committing, self._current = self._current, Changes()
        return self._handle, self._committing

    def renew(self, reader: Any, *, settled: bool) -> None:
        """Read through this transaction from now on; `settled`: it has the committing changes."""
        self._reader = reader
        if settled:
            self._committing = _NOTHING

    def refuse(self) -> None:
        """Take no change any more."""
        frozen = RefusedChanges()
        frozen.update(self._current)
        self._current = frozen


class Database:
    """One LMDB environment, alone in its directory. Opened by `open`; see the module's text."""

    def __init__(
        self, environment: Any, handles: dict[str, Any], lock: int, headroom: Headroom
    ) -> None:
        self._environment = environment
        self._lock = lock
        self._headroom = headroom
        self._reader = environment.begin()
        self._tables = {
            name: Table(self, name, handle, self._reader) for name, handle in handles.items()
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
            file = os.path.join(path, "data.mdb")
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
        self._assert_works()

    async def _settled(self, generation: Generation) -> None:
        self._assert_works()
        generation.urgent.set()
        if not self._running:
            await self._commit()
        await generation.done.wait()
        self._assert_works()

    def _assert_works(self) -> None:
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
        """Commit for ever: at once when `durable` waits, else 5 ms after the first change.

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
                        await trio.to_thread.run_sync(write, limiter=self._threads)
                        break
                    except (lmdb.Error, OSError, LocalDiskFailed) as error:
                        if not self._relieve(error):
                            self._fail(generation, error)
                            return
                self._settle(generation)

    def commit_now(self) -> None:
        """Commit everything in this very thread: for tools without a running committer.

        Raises LocalDiskFailed; Busy while the committer is at work.
        """
        self._assert_works()
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
                    self._assert_works()
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
                    _put_all(transaction, handle, changes)

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
        """Close without committing: the volume could not be opened. `run` was never begun."""
        self._reader.abort()
        self._environment.close()
        os.close(self._lock)

    async def close(self) -> None:
        """Commit what is left and close; `run` has ended. Raises LocalDiskFailed, closed too."""
        await self._commit()
        self._reader.abort()
        self._environment.close()
        os.close(self._lock)
        self._assert_works()


def _put_all(transaction: Any, handle: Any, changes: Changes) -> None:
    rows = []
    for key in changes.names():
        value = changes[key]
        if value is None:
            transaction.delete(key, db=handle)
        else:
            rows.append((key, wrap(key, value)))
    if rows:
        with transaction.cursor(handle) as cursor:
            cursor.putmulti(rows)
