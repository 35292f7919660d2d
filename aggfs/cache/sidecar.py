"""The dirty marks of one sparse file: a log that is written before the bytes change.

The log is a list of records, each with its own checksum: "these bytes are local edits" and
"these are no longer". An edit that goes on where the last one ended (or overlaps it) makes the
last record longer in place. The first records lie in a region of the shared file `Marks`; a log
that outgrows it goes on in a tail file of its own. A `pwrite` survives the death of the process;
`sync` makes the marks survive a loss of power. Records that do not check are skipped: they were
never synced, or the disk is bad, and then losing more would not help.

The caller serializes all methods but `sync` and `compact`, which are for one worker at a time and
may run beside the others.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterable

from aggfs.cache.marks import RECORD_BYTES, REGION_BYTES, Marks, Region, opened, sealed
from aggfs.cache.ranges import NewRanges
from aggfs.disk import sync_directory

LONG_RECORDS = 4096
EVERYTHING = (0, 1 << 62)
_DIRTY = b"\1".ljust(8, b"\0")
_CLEAN = b"\2".ljust(8, b"\0")


class Sidecar:
    """The log of one generation of one file. `tail_path` is where its tail goes if it needs one.

    `marked` is what the log says: read it, do not change it.
    """

    def __init__(
        self, marks: Marks, tail_path: str, number: int, generation: int, new_ranges: NewRanges
    ) -> None:
        self._marks = marks
        self._tail_path = tail_path
        self._ids = (number, generation)
        self._region: Region | None = None
        self._region_end = 0
        self._tail: int | None = None
        self._tail_end = 0
        self._tail_named = True
        self._last: tuple[int, int] | None = None
        self._closed = False
        self.marked = new_ranges()
        self._load()

    def __del__(self) -> None:
        # Not earlier: a worker may be syncing, and must never find another file instead.
        if self._tail is not None:
            os.close(self._tail)

    # --- reading ------------------------------------------------------------------------------

    def _load(self) -> None:
        claimed = self._marks.claim(*self._ids)
        if claimed is None:
            return
        self._region, records = claimed
        self._region_end = RECORD_BYTES + self._replay(records)
        with contextlib.suppress(FileNotFoundError):
            tail = os.open(self._tail_path, os.O_RDWR | os.O_CLOEXEC)
            with os.fdopen(os.dup(tail), "rb") as file:
                self._tail_end = self._replay(file.read())
            if self._tail_end:
                self._tail = tail
            else:  # of a former tenancy
                os.close(tail)
        if not self.marked:
            self._end_tenancy()

    def _replay(self, records: bytes) -> int:
        """Take in the records that check; where the last of them ends."""
        assert self._region is not None
        end = 0
        for at in range(0, len(records), RECORD_BYTES):
            fields = opened(records[at : at + RECORD_BYTES], self._region.seed)
            if fields is None:
                continue
            kind, first, second = fields
            if kind == _DIRTY:
                self.marked.add(first, second)
            elif kind == _CLEAN:
                self.marked.remove(first, second)
            end = at + RECORD_BYTES
        return end

    # --- changing -----------------------------------------------------------------------------

    def mark(self, start: int, end: int) -> None:
        """Record a local edit of [start, end), before it is made. Raises OSError."""
        if self.marked.contains(start, end):
            return
        if self._region is None:
            self._region = self._marks.take(*self._ids)
            self._region_end = RECORD_BYTES
        last = self._last
        if last is not None and last[0] <= start <= last[1] < end:
            start = last[0]
            self._put(-RECORD_BYTES, sealed(_DIRTY, start, end, self._region.seed))
        else:
            self._append(sealed(_DIRTY, start, end, self._region.seed))
        self.marked.add(start, end)
        self._last = (start, end)

    def unmark(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Record that these are no local edits any more. Raises OSError."""
        ranges = list(ranges)
        if self._region is None or not ranges:
            return
        self.marked.remove_all(ranges)
        self._last = None
        if self.marked:
            seed = self._region.seed
            self._append(b"".join(sealed(_CLEAN, *pair, seed) for pair in ranges))
        else:
            self._end_tenancy()

    def _append(self, records: bytes) -> None:
        in_region = self._tail_end == 0 and self._region_end + len(records) <= REGION_BYTES
        if not in_region and self._tail is None:
            self._tail = _create(self._tail_path)
            self._tail_named = False
        if in_region:
            self._region_end += len(records)
        else:
            self._tail_end += len(records)
        self._put(-len(records), records)

    def _put(self, offset: int, records: bytes) -> None:
        """Write at `offset` (negative) from the end of the log."""
        if self._tail_end and self._tail is not None:
            _write_all(self._tail, records, self._tail_end + offset)
        else:
            assert self._region is not None
            self._marks.put(self._region, self._region_end + offset, records)

    def _end_tenancy(self) -> None:
        region, self._region = self._region, None
        if region is not None:
            self._marks.free(region)
        if self._tail is not None:
            os.ftruncate(self._tail, 0)
            self._tail_end = 0

    # --- for a worker -------------------------------------------------------------------------

    @property
    def long(self) -> bool:
        """Whether most of the log is history."""
        records = self._tail_end // RECORD_BYTES
        return records > LONG_RECORDS and records > 4 * len(self.marked) and not self._closed

    def sync(self) -> None:
        """Make the marks survive a loss of power. Raises OSError."""
        self._marks.sync()
        if self._tail is not None:
            os.fdatasync(self._tail)
            if not self._tail_named:
                sync_directory(os.path.dirname(self._tail_path))
                self._tail_named = True

    def compact(self, lock: threading.Lock) -> None:
        """Write the tail anew, short. `lock` is what serializes the other methods. The caller
        must `sync` before it acknowledges anything. Raises OSError."""
        with lock:
            region, until = self._region, self._tail_end
            if region is None:
                return
            records = [sealed(_CLEAN, *EVERYTHING, region.seed)]
            records += [sealed(_DIRTY, *pair, region.seed) for pair in self.marked]
            self._last = None
        fresh_path = self._tail_path + ".new"
        fresh = _create(fresh_path)
        size = _write_all(fresh, b"".join(records), 0)
        os.fdatasync(fresh)
        with lock:
            old = self._tail
            if old is None or self._closed or self._region is not region:  # ended meanwhile
                os.close(fresh)
                os.unlink(fresh_path)
                return
            self._tail_end = size + _write_all(
                fresh, os.pread(old, self._tail_end - until, until), size
            )
            os.rename(fresh_path, self._tail_path)
            os.close(old)
            self._tail, self._tail_named, self._last = fresh, False, None

    def close(self) -> None:
        """No mark is made any more; those there are found again."""
        self._closed = True
        if self._region is not None:
            self._marks.leave(*self._ids, self._region)
        elif self._tail is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._tail_path)


def _create(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes, offset: int) -> int:
    if data and os.pwrite(descriptor, data, offset) != len(data):
        raise OSError(errno.ENOSPC, "no space for dirty marks")
    return len(data)
