"""Namespaces over a database of their own, for tests of the tree as POSIX sees it."""

import random
from contextlib import contextmanager
from itertools import count

import trio

from aggfs.cache import outbox as outbox_table
from aggfs.cache import tree as tree_tables
from aggfs.cache.database import Database
from aggfs.cache.outbox import Outbox
from aggfs.cache.tree import LmdbTree
from aggfs.engine.names import attributes as attribute_tables
from aggfs.engine.names.namespace import Namespace
from aggfs.model import DeviceId, InodeRow
from aggfs.sync.clock import HybridClock
from aggfs.sync.merge import apply_batch
from aggfs.sync.order import ready
from aggfs.sync.tree import DictTree

START_NS = 1_800_000_000 * 10**9
TABLES = (*tree_tables.TABLES, *attribute_tables.TABLES, outbox_table.TABLE)


class World:
    """One device's namespace, its outbox, and what it has published."""

    def __init__(self, path: str, device: int = 1) -> None:
        self.path = path
        self.device = DeviceId(bytes([device]) * 8)
        self.published: list = []
        self.dropped: list[InodeRow] = []
        self._random = random.Random(device)
        self._times = count(START_NS, 1000)
        self._open()

    def _open(self) -> None:
        self.database = Database.open(self.path, tables=TABLES)
        self.tree = LmdbTree(self.database)
        self.outbox = Outbox(self.database)
        self.clock = HybridClock(self.device, max((s.clock for s, _ in self.entries()), default=0))
        self.namespace = Namespace(
            self.database,
            self.tree,
            self.outbox,
            self.clock,
            wall_ns=lambda: next(self._times),
            file_ns=lambda: next(self._times),
            random_bytes=self._random.randbytes,
            on_dropped=self.dropped.append,
        )

    def reopen(self) -> None:
        """Stop and start: everything was committed."""
        self.close()
        self._open()
        self.namespace.drop_orphans()

    def close(self) -> None:
        trio.run(self.database.close)

    def entries(self) -> list:
        """(stamp, entry) of all that was published or waits for it."""
        return self.published + [(row.stamp, row.entry) for _, row in self.outbox.rows()]

    def publish(self) -> list:
        """Publish what may be; no file has content that could keep it back."""
        chosen = ready(self.outbox.rows(), unflushed=lambda inode: False, stored=lambda c: True)
        for number, row in chosen:
            self.outbox.drop(number)
            self.namespace.published(row.entry)
            self.published.append((row.stamp, row.entry))
        return chosen

    def fold(self) -> DictTree:
        """What any other device will see, once everything is published."""
        tree = DictTree()
        apply_batch(tree, self.entries())
        return tree

    def fold_with(self, other: "World") -> DictTree:
        """The same, of two devices."""
        tree = self.fold()
        apply_batch(tree, other.entries())
        return tree


@contextmanager
def world(path, device: int = 1):
    """A world that is closed at the end."""
    made = World(str(path), device)
    try:
        yield made
    finally:
        made.close()
