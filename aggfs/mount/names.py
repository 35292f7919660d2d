"""Handlers that find, make, move and remove names."""

import errno
import stat
from collections.abc import Sequence

import pyfuse3

from aggfs.errors import NoEntry
from aggfs.mount.base import Handlers, check_name
from aggfs.mount.past import is_past


class NameHandlers(Handlers):
    """lookup, forget, mknod, mkdir, symlink, link, unlink, rmdir, rename."""

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        check_name(name)
        if is_past(parent_inode):
            await self.volume.look_back(parent_inode)
        try:
            row = self.namespace.lookup(parent_inode, name)
        except NoEntry:
            if is_past(parent_inode):
                raise  # there may be such a time later
            return self.replies.absent
        return self.entry_of(row)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        forgotten = self.known.forgotten
        for number, count in inode_list:
            forgotten(number, count)

    async def mknod(
        self,
        parent_inode: int,
        name: bytes,
        mode: int,
        rdev: int,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        await self.volume.turn(adds=True)
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        row = self.make(parent_inode, name, mode, ctx, rdev=rdev if is_device else 0)
        return self.entry_of(row)

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.volume.turn(adds=True)
        return self.entry_of(self.make(parent_inode, name, stat.S_IFDIR | mode, ctx))

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        await self.volume.turn(adds=True)
        mode = stat.S_IFLNK | 0o777
        return self.entry_of(self.make(parent_inode, name, mode, ctx, target=target))

    async def link(
        self,
        inode: int,
        new_parent_inode: int,
        new_name: bytes,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        check_name(new_name)
        await self.volume.turn(adds=True)
        row = self.namespace.link(inode, new_parent_inode, new_name)
        self.known.linked(inode)
        return self.entry_of(row)

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.volume.turn(adds=False)
        row = self.namespace.unlink(parent_inode, name)
        if not row.nlink:
            self.known.unlinked(row.number)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self.volume.turn(adds=False)
        row = self.namespace.rmdir(parent_inode, name)
        self.known.unlinked(row.number)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        check_name(name_new)
        await self.volume.turn(adds=False)
        places = (parent_inode_old, name_old, parent_inode_new, name_new)
        if flags == pyfuse3.RENAME_NOREPLACE:
            self.namespace.rename_noreplace(*places)
        elif flags == pyfuse3.RENAME_EXCHANGE:
            self.namespace.exchange(*places)
        elif flags:
            # RENAME_WHITEOUT would leave a device node behind, which overlayfs alone knows to
            # read; the binding cannot do it in one step.
            raise pyfuse3.FUSEError(errno.EINVAL)
        else:
            self._replace(*places)

    def _replace(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        moved = self.namespace.lookup(parent, name).number
        is_dirty = self.files.is_dirty(moved)
        replaced = self.namespace.rename(
            parent, name, new_parent, new_name, wait_for_content=is_dirty
        )
        if replaced is None:
            return
        if is_dirty:
            self.files.sync_before_commit(moved)
        if not replaced.nlink:
            self.known.unlinked(replaced.number)
