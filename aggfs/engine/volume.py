"""A running volume: owns its parts, their tasks, and the verbs that commands ask of it."""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.outbox import Outbox
from aggfs.cache.staging import Staging
from aggfs.cache.tree import LmdbTree
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.accounts import Accounts
from aggfs.engine.jobs import Job, Jobs
from aggfs.engine.journal.checkpoint import Checkpointer
from aggfs.engine.journal.publish import Publisher
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.pace import Pace
from aggfs.engine.reading.fetch import Fetcher
from aggfs.engine.reading.files import Files
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.local import LocalCopies
from aggfs.engine.reading.neighbours import Neighbours
from aggfs.engine.reading.openfiles import OpenFiles
from aggfs.engine.reading.room import Limits, Room, Turns
from aggfs.engine.works import Works
from aggfs.engine.writing.flush import Flusher
from aggfs.engine.writing.repair import Repairs
from aggfs.engine.writing.stripes import Policy, Stripes
from aggfs.errors import AggfsError, LocalDiskFailed, NoEntry, Unreachable
from aggfs.model import BLOCK_BYTES, FSYNC_XATTR, InodeRow
from aggfs.placement.plan import usable_bytes, usable_free_bytes
from aggfs.sync.retention import Retention
from aggfs.threads import in_thread

SPACE_SECONDS = 60.0
DELETE_SECONDS = 5.0
FLUSH_RETRY_SECONDS = 0.5
FLUSH_TRIES = 3
STATFS_SECONDS = 1.0
SWEPT_ROWS = 200
logger = logging.getLogger(__name__)

