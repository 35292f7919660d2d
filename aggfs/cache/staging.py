"""Sealed bytes on the local disk until the accounts have them.

Each staged thing (a stripe's ciphertext, a journal segment) is one slot file named by its id.
Slots are recycled: a released one is renamed to a free one and overwritten in place, which costs
half of what making files anew does. What lies in a slot checks itself (the codec's staging
format), so a torn write is noticed and its id is never used.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from aggfs.errors import Damaged

FREE_SLOTS = 8
Buffer = bytes | bytearray | memoryview


class Staging:
    """A directory of slots. `put` and `read` are for worker threads, the rest for the loop."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._lock = threading.Lock()
        self._sizes: dict[bytes, int] = {}
        self._free: list[Path] = []
        self._made = 0
        for path in directory.iterdir():
            if path.suffix == ".staged":
                self._sizes[bytes.fromhex(path.stem)] = path.stat().st_size
            else:
                path.unlink()

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
        return sum(self._sizes.values())

    def put(self, name: bytes, pieces: Sequence[Buffer]) -> None:
        """Make it durable. Raises OSError; nothing is staged under `name` then."""
        slot = self._slot()
        descriptor = os.open(slot, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = _write_all(descriptor, pieces)
            os.ftruncate(descriptor, size)
            os.fdatasync(descriptor)
        except OSError:
            slot.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        slot.rename(self._path(name))
        self._sync_directory()
        with self._lock:
            self._sizes[name] = size

    def _slot(self) -> Path:
        with self._lock:
            if self._free:
                return self._free.pop()
            self._made += 1
            return self._directory / f"{self._made}.free"

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, name: bytes) -> bytes:
        """The staged bytes. Raises `Damaged` when they are gone."""
        try:
            return self._path(name).read_bytes()
        except OSError as error:
            raise Damaged(f"a staged stripe cannot be read: {error.strerror}") from error

    def release(self, name: bytes) -> None:
        """It is in the accounts, and that is committed: the slot is free."""
        with self._lock:
            if self._sizes.pop(name, None) is None:
                return
            if len(self._free) >= FREE_SLOTS:
                self._path(name).unlink(missing_ok=True)
                return
            self._made += 1
            slot = self._directory / f"{self._made}.free"
            self._path(name).rename(slot)
            self._free.append(slot)


def _write_all(descriptor: int, pieces: Sequence[Buffer]) -> int:
    """Write the pieces one after the other from the start of the file; the total."""
    total = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while len(view):
            done = os.pwrite(descriptor, view, total)
            total += done
            view = view[done:]
    return total
