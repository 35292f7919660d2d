"""The dirty marks of one sparse file: a log beside it, written before the bytes change.

The log is a list of records of 32 bytes, each with its own checksum: "these bytes are local
edits" and "these are no longer". An edit that goes on where the last one ended (or overlaps it)
makes the last record longer in place. A `pwrite` survives the death of the process; `sync` makes
the marks survive a loss of power. Records that do not check are skipped: they were never synced,
or the disk is bad, and then losing more would not help.

The caller serializes all methods but `sync` and `compact`, which are for one worker at a time and
may run beside the others.
"""

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Iterable

import xxhash

from aggfs.cache.ranges import NewRanges, RangeSet
from aggfs.errors import UnknownVersion

RECORD_BYTES = 32
LONG_RECORDS = 4096
UNFINISHED = ".new"  # the name's end of a log that is being written anew
_MAGIC = b"aggmark\x01"
_DIRTY, _CLEAN = 1, 2
_BODY = struct.Struct("<8sQQ")
_SUM = struct.Struct("<Q")


class Sidecar:
    """The log at `path`; `number` and `generation` bind its records to one sparse file.

    `marked` is what the log says: read it, do not change it. The file is made by the first mark.
    """

    def __init__(self, path: str, number: int, generation: int, new_ranges: NewRanges) -> None:
        self._path = path
        self._seed = (number << 8 ^ generation) & 0xFFFFFFFFFFFFFFFF
        self._ids = (number, generation)
        self._new_ranges = new_ranges
        self._descriptor: int | None = None
        self._end = 0
        self._last: tuple[int, int] | None = None
        self._closed = False
        self.marked = new_ranges()
        self.existed = False
        self._load()

    # --- reading ------------------------------------------------------------------------------

    def _load(self) -> None:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        self.existed = True
        self._end = os.fstat(self._descriptor).st_size
        self._end -= self._end % RECORD_BYTES
        with os.fdopen(os.dup(self._descriptor), "rb") as log:
            log.seek(0)
            while len(record := log.read(RECORD_BYTES)) == RECORD_BYTES:
                self._replay(record)

    def _replay(self, record: bytes) -> None:
        kind, start, end = _BODY.unpack_from(record)
        if self._sealed(kind, start, end) != record:
            return
        if kind.startswith(_MAGIC[:-1]):
            if kind != _MAGIC:
                raise UnknownVersion(f"{self._path} was written by a newer aggfs")
        elif kind[0] == _DIRTY:
            self.marked.add(start, end)
        elif kind[0] == _CLEAN:
            self.marked.remove(start, end)

    def _sealed(self, kind: bytes, start: int, end: int) -> bytes:
        body = _BODY.pack(kind, start, end)
        return body + _SUM.pack(xxhash.xxh3_64_intdigest(body, self._seed))

    # --- changing -----------------------------------------------------------------------------

    def mark(self, start: int, end: int) -> None:
        """Record a local edit of [start, end), before it is made. Raises OSError."""
        if self.marked.contains(start, end):
            return
        last = self._last
        if last is not None and last[0] <= start <= last[1] < end:
            start = last[0]
            self._put(self._end - RECORD_BYTES, self._dirty(start, end))
        else:
            self._append([self._dirty(start, end)])
        self.marked.add(start, end)
        self._last = (start, end)

    def unmark(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Record that these are no local edits any more. Raises OSError."""
        ranges = list(ranges)
        self.marked.remove_all(ranges)
        self._last = None
        if self._descriptor is None or not ranges:
            return
        if self.marked:
            self._append([self._sealed(bytes((_CLEAN,)), *pair) for pair in ranges])
        else:
            os.ftruncate(self._descriptor, 0)
            self._end = 0

    def _dirty(self, start: int, end: int) -> bytes:
        return self._sealed(bytes((_DIRTY,)), start, end)

    def _append(self, records: list[bytes]) -> None:
        if self._end == 0:
            records = [self._sealed(_MAGIC, *self._ids), *records]
        data = b"".join(records)
        self._put(self._end, data)
        self._end += len(data)

    def _put(self, offset: int, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if os.pwrite(self._descriptor, data, offset) != len(data):
            raise OSError(errno.ENOSPC, "short write of dirty marks")

    # --- for a worker -------------------------------------------------------------------------

    @property
    def long(self) -> bool:
        """Whether most of the log is history."""
        if self._closed:
            return False
        records = self._end // RECORD_BYTES
        return records > LONG_RECORDS and records > 4 * len(self.marked)

    def sync(self) -> None:
        """Make the marks survive a loss of power. Raises OSError."""
        if self._descriptor is not None:
            os.fdatasync(self._descriptor)

    def compact(self, lock: threading.Lock) -> None:
        """Write the log anew, short. `lock` is what serializes the other methods. The caller
        syncs the directory, and `sync`s, before it acknowledges anything. Raises OSError."""
        with lock:
            marked = self.marked.copy()
            until = self._end
            self._last = None
        fresh = self._write_anew(marked)
        with lock:
            old = self._descriptor
            if old is None or self._closed or self._end < until:  # closed, or clean and short
                os.close(fresh)
                os.unlink(self._path + UNFINISHED)
                return
            size = os.fstat(fresh).st_size
            tail = os.pread(old, self._end - until, until)
            os.pwrite(fresh, tail, size)
            os.rename(self._path + UNFINISHED, self._path)
            os.close(old)
            self._descriptor, self._end, self._last = fresh, size + len(tail), None

    def _write_anew(self, marked: RangeSet) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fresh = os.open(self._path + UNFINISHED, flags, 0o600)
        records = [self._sealed(_MAGIC, *self._ids), *(self._dirty(*pair) for pair in marked)]
        with os.fdopen(os.dup(fresh), "wb") as out:
            out.write(b"".join(records))
        os.fdatasync(fresh)
        return fresh

    def close(self) -> None:
        """No mark is made any more. A log without marks is deleted."""
        self._closed = True
        if self._descriptor is not None and not self.marked:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def __del__(self) -> None:
        # Not earlier: a worker may be syncing, and must never find another file instead.
        if self._descriptor is not None:
            os.close(self._descriptor)
