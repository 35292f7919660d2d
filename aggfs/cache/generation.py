"""One batch of the local database: what becomes durable together, and who waits for that."""

from collections.abc import Callable
from typing import Any

import trio

from aggfs.cache.framing import wrap
from aggfs.cache.overlay import Changes
from aggfs.errors import LocalDiskFailed


class RefusedChanges(Changes):
    """The current changes after a failed commit: they are read, and take nothing more."""

    __slots__ = ()

    def __setitem__(self, key: bytes, value: bytes | None) -> None:
        raise LocalDiskFailed("the local disk failed: the volume is read-only until a restart")


class Generation:
    """What happens before and after its commit, and the events around that.

    `changed`: something was put; `urgent`: somebody waits; `done`: it is on disk, or failed.
    """

    __slots__ = ("after", "before", "changed", "dirty", "done", "size_bytes", "urgent")

    def __init__(self) -> None:
        self.dirty = False
        self.size_bytes = 0
        self.before: dict[object, Callable[[], None]] = {}
        self.after: list[Callable[[], None]] = []
        self.changed = trio.Event()
        self.urgent = trio.Event()
        self.done = trio.Event()


def write_changes(transaction: Any, handle: Any, changes: Changes) -> None:
    """Bring the changes of one table into an LMDB transaction."""
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
