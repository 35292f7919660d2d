"""Handlers of open directories, and of the file system as a whole."""

import pyfuse3

from aggfs.mount.base import Handlers
from aggfs.mount.past import is_past
from aggfs.mount.reply import statfs_reply

DOTS = (b".", b"..")


class DirectoryHandlers(Handlers):
    """opendir, readdir, releasedir, fsyncdir, statfs.

    A handle is the directory's number: cookies alone say where a listing goes on, so a listing
    holds nothing, stays right while names come and go, and may be resumed after a remount.
    """

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        self.namespace.by_number(inode)
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if is_past(fh):
            await self.volume.look_back(fh)
        attributes = self.replies.attributes
        looked_up = self.known.looked_up
        reply = pyfuse3.readdir_reply
        for name, row, cookie in self.namespace.readdir(fh, start_id):
            if not reply(token, name, attributes(row), cookie):
                return
            if name not in DOTS:  # for these the kernel counts no lookup
                looked_up(row.number)

    async def releasedir(self, fh: int) -> None:
        return None

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.files.fsync_directory()

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return statfs_reply(*self.volume.statfs())
