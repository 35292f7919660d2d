"""Sealed bytes on the local disk until the accounts have them.

Each staged thing (a stripe's ciphertext, a journal segment) is one slot file named by its id.
Slots are recycled: a released one is renamed to a free one and overwritten in place, which costs
half of what making files anew does. What lies in a slot checks itself (the codec's staging
format). A slot is overwritten only once its new name is on the disk: after a loss of power no
former name may stand over later bytes. A release that a crash undid shows in `names`, and the
caller, whose rows say that it is done, releases it again.
"""

import contextlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from aggfs.cache.unitfile import disk_refusal
from aggfs.disk import sync_directory
from aggfs.errors import Damaged

FREE_SLOTS = 8
PIECES_LIMIT = 1000  # what one pwritev takes, less some
Buffer = bytes | bytearray | memoryview


class Staging:
    """A directory of slots. `put` and `read` are for worker threads, the rest for the loop."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self._sizes: dict[bytes, int] = {}
        self._size_bytes = 0
        self._free: list[tuple[int, Path]] = []  # with their sizes
        self._released: list[tuple[int, Path]] = []  # renamed, but not yet on the disk
        self._made = 0
        for path in directory.iterdir():
            if path.suffix == ".staged":
                self._note(bytes.fromhex(path.stem), path.stat().st_size)
            else:
                path.unlink()

    def _note(self, name: bytes, size_bytes: int) -> None:
        self._sizes[name] = size_bytes
        self._size_bytes += size_bytes

    def _path(self, name: bytes) -> Path:
        return self._directory / f"{name.hex()}.staged"

    def __contains__(self, name: bytes) -> bool:
        return name in self._sizes

    def names(self) -> list[bytes]:
        """All that is staged."""
        return list(self._sizes)

    @property
    def size_bytes(self) -> int:
        """How many bytes are staged."""
        return self._size_bytes

    def put(self, name: bytes, pieces: Sequence[Buffer]) -> None:
        """Make it durable. Raises NoSpace, LocalDiskFailed; nothing is staged under `name` then."""
        views = [memoryview(piece).cast("B") for piece in pieces]
        size = sum(map(len, views))
        slot = self._slot(size)
        try:
            _overwrite(slot, views, size)
            slot.rename(self._path(name))
            self._sync_directory()
        except OSError as error:
            slot.unlink(missing_ok=True)
            self._path(name).unlink(missing_ok=True)
            raise disk_refusal(error) from error
        with self._lock:
            self._note(name, size)

    def _slot(self, size_bytes: int) -> Path:
        """The free slot whose size is nearest, so that segments do not cut stripes' slots."""
        with self._lock:
            if self._free:
                nearest = min(self._free, key=lambda slot: abs(slot[0] - size_bytes))
                self._free.remove(nearest)
                return nearest[1]
            return self._new_slot()

    def _new_slot(self) -> Path:
        self._made += 1
        return self._directory / f"{self._made}.free"

    def _sync_directory(self) -> None:
        """Make renames durable; what was released before that can be overwritten."""
        with self._lock:
            released, self._released = self._released, []
        sync_directory(self._directory)
        with self._lock:
            self._free += released

    def read(self, name: bytes) -> bytes:
        """The staged bytes. Raises `Damaged` when they are gone."""
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise Damaged(f"a staged stripe cannot be read: {error.strerror}") from error

    def release(self, name: bytes) -> None:
        """It is in the accounts, and that is committed: the slot is free. Raises nothing: what
        the disk refuses to rename shows again after a restart."""
        with self._lock, contextlib.suppress(OSError):
            size = self._sizes.pop(name, None)
            if size is None:
                return
            self._size_bytes -= size
            if len(self._free) + len(self._released) >= FREE_SLOTS:
                self._path(name).unlink()
                return
            slot = self._new_slot()
            self._path(name).rename(slot)
            self._released.append((size, slot))


def _overwrite(path: Path, views: list[memoryview], size_bytes: int) -> None:
    """Make the pieces the whole of the file, on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, views)
        os.ftruncate(descriptor, size_bytes)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, views: list[memoryview]) -> None:
    """Write the pieces one after the other from the start of the file."""
    at = 0
    while views:
        written = os.pwritev(descriptor, views[:PIECES_LIMIT], at)
        at += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if written:
            views[0] = views[0][written:]
