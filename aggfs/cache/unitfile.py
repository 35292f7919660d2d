"""One local file of plaintext, encrypted at rest in units, read and written at any offset.

The cipher works on groups of 16 bytes. A write that begins or ends inside a group reads that one
group first, if the bytes beside it matter. Nothing here knows which bytes are present; whoever
calls does. All methods block, for microseconds when the page cache has the bytes.

Bytes that were never written read as zeros from the disk and so as noise through the cipher,
which is why the caller's knowledge of what is present must be exact.
"""

import ctypes
import errno
import os
import tempfile
import threading
from collections.abc import Callable
from typing import Protocol, Self

import xxhash

from aggfs import disk
from aggfs.errors import AggfsError, Damaged, LocalDiskFailed, NoSpace

Buffer = bytes | bytearray | memoryview
NewMemory = Callable[[int], bytearray | memoryview]

UNIT_BYTES = 64 * 1024
GROUP_BYTES = 16
PAGE_BYTES = 4096
DIRECT_BYTES = 1024 * 1024  # for less, a reader would wait for a slow disk
LONG_BYTES = 256 * 1024  # what a program that reads on and on asks for at once
WRITTEN_KEPT = 8
_CIPHER_ROOM_BYTES = 16
_COPY_BYTES = 1024 * 1024
_PUNCH_HOLE_KEEP_SIZE = 3
_ZERO_GROUP = bytes(GROUP_BYTES)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong)


class UnitCipher(Protocol):
    """A length-keeping cipher over offsets of a file. Offsets and lengths are multiples of 16;
    `out` has at least 16 bytes more than `data`. May be called from several threads."""

    def encrypt_into(self, offset: int, data: Buffer, out: Buffer) -> None:
        """Put the ciphertext of `data` lying at `offset` into `out`."""

    def decrypt_into(self, offset: int, data: Buffer, out: Buffer) -> None:
        """Put the plaintext of ciphertext `data` lying at `offset` into `out`."""


class _Scratch(threading.local):
    """Page-aligned memory of a thread that is used again and again."""

    def __init__(self) -> None:
        self.memory = memoryview(b"")

    def room(self, size_bytes: int) -> memoryview:
        if len(self.memory) < size_bytes:
            self.memory = memoryview(disk.aligned_memory(size_bytes))
        return self.memory[:size_bytes]


_scratch = _Scratch()


class _Written:
    """The runs that went through the page cache last, a few of them: it has them still, more
    likely than not. In any thread; a wrong answer costs time only."""

    def __init__(self) -> None:
        self._runs: tuple[tuple[int, int], ...] = ()

    def add(self, start: int, end: int) -> None:
        if self._runs and self._runs[-1][1] == start:
            start = self._runs[-1][0]
            self._runs = (*self._runs[:-1], (start, end))
        else:
            self._runs = (*self._runs[1 - WRITTEN_KEPT :], (start, end))

    def has(self, start: int, end: int) -> bool:
        return any(low <= start and end <= high for low, high in self._runs)

    def forget(self) -> None:
        self._runs = ()


def checksum(ciphertext: Buffer) -> int:
    """The checksum of a clean unit's bytes as they lie on the disk."""
    return xxhash.xxh3_64_intdigest(ciphertext)


def group_of(start: int, end: int, granule: int) -> tuple[int, int]:
    """The range widened to whole groups."""
    return start - start % granule, end + -end % granule