Verb = Callable[["Volume", Mapping[str, object]], Awaitable[dict[str, object]]]


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a volume is made of; `aggfs.assemble` puts it together."""

    name: str
    keys: VolumeKeys
    wall_ns: Callable[[], int]
    random_bytes: Callable[[int], bytes]
    database: Database
    outbox: Outbox
    tree: LmdbTree
    blocks: Blocks
    staging: Staging
    sparse_files: SparseFiles
    accounts: Accounts
    policy: Policy
    namespace: Namespace
    fetcher: Fetcher
    neighbours: Neighbours
    filler: Filler
    files: Files
    open_files: OpenFiles
    local: LocalCopies
    stripes: Stripes
    repairs: Repairs
    room: Room
    flusher: Flusher
    publisher: Publisher
    checkpointer: Checkpointer
    readers: Works
    writers: Works
    history: Retention
    allow_complete_copy: bool
    limits: Limits
    pace: Pace
    disk_free_bytes: Callable[[], int]
    collect_after_seconds: int


@dataclass(frozen=True, slots=True)
class Feature:
    """What commands may ask of a volume, and what runs in its background, each by its name.
    `status` shows its `figures` by their names, and its `warnings`; `reclaimable_bytes` count as
    free in `df`: they are given up where room is needed."""

    verbs: Mapping[str, Verb] = field(default_factory=dict)
    jobs: Mapping[str, Job] = field(default_factory=dict)
    figures: Mapping[str, Callable[[], object]] = field(default_factory=dict)
    warnings: Callable[[], Iterable[str]] = tuple
    reclaimable_bytes: Callable[[], int] = int


class Kernel(Protocol):
    """Who remembers names and pages, and must hear of what it did not do itself."""

    async def inode_changed(self, number: int, *, attributes_only: bool) -> None: ...
    async def name_changed(self, parent: int, name: bytes) -> None: ...


class Volume:
    """See `Parts`. Everything else is a `Feature`."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.namespace = parts.namespace
        self.files = parts.files
        self._verbs: dict[str, Verb] = {}
        self._more_jobs: dict[str, Job] = {}
        self._figures: dict[str, Callable[[], object]] = {}
        self._warnings: list[Callable[[], Iterable[str]]] = []
        self._reclaimable: list[Callable[[], int]] = []
        self._uploads: trio.Nursery | None = None
        self.jobs = Jobs(on_disk_failure=parts.database.give_up)
        self._turns = Turns(parts.outbox.__len__, parts.outbox.wait_dropped)
        self._statfs: tuple[float, tuple[int, int, int]] | None = None
        self._kernel: Kernel | None = None
        self._delay = ""  # why the last publishing for a flush came to nothing

    def add(self, feature: Feature) -> None:
        """Before `run`."""
        self._verbs.update(feature.verbs)
        self._more_jobs.update(feature.jobs)
        self._figures.update(feature.figures)
        self._warnings.append(feature.warnings)
        self._reclaimable.append(feature.reclaimable_bytes)

    def figures(self) -> dict[str, object]:
        """What the features have to say in the status."""
        return {name: figure() for name, figure in self._figures.items()}

    def warnings(self) -> list[str]:
        """What the features warn of."""
        return [text for warnings in self._warnings for text in warnings()]

    def watched_by(self, kernel: Kernel) -> None:
        """The volume is mounted, and runs: tell the kernel what changes that it did not do. And
        requests will come now: what they ask for is brought into memory."""
        self._kernel = kernel
        if self._uploads is not None:
            warm = partial(in_thread, self.parts.database.warm, abandon_on_cancel=True)
            self._uploads.start_soon(warm)

    async def tell_content(self, number: int) -> None:
        """A file's content is another, or is about to be: pages that programs wrote come first.
        Never from a request of the kernel."""
        if self._kernel is not None:
            await self._kernel.inode_changed(number, attributes_only=False)

    async def tell_name(self, parent: int, name: bytes) -> None:
        """A name of a directory means another inode, or none. Never from a request of the
        kernel."""
        if self._kernel is not None:
            await self._kernel.name_changed(parent, name)
            await self._kernel.inode_changed(parent, attributes_only=True)

    # --- life ---------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled; then make everything that was told durable, and end."""
        parts = self.parts
        try:
            async with trio.open_nursery() as ground:
                await ground.start(parts.database.run)
                try:
                    async with trio.open_nursery() as nursery:
                        self._uploads = nursery
                        flusher = partial(parts.flusher.run, nursery)
                        nursery.start_soon(self.jobs.keep, "uploading", parts.stripes.run)
                        nursery.start_soon(self.jobs.keep, "flushing", flusher)
                        nursery.start_soon(self.jobs.keep, "reading ahead", parts.filler.run)
                        nursery.start_soon(self.jobs.keep, "repair", parts.repairs.run)
                        nursery.start_soon(self.jobs.keep, "publishing", parts.publisher.run)
                        nursery.start_soon(self.jobs.keep, "checkpoints", parts.checkpointer.run)
                        nursery.start_soon(self.jobs.keep, "tidying", self._tidy)
                        nursery.start_soon(self.jobs.keep, "deleting", self._delete)
                        for name, job in self._more_jobs.items():
                            nursery.start_soon(self.jobs.keep, name, job)
                        task_status.started()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._settle()
                        ground.cancel_scope.cancel()
        finally:
            try:
                await parts.database.close()
            except LocalDiskFailed as error:
                logger.error("the local state was closed as it was: %s", error)

    async def _settle(self) -> None:
        """The last steps: edits and rows onto the disk, connections given back."""
        for file in self.parts.open_files.edited():
            try:
                await self.files.fsync(file.number)
            except AggfsError as error:
                logger.error("file %d could not be made durable: %s", file.number, error)
        try:
            await self.parts.database.durable()
        except AggfsError as error:
            logger.error("the local state could not be made durable: %s", error)
        self.parts.open_files.close()
        for account in self.parts.accounts:
            await account.store.aclose()

    async def _tidy(self) -> None:
        """Now and then: ask accounts that can tell how much room they have."""
        await self.parts.accounts.prepare()
        while True:
            await self.parts.accounts.ask_space()
            while self.parts.sparse_files.sweep(SWEPT_ROWS):
                await self.parts.database.durable()
            await trio.sleep(SPACE_SECONDS)

    async def _delete(self) -> None:
        """Give back the local room of files that are gone, also of those of the last run."""
        await self.parts.open_files.remove_unknown()
        while True:
            await in_thread(self.parts.sparse_files.purge)
            await trio.sleep(DELETE_SECONDS)

    # --- what the mount asks ------------------------------------------------------------------

    async def turn(self, *, adds: bool) -> None:
        """Return when a change of names may be made, one that adds something or not. Raises
        `NoSpace` where too many wait."""
        await self._turns.turn(adds=adds)

    def statfs(self) -> tuple[int, int, int]:
        """Usable bytes in total, bytes free, number of files; a second old at most."""
        now = trio.current_time()
        if self._statfs is None or now - self._statfs[0] > STATFS_SECONDS:
            self._statfs = (now, self._measure())
        return self._statfs[1]

    def _measure(self) -> tuple[int, int, int]:
        policy, states = self.parts.policy, self.parts.accounts.states()
        used = policy.storage_class
        total = usable_bytes(states, n=used.n, k=used.k, q=policy.per_provider)
        free = usable_free_bytes(states, n=used.n, k=used.k, q=policy.per_provider)
        waiting = self.parts.open_files.dirty_bytes
        free += sum(reclaimable() for reclaimable in self._reclaimable)
        return total, min(total, max(0, free - waiting)), self.namespace.inode_count

    def xattr(self, number: int, name: bytes) -> bytes | None:
        """`user.aggfs.*`: state, version, accounts."""
        row = self.namespace.by_number(number)
        match name:
            case b"user.aggfs.state":
                return self.state_of(row).encode()
            case b"user.aggfs.version":
                return row.heads[0].hex().encode() if row.heads else b""
            case b"user.aggfs.accounts":
                return ",".join(self._accounts_of(row)).encode()
            case _:
                return None

    def state_of(self, row: InodeRow) -> str:
        """dirty, staged, stored or full: how far the content of a file has come."""
        if self.files.is_dirty(row.number):
            return "dirty"
        states = [self.parts.blocks.stripe(sid) for sid in self.sids_of(row)]
        if any(state is None for state in states):
            return "lost"
        known = [state for state in states if state is not None]
        if not all(self.parts.stripes.is_stored(state.row.sid) for state in known):
            return "staged"
        if self.namespace.is_waiting(row.inode):
            return "staged"
        return "full" if all(state.full for state in known) else "stored"

    def sids_of(self, row: InodeRow) -> list[bytes]:
        """The stripes that hold a file's content."""
        extents = self.parts.blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES))
        return sorted({extent.sid for extent in extents})

    def _accounts_of(self, row: InodeRow) -> list[str]:
        found: set[str] = set()
        for sid in self.sids_of(row):
            state = self.parts.blocks.stripe(sid)
            for place in state.row.places if state else ():
                account = self.parts.accounts.get(place)
                if account is not None:
                    found.add(account.name)
        return sorted(found)

    # --- what commands ask --------------------------------------------------------------------

    async def control(self, verb: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """The answer to a verb. Raises `NoEntry` for one that does not exist."""
        if verb == "flush":
            return await self.flush(self.row_at(arguments) if "path" in arguments else None)
        found = self._verbs.get(verb)
        if found is None:
            raise NoEntry(f"this daemon knows no verb {verb!r}")
        return await found(self, arguments)

    def row_at(self, arguments: Mapping[str, object]) -> InodeRow:
        """The inode that the argument `path` names."""
        path = str(arguments.get("path") or "/")
        return self.namespace.resolve(path.encode(errors="surrogateescape"))

    async def flush(self, row: InodeRow | None) -> dict[str, object]:
        """Bring one file or tree, or everything, as it is now into the accounts; returns when
        that is published, whoever writes on meanwhile.

        The caller sets the deadline. Raises what keeps it from getting there for good.
        """
        wanted = None if row is None else set(self.namespace.numbers_under(row.number))
        await self.stage(wanted)
        self.files.wait_for_none()
        until = self.namespace.next_outbox_sequence()
        while True:
            await self.parts.stripes.wait_settled()  # then one segment names all of it
            if await self._publish() and not self.namespace.waiting(wanted, until):
                break
            await self._wait_a_little()
        await self.parts.stripes.wait_settled()
        await self._forget_marks(wanted)
        return {}

    async def _forget_marks(self, wanted: set[int] | None) -> None:
        """After a loss of power, what has just been stored must not be taken for edited: the
        marks of former edits would come back, and their bytes instead of newer ones."""
        try:
            await in_thread(self.parts.sparse_files.sync_marks)
            for file in self.parts.open_files.edited():
                if wanted is None or file.number in wanted:
                    await in_thread(file.sparse.sync)
        except LocalDiskFailed as error:
            self.parts.database.give_up(str(error))
            raise

    async def stage(self, wanted: set[int] | None) -> None:
        """Bring edits of now, of these files or of all, into stripes and the outbox: each is a
        version then. Asks no account. Raises what keeps it from getting there for good."""
        if self._uploads is None:
            raise Unreachable("the volume is not running")
        failures = 0
        left = set(self._unflushed(wanted))
        while left:
            left -= await self.parts.flusher.flush(sorted(left), self._uploads)
            left &= set(self._unflushed(wanted))
            if left:
                failures += self._raise_failure(left, failures)
                await self._wait_a_little()

    async def store(self, number: int) -> None:
        """Bring one file into the accounts; returns when it is published."""
        await self.flush(self.namespace.by_number(number))

    def is_in_accounts(self, number: int) -> bool:
        """Whether nothing of a file waits to be brought into the accounts, by whomever, and nothing
        of the journal, which may name it."""
        stored = self.state_of(self.namespace.by_number(number)) in ("stored", "full")
        return stored and self.parts.publisher.is_known

    def waits_at_fsync(self, option: str, number: int) -> bool:
        """Whether fsync of this file is to bring it into the accounts, and has to: by its own
        attribute `user.aggfs.fsync`, else by that of the nearest directory above it that has one,
        else by the option of the mount."""
        set_here = self.namespace.nearest_xattr(number, FSYNC_XATTR)
        wish = option.encode() if set_here is None else set_here
        return wish == b"cloud" and not self.is_in_accounts(number)

    def waits_at_close(self, option: str, number: int) -> bool:
        """Whether close of this file is to bring it into the accounts, and has to."""
        return option == "cloud" and not self.is_in_accounts(number)

    def _raise_failure(self, numbers: Collection[int], before: int) -> bool:
        """Whether one of these files could not be sent out; raises its error after some times."""
        for file in self.parts.open_files.failing():
            if file.number in numbers and file.error is not None:
                if before >= FLUSH_TRIES:
                    raise file.error
                return True
        return False

    def _unflushed(self, wanted: set[int] | None) -> list[int]:
        numbers = [file.number for file in self.parts.open_files.edited()]
        return [number for number in numbers if wanted is None or number in wanted]

    async def _publish(self) -> bool:
        """Whether all that could be published is in the accounts: an entry that has left the
        outbox may still wait, in a segment that too few accounts took."""
        before, self._delay = self._delay, ""
        try:
            await self.parts.publisher.publish()
        except Unreachable as error:
            self._delay = str(error)
            if self._delay != before:  # it is tried twice a second
                logger.info("publishing is delayed: %s", error)
        return not self._delay

    async def _wait_a_little(self) -> None:
        with trio.move_on_after(FLUSH_RETRY_SECONDS):
            await self.parts.stripes.wait_change()
