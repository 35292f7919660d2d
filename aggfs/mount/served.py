"""What the mount needs of a volume.

`aggfs.engine` satisfies these protocols; the memory volume of the tests does too, so that the
handlers are judged against a plain model of a file system. Numbers are FUSE inode numbers.
"""

from collections.abc import Iterator
from typing import Protocol

from aggfs.model import InodeRow
from aggfs.stores.base import Buffer


class ServedNamespace(Protocol):
    """Names and attributes. Every call answers at once; a call that fails changed nothing."""

    def by_number(self, number: int) -> InodeRow: ...

    def lookup(self, parent: int, name: bytes) -> InodeRow: ...

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> InodeRow: ...

    def link(self, number: int, parent: int, name: bytes) -> InodeRow: ...

    def unlink(self, parent: int, name: bytes) -> InodeRow:
        """The row after: `nlink` 0 when that was the last name."""

    def rmdir(self, parent: int, name: bytes) -> InodeRow: ...

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, wait_for_content: bool
    ) -> InodeRow | None:
        """What was replaced, after the rename, or None."""

    def rename_noreplace(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes
    ) -> None: ...

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None: ...

    def set_attributes(
        self,
        number: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> InodeRow: ...

    def get_xattr(self, number: int, name: bytes) -> bytes: ...

    def list_xattrs(self, number: int) -> list[bytes]: ...

    def set_xattr(self, number: int, name: bytes, value: bytes) -> None: ...

    def remove_xattr(self, number: int, name: bytes) -> None: ...

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]: ...

    def drop_unlinked(self, number: int) -> None: ...


class ServedFiles(Protocol):
    """Contents of regular files. Handles are counted per inode."""

    async def opened(self, number: int, *, truncate: bool) -> None: ...

    async def read(self, number: int, offset: int, length: int) -> Buffer: ...

    async def write(self, number: int, offset: int, data: bytes) -> int: ...

    async def truncate(self, number: int, size: int) -> None: ...

    async def fsync(self, number: int) -> None: ...

    async def fsync_directory(self) -> None: ...

    async def flush(self, number: int) -> None: ...

    async def released(self, number: int) -> None: ...

    def is_dirty(self, number: int) -> bool: ...

    def sync_before_commit(self, number: int) -> None:
        """The bytes of this file reach the disk no later than the rows put until the next wait:
        it has just replaced another, and a crash must leave the one or the other."""

    def allocated_bytes(self, row: InodeRow) -> int:
        """How much of a regular file is no gap, for `st_blocks`; cheap, for every `stat`."""


class ServedVolume(Protocol):
    """One volume, open and running."""

    @property
    def namespace(self) -> ServedNamespace: ...

    @property
    def files(self) -> ServedFiles: ...

    async def look_back(self, number: int) -> None:
        """Before a look at what a directory of an earlier time held."""

    async def turn(self, *, adds: bool) -> None:
        """Before a change of names: wait where too many wait to be published."""

    def statfs(self) -> tuple[int, int, int]:
        """Usable bytes in total, bytes free, number of files."""

    def xattr(self, number: int, name: bytes) -> bytes | None:
        """A read-only attribute `user.aggfs.*`, None where there is no such thing."""
