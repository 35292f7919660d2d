#!/usr/bin/env python3
"""A file system that forgets: the floor below which nothing built on pyfuse3 can go.

  scripts/nullfs.py MOUNTPOINT

Names and attributes live in dictionaries, written bytes are dropped and read as zeros, nothing is
checked and nothing is durable. Runs in the foreground, prints "ready" once the folder answers,
and unmounts on SIGTERM or SIGINT. Benchmarks compare aggfs with it in the same run.
"""

import errno
import os
import signal
import stat
import sys
import time

import pyfuse3
import trio

TIMEOUT_SECONDS = 3600
ZEROS = bytes(1 << 20)


def new_attributes(number, mode, uid, gid, rdev=0, size=0):
    now = time.time_ns()
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = number
    entry.entry_timeout = TIMEOUT_SECONDS
    entry.attr_timeout = TIMEOUT_SECONDS
    entry.st_mode = mode
    entry.st_nlink = 2 if stat.S_ISDIR(mode) else 1
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_rdev = rdev
    entry.st_size = size
    entry.st_atime_ns = now
    entry.st_mtime_ns = now
    entry.st_ctime_ns = now
    return entry


class NullOperations(pyfuse3.Operations):
    """Every handler is as short as the binding allows. A handle is the inode's number."""

    def __init__(self):
        super().__init__()
        root = pyfuse3.ROOT_INODE
        self.inodes = {root: new_attributes(root, stat.S_IFDIR | 0o755, os.getuid(), os.getgid())}
        self.children = {root: {}}
        self.targets = {}
        self.next_number = root + 1
        self.absent = pyfuse3.EntryAttributes()
        self.absent.entry_timeout = TIMEOUT_SECONDS

    def add(self, parent, name, mode, context, rdev=0, size=0):
        number = self.next_number
        self.next_number = number + 1
        entry = new_attributes(number, mode, context.uid, context.gid, rdev, size)
        self.inodes[number] = entry
        self.children[parent][name] = number
        return entry

    async def lookup(self, parent_inode, name, ctx):
        number = self.children[parent_inode].get(name)
        return self.absent if number is None else self.inodes[number]

    async def forget(self, inode_list):
        return None

    async def getattr(self, inode, ctx):
        return self.inodes[inode]

    async def setattr(self, inode, attr, fields, fh, ctx):
        entry = self.inodes[inode]
        for field in ("mode", "uid", "gid", "size"):
            if getattr(fields, f"update_{field}"):
                setattr(entry, f"st_{field}", getattr(attr, f"st_{field}"))
        for field in ("atime", "mtime"):
            if getattr(fields, f"update_{field}"):
                setattr(entry, f"st_{field}_ns", getattr(attr, f"st_{field}_ns"))
        return entry

    async def readlink(self, inode, ctx):
        return self.targets[inode]

    async def mknod(self, parent_inode, name, mode, rdev, ctx):
        return self.add(parent_inode, name, mode, ctx, rdev)

    async def mkdir(self, parent_inode, name, mode, ctx):
        entry = self.add(parent_inode, name, mode, ctx)
        self.children[entry.st_ino] = {}
        return entry

    async def unlink(self, parent_inode, name, ctx):
        del self.children[parent_inode][name]

    async def rmdir(self, parent_inode, name, ctx):
        number = self.children[parent_inode][name]
        if self.children[number]:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.children[parent_inode][name]

    async def symlink(self, parent_inode, name, target, ctx):
        entry = self.add(parent_inode, name, stat.S_IFLNK | 0o777, ctx, size=len(target))
        self.targets[entry.st_ino] = target
        return entry

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        number = self.children[parent_inode_old].pop(name_old)
        self.children[parent_inode_new][name_new] = number

    async def link(self, inode, new_parent_inode, new_name, ctx):
        entry = self.inodes[inode]
        entry.st_nlink += 1
        self.children[new_parent_inode][new_name] = inode
        return entry

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(inode)

    async def create(self, parent_inode, name, mode, flags, ctx):
        entry = self.add(parent_inode, name, mode, ctx)
        return pyfuse3.FileInfo(entry.st_ino), entry

    async def read(self, fh, off, size):
        return ZEROS[: max(0, min(size, self.inodes[fh].st_size - off))]

    async def write(self, fh, off, buf):
        entry = self.inodes[fh]
        end = off + len(buf)
        if end > entry.st_size:
            entry.st_size = end
        return len(buf)

    async def flush(self, fh):
        return None

    async def release(self, fh):
        return None

    async def fsync(self, fh, datasync):
        return None

    async def opendir(self, inode, ctx):
        return inode

    async def readdir(self, fh, start_id, token):
        names = list(self.children[fh].items())
        for cookie in range(start_id, len(names)):
            name, number = names[cookie]
            if not pyfuse3.readdir_reply(token, name, self.inodes[number], cookie + 1):
                return

    async def releasedir(self, fh):
        return None

    async def fsyncdir(self, fh, datasync):
        return None

    async def statfs(self, ctx):
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = data.f_bfree = data.f_bavail = 1 << 30
        data.f_files = data.f_ffree = data.f_favail = 1 << 30
        data.f_namemax = 255
        return data

    async def getxattr(self, inode, name, ctx):
        raise pyfuse3.FUSEError(pyfuse3.ENOATTR)


async def tell_when_ready(mountpoint):
    await trio.to_thread.run_sync(os.stat, mountpoint)
    print("ready", flush=True)


async def stop_at_a_signal():
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(aiter(signals))
        pyfuse3.terminate()


async def serve(mountpoint):
    pyfuse3.init(NullOperations(), mountpoint, {"fsname=nullfs", "default_permissions"})
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_at_a_signal)
            nursery.start_soon(tell_when_ready, mountpoint)
            await pyfuse3.main()
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trio.run(serve, sys.argv[1])
