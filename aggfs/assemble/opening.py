"""An existing volume: a configuration in, a running volume out. Knows every part."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path

import trio

from aggfs.assemble.accounts import OpenStore, open_account
from aggfs.assemble.features import FEATURES
from aggfs.assemble.world import THIS_WORLD, World
from aggfs.cache import blocks as block_tables
from aggfs.cache import outbox as outbox_table
from aggfs.cache import sums
from aggfs.cache import tree as tree_tables
from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.disk import disk_bytes, free_bytes
from aggfs.cache.files import SparseFiles, allow_descriptors
from aggfs.cache.outbox import Outbox
from aggfs.cache.staging import Staging
from aggfs.cache.tree import LmdbTree
from aggfs.coding.cipher import XtsUnit
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.slots import OpenedHeader
from aggfs.config import AccountConfig, Config, account_from
from aggfs.engine import accounts as account_tables
from aggfs.engine import pins as pin_table
from aggfs.engine import report
from aggfs.engine.accounts import Account, Accounts, Ledger
from aggfs.engine.care import dying, strays, upkeep
from aggfs.engine.care.foreign import ForeignBytes
from aggfs.engine.change import Changes, Surroundings
from aggfs.engine.journal import attend, publish
from aggfs.engine.journal.attend import Attendant
from aggfs.engine.journal.checkpoint import Checkpointer
from aggfs.engine.journal.publish import Publisher, Writer
from aggfs.engine.journal.segments import Sealer, Segments
from aggfs.engine.moves import movement
from aggfs.engine.names import attributes as attribute_tables
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.pace import Pace
from aggfs.engine.past import clone, undelete
from aggfs.engine.reading import openfiles as file_tables
from aggfs.engine.reading.fetch import Fetcher
from aggfs.engine.reading.files import Files
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.local import LocalCopies
from aggfs.engine.reading.neighbours import Neighbours
from aggfs.engine.reading.openfiles import OpenFiles
from aggfs.engine.reading.room import Bounds, Limits, Room, limits_on
from aggfs.engine.recovery.identity import Identity, keep_cache_form, load_header, save_header
from aggfs.engine.volume import Feature, Parts, Volume
from aggfs.engine.works import Works
from aggfs.engine.writing.capture import Capture
from aggfs.engine.writing.flush import Flusher
from aggfs.engine.writing.repair import Repairs
from aggfs.engine.writing.stripes import Policy, Stripes
from aggfs.model import (
    AccountEntry,
    Content,
    Member,
    PutStripe,
)
from aggfs.placement.plan import usable_free_bytes
from aggfs.stores.registry import open_store
from aggfs.sync.clock import HybridClock
from aggfs.sync.holes import Ranges
from aggfs.sync.merge import advance_cut
from aggfs.sync.order import ready
from aggfs.sync.retention import retention
from aggfs.threads import in_slices

PADDED_FREE = 15  # of 16 bytes of room; the last one is for padding
TABLES = (
    *account_tables.TABLES,
    *attend.TABLES,
    *block_tables.TABLES,
    *dying.TABLES,
    *file_tables.TABLES,
    *attribute_tables.TABLES,
    *clone.TABLES,
    *undelete.TABLES,
    *movement.TABLES,
    *publish.TABLES,
    *strays.TABLES,
    *pin_table.TABLES,
    *tree_tables.TABLES,
    *upkeep.TABLES,
    outbox_table.TABLE,
    sums.TABLE,
)


def open_volume(
    config: Config,
    state_directory: str,
    *,
    open_store: OpenStore = open_store,
    world: World = THIS_WORLD,
) -> Volume:
    """The volume, its local state open, nothing running yet. Needs no account to answer.
    `open_store` makes the bare store of each account; `world` gives time and chance.

    Raises `Busy` when another process has it open, `Damaged`, `BadConfig`, `WrongKey`.
    """
    state = Path(state_directory)
    identity = Identity.load(state)
    opened = load_header(state, identity)
    keys = VolumeKeys(opened.keyring, suite=opened.policy.suite)
    database = Database.open(str(state / "database"), tables=TABLES)
    try:
        keep_cache_form(state, encrypted=config.mount.cache_encryption)
        open_one = partial(open_account, open_store=open_store, world=world)
        return _Assembly(config, state, identity, opened, keys, database, open_one, world).volume()
    except BaseException:
        database.abandon()
        raise


class _Assembly:
    """The parts, made in the order in which they need each other."""

    def __init__(
        self,
        config: Config,
        state: Path,
        identity: Identity,
        opened: OpenedHeader,
        keys: VolumeKeys,
        database: Database,
        open_one: Callable[[AccountConfig], Account],
        world: World,
    ) -> None:
        self.config = config
        self.world = world
        self.open_account = open_one
        self.keys = keys
        self.identity = identity
        self.database = database
        self.opened = opened
        self.state = state
        self.policy = Policy(config.classes[0], config.fragments_per_provider)
        header = opened.policy  # knows what the configuration was not told
        self.policy.use(header.k, header.n, header.layout)
        self.tree = LmdbTree(database)
        self.outbox = Outbox(database)
        self.blocks = Blocks(database)
        self.staging = Staging(state / "staging")
        self.sparse_files = SparseFiles(str(state / "files"), database, Ranges)
        known = (one for one in config.accounts if not self._was_removed(one.id))
        self.accounts = Accounts(map(self.open_account, known), Ledger(database))
        self.clock = HybridClock(identity.device, self._last_clock())
        self.namespace = Namespace(
            database,
            self.tree,
            self.outbox,
            self.clock,
            wall_ns=self.world.wall_ns,
            file_ns=self.world.file_ns,
            random_bytes=self.world.random_bytes,
            on_dropped=lambda row: self.open_files.forget(row),
        )
        self.limits = self._limits()
        self.waited_for = Works()
        self.pace = Pace(self.waited_for)
        self.pace.bytes_per_second = self.limits.background_rate
        self.repairs = Repairs(keys, self.accounts, self.blocks, self.staging, turn=self.pace.turn)
        self.readers = Works()
        self.writers = Works()
        self.fetcher = Fetcher(
            keys,
            self.accounts,
            self.staging,
            on_damage=self.repairs.note,
            deadline_seconds=config.mount.read_deadline_seconds - 5,
            readers=self.readers,
        )
        self.neighbours = Neighbours(self.fetcher)
        filler = self.filler = Filler(
            self.neighbours, self.blocks, self.namespace.content_of, self.waited_for
        )
        self.open_files = OpenFiles(
            database,
            self.namespace,
            self.blocks,
            self.sparse_files,
            filler,
            cipher_of=self._cipher_of,
        )
        self.capture = Capture(
            self.open_files, self.namespace, self.blocks, filler, self.world.random_bytes
        )
        self.local = LocalCopies(
            database,
            self.open_files,
            self.namespace,
            self.blocks,
            self.sparse_files,
            filler,
            is_stored=lambda sid: self.stripes.is_stored(sid),
        )
        self.edits_limit = allow_descriptors() // 2
        room = self.room = Room(self._bounds, self._wait_for_progress)
        self.files = Files(
            database, self.namespace, self.blocks, self.open_files, filler, room, self.world.file_ns
        )
        self.stripes = self._stripes()
        self.writer = Writer(
            self.identity.device,
            self.clock,
            self.identity.sign,
            self.identity.verify,
            self.world.random_bytes,
            self.world.wall_ns,
        )
        self.publisher = self._publisher()
        self.checkpointer = Checkpointer(
            keys,
            self.writer,
            self.accounts,
            database,
            self.staging,
            self.publisher,
            self.policy.spreading,
        )

    def _was_removed(self, account: bytes) -> bool:
        """Whether an account left the volume, and the configuration does not know yet."""
        row = self.tree.control(b"a" + account)
        return row is not None and isinstance(row.entry, AccountEntry) and row.entry.removed

    def _last_clock(self) -> int:
        rows = self.outbox.rows()
        published = publish.last_clock(self.database)
        return max([published, *(row.stamp.clock for _, row in rows)])

    def _cipher_of(self, inode: bytes) -> XtsUnit | None:
        if not self.config.mount.cache_encryption:
            return None
        return XtsUnit(self.keys.local_key(b"cache" + inode))

    def _limits(self) -> Limits:
        mount = self.config.mount
        return limits_on(
            disk_bytes(self.state),
            staging=mount.staging_limit_bytes,
            cache=mount.cache_limit_bytes,
            minimum_free=mount.minimum_free_bytes,
            rate=mount.background_rate_bytes,
        )

    def _bounds(self) -> Bounds:
        used, states = self.policy.storage_class, self.accounts.states()
        free = usable_free_bytes(states, n=used.n, k=used.k, q=self.policy.per_provider)
        dirty = self.open_files.dirty_bytes
        limit = self.limits.staging_bytes
        cramped = self.database.low_on_space and not self.database.restore_headroom()
        if cramped or self.open_files.edited_count > self.edits_limit:
            limit = 0
        free = free * PADDED_FREE // 16
        spare = free_bytes(self.state) - self.limits.minimum_free_bytes
        return Bounds(free - dirty, limit - dirty - self.staging.size_bytes, spare)

    async def _wait_for_progress(self) -> None:
        self.capture.press()
        self.local.press()
        self.stripes.press()
        with trio.move_on_after(1.0):
            await self.stripes.wait_change()

    def _stripes(self) -> Stripes:
        return Stripes(
            self.keys,
            self.accounts,
            self.blocks,
            self.staging,
            self.database,
            self.policy,
            announce=lambda row: self._announce(PutStripe(row)),
        )

    def _announce(self, entry: PutStripe) -> None:
        self.namespace.add_control(entry)

    def _publisher(self) -> Publisher:
        return Publisher(
            self.keys,
            self.writer,
            self.accounts,
            self.database,
            self.outbox,
            self._segments(),
            vanishing=lambda: self.policy.spreading.vanishing,
            ready=lambda rows: ready(
                rows, unflushed=self.files.may_get_content, stored=self._is_stored
            ),
            on_published=self.namespace.published,
            on_floor=self._advance_cut,
        )

    def _segments(self) -> Segments:
        sealer = Sealer(self.identity.device, self.world.random_bytes)
        return Segments(
            self.keys, sealer, self.accounts, self.database, self.staging, self.policy.spreading
        )

    async def _advance_cut(self, floor: int) -> None:
        """With no other device, our floor is the cut: no move below it is ever taken back."""
        others = [
            row.entry
            for key, row in self.tree.control_under(b"m")
            if key[1:] != self.identity.device and isinstance(row.entry, Member)
        ]
        if all(member.lapsed_after is not None for member in others):
            await in_slices(advance_cut(self.tree, floor))

    def _is_stored(self, content: Content) -> bool:
        return all(self.stripes.is_stored(sid) for sid in {e.sid for e in content.extents})

    def volume(self) -> Volume:
        """The volume; what a crash left half done is tidied up."""
        self.stripes.discard_unknown(self.publisher.staged())
        self.namespace.drop_orphans()
        flusher = Flusher(
            self.keys,
            self.identity.device,
            self.capture,
            self.stripes,
            self.staging,
            compression=self.policy.storage_class.compression,
            staging_limit_bytes=self.limits.staging_bytes,
            writers=self.writers,
            random_bytes=self.world.random_bytes,
        )
        parts = Parts(
            name=self.config.name,
            keys=self.keys,
            wall_ns=self.world.wall_ns,
            random_bytes=self.world.random_bytes,
            database=self.database,
            outbox=self.outbox,
            tree=self.tree,
            blocks=self.blocks,
            staging=self.staging,
            sparse_files=self.sparse_files,
            accounts=self.accounts,
            policy=self.policy,
            namespace=self.namespace,
            fetcher=self.fetcher,
            neighbours=self.neighbours,
            filler=self.filler,
            files=self.files,
            open_files=self.open_files,
            local=self.local,
            stripes=self.stripes,
            repairs=self.repairs,
            room=self.room,
            flusher=flusher,
            publisher=self.publisher,
            checkpointer=self.checkpointer,
            readers=self.readers,
            writers=self.writers,
            history=retention(**asdict(self.config.history)),
            allow_complete_copy=self.opened.policy.allow_complete_copy,
            limits=self.limits,
            pace=self.pace,
            disk_free_bytes=partial(free_bytes, self.state),
            collect_after_seconds=self.config.mount.collect_after_seconds,
        )
        surroundings = Surroundings(
            open_account=lambda settings: self.open_account(account_from(settings)),
            keep_header=partial(save_header, self.state),
            random_bytes=self.world.random_bytes,
        )
        changes = Changes(self.opened, surroundings)
        attendant = Attendant(
            self.accounts,
            self.database,
            lambda: changes.header,
            self.world.random_bytes,
            look_back=self.publisher.look_back,
        )

        async def look(volume: Volume, arguments: Mapping[str, object]) -> dict[str, object]:
            """Ask all accounts, now: whether they are back, and whether they are what they were."""
            await attendant.look_closely()
            return await report.status(volume, arguments)

        volume = Volume(parts)
        volume.add(Feature(verbs=report.VERBS))
        volume.add(Feature(verbs=changes.verbs()))
        volume.add(Feature({"look": look}, {"attending to accounts": attendant.run}))
        volume.add(Feature(jobs={"measuring what is foreign": ForeignBytes(self.accounts).run}))
        for feature in FEATURES:
            volume.add(feature(volume))
        self.files.wait_for_accounts(
            volume.store,
            at_fsync=partial(volume.waits_at_fsync, self.config.mount.fsync),
            at_close=partial(volume.waits_at_close, self.config.mount.close),
        )
        return volume
