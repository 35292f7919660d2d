"""The file that holds the dirty marks of many sparse files: one region of 4 KiB for each.

Making and deleting a small file for every file that is dirty for some seconds would cost more
than everything else (ext4 looks past each recently deleted inode when it makes a new one), so the
regions lie in one file and are used again. A region begins with a record that names its tenant;
the tenant's records follow (`sidecar`). Every tenancy has a random number that seeds the
checksums of its records, so that what former tenants left behind does not check.

All methods may be called from any thread; those of one tenant one after the other.
"""

import errno
import os
import secrets
import struct
import threading

import xxhash

from aggfs.errors import UnknownVersion

REGION_BYTES = 4096
RECORD_BYTES = 32
_MAGIC = b"aggmark\x01"
_BODY = struct.Struct("<8sQQ")
_SUM = struct.Struct("<Q")
_TENANT = struct.Struct("<QII")


def sealed(kind: bytes, first: int, second: int, seed: int) -> bytes:
    """A record: kind (8 bytes, zero-padded), two numbers, and the checksum under `seed`."""
    body = _BODY.pack(kind, first, second)
    return body + _SUM.pack(xxhash.xxh3_64_intdigest(body, seed))


def opened(record: bytes, seed: int) -> tuple[bytes, int, int] | None:
    """The reverse of `sealed`; None if the record does not check."""
    body = record[: _BODY.size]
    if len(record) != RECORD_BYTES:
        return None
    if record[_BODY.size :] != _SUM.pack(xxhash.xxh3_64_intdigest(body, seed)):
        return None
    return _BODY.unpack(body)


class Region:
    """One tenancy. `seed` is for the checksums of its records."""

    __slots__ = ("index", "seed")

    def __init__(self, index: int, number: int, generation: int, tenancy: int) -> None:
        self.index = index
        tenant = _TENANT.pack(number, generation, tenancy)
        self.seed = xxhash.xxh3_64_intdigest(tenant)


class Marks:
    """The file at `path`. Raises UnknownVersion when a newer aggfs wrote it."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._path = path
        self._descriptor = os.open(path, flags, 0o600)
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._found: dict[tuple[int, int], Region] = {}
        self._count = os.fstat(self._descriptor).st_size // REGION_BYTES
        for index in reversed(range(self._count)):
            self._find(index)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def _find(self, index: int) -> None:
        header = os.pread(self._descriptor, RECORD_BYTES, index * REGION_BYTES)
        fields = opened(header, 0)
        if fields is None:
            self._free.append(index)
            return
        kind, number, rest = fields
        if kind != _MAGIC:
            raise UnknownVersion(f"{self._path} was written by a newer aggfs")
        key = (number, rest & 0xFFFFFFFF)
        if key in self._found:
            # A loss of power undid an end, or half of a beginning: the tenancy that began later
            # was never synced, or the end of the other would have been, too. Either will do.
            self.free(self._found[key])
        self._found[key] = Region(index, *key, rest >> 32)

    def tenants(self) -> list[tuple[int, int]]:
        """(number, generation) of the files with marks that nobody claimed yet."""
        return sorted(self._found)

    def claim(self, number: int, generation: int) -> tuple[Region, bytes] | None:
        """The region that a former process left for this file, and its records."""
        region = self._found.pop((number, generation), None)
        if region is None:
            return None
        start = region.index * REGION_BYTES + RECORD_BYTES
        records = os.pread(self._descriptor, REGION_BYTES - RECORD_BYTES, start)
        return region, records

    def leave(self, number: int, generation: int, region: Region) -> None:
        """The tenant is closed, its marks stay: the next `claim` finds them."""
        self._found[number, generation] = region

    def take(self, number: int, generation: int) -> Region:
        """A region for a file that gets its first mark. Raises OSError."""
        tenancy = secrets.randbits(32)
        header = sealed(_MAGIC, number, tenancy << 32 | generation, 0)
        with self._lock:
            index = self._free[-1] if self._free else self._count
            fresh = index == self._count
            page = header.ljust(REGION_BYTES, b"\0") if fresh else header
            self._put(index * REGION_BYTES, page)
            if fresh:
                self._count += 1
            else:
                self._free.pop()
        return Region(index, number, generation, tenancy)

    def put(self, region: Region, offset: int, data: bytes) -> None:
        """Write records, `offset` bytes after the start of the region. Raises OSError."""
        self._put(region.index * REGION_BYTES + offset, data)

    def free(self, region: Region) -> None:
        """The tenant has no marks any more. Raises OSError."""
        self._put(region.index * REGION_BYTES, bytes(RECORD_BYTES))
        with self._lock:
            self._free.append(region.index)

    def _put(self, offset: int, data: bytes) -> None:
        if os.pwrite(self._descriptor, data, offset) != len(data):
            raise OSError(errno.ENOSPC, "no space for dirty marks")

    def discard(self, number: int, generation: int) -> None:
        """The file is gone, and its marks with it. Raises OSError."""
        region = self._found.pop((number, generation), None)
        if region is not None:
            self.free(region)

    def sync(self) -> None:
        """fdatasync; in a worker. Raises OSError."""
        os.fdatasync(self._descriptor)
