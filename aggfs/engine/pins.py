"""Pins: files and directories whose contents are to be on this machine, now and later.

Theory of operation. A pin is a row on an inode; what lies below a pinned directory is pinned with
it, whatever comes and goes there. Eviction passes over what is pinned. A job looks again and again
for holes in pinned files and brings them: after a pin was set, after a restart, after local copies
were lost. What is here is known by the sparse files, so that nothing is fetched twice, whatever was
interrupted when.

Pins are this device's own and not in the journal: another device would not want them, and a
recovered one begins without.

Table `pins`, *only here*: inode -> u64, when it was pinned (nanoseconds since 1970).
"""

import logging
from collections.abc import Callable, Iterator
from stat import S_ISREG

import trio

from aggfs.cache.database import Database
from aggfs.cache.tree import LmdbTree
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.pace import Pace
from aggfs.engine.reading.local import LocalCopies
from aggfs.errors import AggfsError, LocalDiskFailed, NoEntry, NoSpace
from aggfs.model import ROOT, InodeRow
from aggfs.sync.view import place_of

TABLES = ("pins",)
LOOK_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 5.0
FILES_AT_ONCE = 16  # a look at a file that is not open takes half a millisecond
FAILURES_LIMIT = 3
logger = logging.getLogger(__name__)


class Pins:
    """The table above, and the job that follows from it. On the loop."""

    def __init__(
        self,
        database: Database,
        tree: LmdbTree,
        namespace: Namespace,
        local: LocalCopies,
        pace: Pace,
        *,
        wall_ns: Callable[[], int],
        room_bytes: Callable[[], int],
    ) -> None:
        """`room_bytes` is what may still be brought to the local disk."""
        self._table = database.table("pins")
        self._tree = tree
        self._namespace = namespace
        self._local = local
        self._pace = pace
        self._wall_ns = wall_ns
        self._room_bytes = room_bytes
        self._wake = trio.Event()
        self.trouble = ""  # what kept the last round from bringing everything

    # --- rows ---------------------------------------------------------------------------------

    def add(self, row: InodeRow) -> None:
        """Pin an inode."""
        if self._table.get(row.inode) is None:
            self._table.put(row.inode, self._wall_ns().to_bytes(8))
        self.look()

    def remove(self, row: InodeRow) -> None:
        """Raises `NoEntry` where the inode itself is not pinned."""
        if self._table.get(row.inode) is None:
            raise NoEntry("it is not pinned itself (`aggfs pin` lists what is)")
        self._table.delete(row.inode)

    def rows(self) -> Iterator[InodeRow]:
        """The pinned inodes that still have a name. Pins of others go."""
        for inode, _ in self._table.scan(b""):
            row = self._tree.inode(inode)
            if row is not None and (row.nlink or inode == ROOT):
                yield row
            else:
                self._table.delete(inode)

    def hold(self, inode: bytes) -> bool:
        """Whether an inode is pinned: itself, or a directory that one of its names is below."""
        if next(iter(self._table.scan(b"", limit=1)), None) is None:
            return False
        above, seen = [inode], set()
        while above:
            one = above.pop()
            if self._table.get(one) is not None:
                return True
            seen.add(one)
            places = {
                place_of(self._tree, link.was_parent)
                for link in self._tree.links_of(one)
                if link.shown
            }
            above += places - seen
        return False

    # --- bringing -----------------------------------------------------------------------------

    def look(self) -> None:
        """There may be something to bring."""
        self._wake.set()

    async def run(self) -> None:
        """Bring what is missing of pinned files, for ever; after a failure more and more rarely."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._wake = trio.Event()
            self.trouble = ""
            try:
                for row in list(self.rows()):
                    await self.bring_under(row)
            except LocalDiskFailed:
                raise
            except AggfsError as error:
                logger.info("pinned files are not all here: %s", error)
                self.trouble = str(error)
            pause = min(2 * pause, LOOK_SECONDS) if self.trouble else FIRST_PAUSE_SECONDS
            with trio.move_on_after(pause if self.trouble else LOOK_SECONDS):
                await self._wake.wait()

    async def bring_under(self, top: InodeRow) -> None:
        """Bring everything that is missing of an inode, or of all files below it. A file that
        cannot be had does not keep the next from coming.

        Raises the first failure at the end, or after some in a row; `NoSpace` at once. May be
        cancelled: what came stays.
        """
        failures: list[AggfsError] = []
        in_a_row = 0
        for count, number in enumerate(self._namespace.numbers_under(top.number)):
            if count % FILES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            try:
                missing = self._local.missing_bytes(number)
                if missing:
                    self._assert_room(missing)
                    await self._local.bring(number, self._pace.turn)
                in_a_row = 0
            except (NoSpace, LocalDiskFailed):
                raise
            except NoEntry:  # it went while we looked
                continue
            except AggfsError as error:
                failures.append(error)
                in_a_row += 1
                if in_a_row == FAILURES_LIMIT:
                    break
        if failures:
            raise failures[0]

    def _assert_room(self, size_bytes: int) -> None:
        if size_bytes > self._room_bytes():
            raise NoSpace("the local disk has no room beyond what is to stay free (minimum_free)")

    async def measure(self, top: InodeRow) -> tuple[int, int]:
        """(bytes, bytes that are not here) of an inode, or of all files below it."""
        size = missing = 0
        for count, number in enumerate(self._namespace.numbers_under(top.number)):
            if count % FILES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            try:
                row = self._namespace.by_number(number)
                if S_ISREG(row.mode):
                    size += row.size
                    missing += self._local.missing_bytes(number)
            except NoEntry:  # it went while we looked
                continue
        return size, missing