def disk_refusal(error: OSError) -> AggfsError:
    """What a failed write to the local disk means."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace("the local disk is full")
    return LocalDiskFailed(f"the local disk refused a write: {error.strerror}")


class UnitFile:
    """The bytes of a sparse file. `cipher` None: they lie on the disk as they are.

    The descriptor is closed when nobody knows the object any more, and not before: a worker that
    still reads must never find another file under its number.
    """

    def __init__(self, descriptor: int, cipher: UnitCipher | None) -> None:
        self._descriptor = descriptor
        self._cipher = cipher
        self._written = _Written()
        self.granule = 1 if cipher is None else GROUP_BYTES

    @classmethod
    def open(cls, path: str, cipher: UnitCipher | None) -> Self:
        """Open or create the file at `path`. Raises OSError."""
        return cls(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), cipher)

    def nameless(self, directory: str) -> Self:
        """A new file with the same cipher that vanishes when it is closed. Raises OSError."""
        with tempfile.TemporaryFile(dir=directory) as file:
            return type(self)(os.dup(file.fileno()), self._cipher)

    @property
    def encrypted(self) -> bool:
        """Whether bytes never written can be told from zeros that were."""
        return self._cipher is not None

    def is_longer_than(self, size: int) -> bool:
        """Whether something lies behind what belongs to so many bytes."""
        return os.fstat(self._descriptor).st_size > group_of(0, size, self.granule)[1]

    def __del__(self) -> None:
        os.close(self._descriptor)

    # --- reading ------------------------------------------------------------------------------

    def read(self, start: int, end: int) -> Buffer:
        """The plaintext of [start, end). Raises Damaged when the file ends before that."""
        if self._cipher is None:
            found = self._long(start, end)
            data = bytes(found) if found else os.pread(self._descriptor, end - start, start)
            if len(data) != end - start:
                raise Damaged("a sparse file is shorter than what was written to it")
            return data
        wide_start, wide_end = group_of(start, end, GROUP_BYTES)
        return self.decrypt(wide_start, self.raw(wide_start, wide_end), start, end)

    def read_cached(self, start: int, end: int) -> Buffer | None:
        """As `read`, if all of it is in the page cache; None if not. Long runs are looked for only
        where they were written lately: looking brings there what is not."""
        if end - start >= LONG_BYTES and not self._written.has(start, end):
            return None
        wide_start, wide_end = group_of(start, end, self.granule)
        size = wide_end - wide_start
        room = _scratch.room(size)
        try:
            count = os.preadv(self._descriptor, [room], wide_start, os.RWF_NOWAIT)
        except OSError:  # not there, or a file system that cannot tell
            count = 0
        if count != size:
            self._written.forget()
            return None
        return self.decrypt(wide_start, room, start, end)

    def raw(self, start: int, end: int, memory: memoryview | None = None) -> memoryview:
        """The bytes as they lie on the disk, in `memory` if given, else valid until this
        thread's next call here. Short files end in zeros."""
        found = self._long(start, end) if memory is None else None
        if found:
            return found
        room = _scratch.room(end - start) if memory is None else memory
        count = 0
        while count < len(room):
            more = os.preadv(self._descriptor, [room[count:]], start + count)
            if more == 0:
                room[count:] = bytes(len(room) - count)
                break
            count += more
        return room

    def _long(self, start: int, end: int) -> memoryview | None:
        """A long run past the page cache, as it lies on the disk, valid until this thread's next
        call here. None of others, of what the page cache has, and where that is not possible. The
        kernel keeps for the mount what is read in long runs, and need not keep it twice."""
        if end - start < LONG_BYTES or self._written.has(start, end):
            return None
        return disk.read_at(self._descriptor, start, end - start, _scratch.room)

    def decrypt(
        self,
        raw_start: int,
        raw: Buffer,
        start: int,
        end: int,
        new_memory: NewMemory = bytearray,
    ) -> Buffer:
        """The plaintext of [start, end), which lies within `raw`: whole groups from `raw_start`.
        It lies in what `new_memory` gave for a number of bytes."""
        wide_start, wide_end = group_of(start, end, self.granule)
        part = memoryview(raw)[wide_start - raw_start : wide_end - raw_start]
        out = memoryview(new_memory(len(part) + _CIPHER_ROOM_BYTES))
        if self._cipher is None:
            out[: len(part)] = part
        else:
            self._cipher.decrypt_into(wide_start, part, out)
        return out[start - wide_start : end - wide_start]

    # --- writing ------------------------------------------------------------------------------

    def write(
        self,
        start: int,
        data: Buffer,
        *,
        keep_head: bool,
        keep_tail: bool,
        raw: memoryview | None = None,
    ) -> memoryview:
        """Write at `start`; what lies beside the data in the first and last group is kept if
        asked, else lost. `raw` is the `raw_form` of data of whole groups, where it is known.
        Returns the raw bytes of the whole groups, valid until this thread's next call here.
        Raises OSError: any part may be written then."""
        view = memoryview(data).cast("B")
        end = start + len(view)
        if self._cipher is None:
            self._write_all(start, view)
            return view
        if raw is not None:
            self._write_all(start, raw)
            return raw
        wide_start, wide_end = group_of(start, end, GROUP_BYTES)
        if (wide_start, wide_end) != (start, end):
            view = self._widened(wide_start, start, view, keep_head, keep_tail)
        room = _scratch.room(len(view) + _CIPHER_ROOM_BYTES)
        self._cipher.encrypt_into(wide_start, view, room)
        self._write_all(wide_start, room[: len(view)])
        return room[: len(view)]

    def raw_form(self, start: int, data: Buffer, memory: memoryview) -> memoryview:
        """`data`, which begins a group at `start`, as it lies on the disk, in whole groups: in
        `memory`, which has a group more."""
        size = group_of(0, len(data), self.granule)[1]
        whole = data if size == len(data) else bytes(data).ljust(size, b"\0")
        if self._cipher is None:
            memory[:size] = whole
        else:
            self._cipher.encrypt_into(start, whole, memory[: size + _CIPHER_ROOM_BYTES])
        return memory[:size]

    def raw_ahead(self, start: int, data: Buffer, memory: memoryview) -> memoryview | None:
        """As `raw_form`, where that takes nothing but the data, and `memory` is enough."""
        whole = group_of(start, start + len(data), GROUP_BYTES) == (start, start + len(data))
        if self._cipher is None or not whole or len(memory) < len(data) + GROUP_BYTES:
            return None
        return self.raw_form(start, data, memory)

    def write_raw(self, start: int, raw: memoryview) -> None:
        """Write what `raw_form` gave where nobody else reads or writes, in pages of their own: a
        long run past the page cache. Raises OSError."""
        if len(raw) >= DIRECT_BYTES:
            disk.write_at(self._descriptor, raw, start)
        else:
            self._write_all(start, raw)

    def _widened(
        self, wide_start: int, start: int, view: memoryview, keep_head: bool, keep_tail: bool
    ) -> memoryview:
        """The data with its neighbours in the first and last group."""
        end = start + len(view)
        wide = bytearray(end + -end % GROUP_BYTES - wide_start)
        if keep_head and start % GROUP_BYTES:
            wide[: start - wide_start] = self._group(wide_start)[: start - wide_start]
        if keep_tail and end % GROUP_BYTES:
            wide[end - wide_start :] = self._group(end - end % GROUP_BYTES)[end % GROUP_BYTES :]
        wide[start - wide_start : end - wide_start] = view
        return memoryview(wide)

    def _group(self, start: int) -> Buffer:
        return self.decrypt(start, self.raw(start, start + GROUP_BYTES), start, start + GROUP_BYTES)

    def _write_all(self, start: int, view: memoryview) -> None:
        self._written.add(start, start + len(view))
        count = os.pwrite(self._descriptor, view, start)
        while count < len(view):
            count += os.pwrite(self._descriptor, view[count:], start + count)

    def copy_from(self, other: "UnitFile", start: int, end: int) -> None:
        """Copy the groups that cover [start, end) from a file with the same cipher. Raises
        OSError. Through memory: where the file system shares blocks, sharing waits for the disk."""
        at, end = group_of(start, end, self.granule)
        while at < end:
            stop = min(at + _COPY_BYTES, end)
            self._write_all(at, other.raw(at, stop))
            at = stop

    # --- the disk -----------------------------------------------------------------------------

    def sync(self) -> None:
        """fdatasync."""
        os.fdatasync(self._descriptor)

    def cut(self, size: int) -> None:
        """Give back everything from `size` on, the rest of its group excepted."""
        os.ftruncate(self._descriptor, group_of(0, size, self.granule)[1])

    def punch(self, start: int, end: int) -> int:
        """Give back the whole pages within [start, end); how many bytes that is at most."""
        start += -start % PAGE_BYTES
        end -= end % PAGE_BYTES
        if start >= end:
            return 0
        done = _libc.fallocate(self._descriptor, _PUNCH_HOLE_KEEP_SIZE, start, end - start)
        return end - start if done == 0 else 0

    def unwritten(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that the disk has never been given: found by the file
        system's own holes, and with a cipher by groups of zeros, which no plaintext gives."""
        if self._cipher is not None:
            return self._zero_groups(start, end)
        found = []
        at = start
        while at < end:
            try:
                data = os.lseek(self._descriptor, at, os.SEEK_DATA)
            except OSError:  # ENXIO: no data from here on
                data = end
            if data > at:
                found.append((at, min(data, end)))
            if data >= end:
                break
            at = os.lseek(self._descriptor, data, os.SEEK_HOLE)
        return found

    def _zero_groups(self, start: int, end: int) -> list[tuple[int, int]]:
        found = []
        wide_start, wide_end = group_of(start, end, GROUP_BYTES)
        for unit in range(wide_start, wide_end, UNIT_BYTES):
            raw = bytes(self.raw(unit, min(unit + UNIT_BYTES, wide_end)))
            for zero_start, zero_end in zero_groups(raw):
                found.append((max(start, unit + zero_start), min(end, unit + zero_end)))
        return found


def zero_groups(raw: bytes) -> list[tuple[int, int]]:
    """The runs of whole groups of zeros in `raw`, which begins at a group."""
    found = []
    at = raw.find(_ZERO_GROUP)
    while at >= 0:
        start = at + -at % GROUP_BYTES
        rest = raw[start:]
        count = len(rest) - len(rest.lstrip(b"\0"))
        count -= count % GROUP_BYTES
        if count:
            found.append((start, start + count))
        at = raw.find(_ZERO_GROUP, max(start + count, at + 1))
    return found
