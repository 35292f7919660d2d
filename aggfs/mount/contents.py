"""Handlers of open files."""

import os
import stat

import pyfuse3

from aggfs.errors import Exists, InThePast, TooLarge
from aggfs.model import FILE_BYTES_LIMIT
from aggfs.mount.base import Handlers
from aggfs.mount.past import is_past
from aggfs.stores.base import Buffer


class ContentHandlers(Handlers):
    """open, create, read, write, flush, fsync, release. A handle is the inode's number.

    The kernel keeps its pages over opens (`keep_cache`): who else changes a file's content (a
    device followed, a file recovered) tells the kernel, see `aggfs.mount.invalidate`.
    """

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY and is_past(inode):
            raise InThePast("this is a view of an earlier time")
        truncate = bool(flags & os.O_TRUNC)
        await self._open(inode, truncate=truncate)
        if truncate and ctx.uid:
            self._drop_privileges(inode)
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    def _drop_privileges(self, inode: int) -> None:
        """Take setuid and setgid away, as the kernel does it by itself where it is not us who
        truncate; from root it does not."""
        mode = self.namespace.by_number(inode).mode
        gone = stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0)
        if mode & gone:
            self.namespace.set_attributes(inode, mode=mode & ~gone)

    async def create(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        await self.volume.turn(adds=True)
        truncate = False
        try:
            row = self.make(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        except Exists:
            # The kernel remembered that there is no such name, and another device made one.
            if flags & os.O_EXCL:
                raise
            row = self.namespace.lookup(parent_inode, name)
            if not stat.S_ISREG(row.mode):
                raise
            truncate = bool(flags & os.O_TRUNC)
        await self._open(row.number, truncate=truncate)
        if truncate:
            row = self.namespace.by_number(row.number)
        return pyfuse3.FileInfo(fh=row.number, keep_cache=True), self.entry_of(row)

    async def _open(self, number: int, *, truncate: bool) -> None:
        known = self.known
        known.opened(number)  # before any wait: nobody may drop the inode now
        try:
            await self.files.opened(number, truncate=truncate)
        except BaseException:
            known.released(number)
            raise

    async def read(  # type: ignore[override] # the binding takes any buffer
        self, fh: int, off: int, size: int
    ) -> Buffer:
        data = await self.files.read(fh, off, size)
        self.counts.read_bytes += len(data)
        return data

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        if off + len(buf) > FILE_BYTES_LIMIT:
            raise TooLarge(f"a file has at most {FILE_BYTES_LIMIT} bytes")
        written = await self.files.write(fh, off, buf)
        self.counts.written_bytes += written
        return written

    async def flush(self, fh: int) -> None:
        await self.files.flush(fh)

    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.files.fsync(fh)

    async def release(self, fh: int) -> None:
        try:
            await self.files.released(fh)
        finally:
            self.known.released(fh)
