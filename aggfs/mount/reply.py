"""Rows become the attributes that pyfuse3 sends to the kernel."""

import stat

import pyfuse3

from aggfs.model import NAME_BYTES, InodeRow
from aggfs.mount.options import MountOptions
from aggfs.mount.past import FIRST_PAST
from aggfs.mount.served import ServedFiles

SECTOR_BYTES = 512
# Programs buffer by st_blksize; one request costs as much as copying hundreds of kilobytes.
BUFFER_BYTES = 128 * 1024
STATFS_BLOCK_BYTES = 4096
INODES_LIMIT = 1 << 40
PAST_SECONDS = 1.0


class Replies:
    """Makes reply objects; knows the timeouts and asks the files how much is no gap."""

    def __init__(self, files: ServedFiles, options: MountOptions) -> None:
        self._allocated_bytes = files.allocated_bytes
        self._entry_seconds = options.entry_seconds
        self._attribute_seconds = options.attribute_seconds
        # Number 0 tells the kernel to remember that the name does not exist.
        self.absent = pyfuse3.EntryAttributes()
        self.absent.entry_timeout = options.entry_seconds

    def attributes(self, row: InodeRow) -> pyfuse3.EntryAttributes:
        """The inode as `stat` shows it. Its number is never used again: the generation is 0."""
        mode = row.mode
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = row.number
        entry.entry_timeout = self._entry_seconds
        entry.attr_timeout = self._attribute_seconds
        if row.number >= FIRST_PAST:  # a time may be kept no more
            entry.entry_timeout = entry.attr_timeout = PAST_SECONDS
        entry.st_mode = mode
        entry.st_blksize = BUFFER_BYTES
        entry.st_uid = row.uid
        entry.st_gid = row.gid
        entry.st_atime_ns = row.atime_ns
        entry.st_mtime_ns = row.mtime_ns
        entry.st_ctime_ns = row.ctime_ns
        if stat.S_ISREG(mode):
            entry.st_nlink = row.nlink
            entry.st_size = row.size
            if row.size:
                entry.st_blocks = -(-self._allocated_bytes(row) // SECTOR_BYTES)
        elif stat.S_ISDIR(mode):
            entry.st_nlink = 2 + row.subdirectories if row.nlink else 0
            entry.st_size = row.children
        else:
            entry.st_nlink = row.nlink
            entry.st_size = len(row.target)
            entry.st_rdev = row.rdev
        return entry


def statfs_reply(total_bytes: int, free_bytes: int, files: int) -> pyfuse3.StatvfsData:
    """The answer to `df`. Files cost rows, not a fixed table: plenty are always free."""
    data = pyfuse3.StatvfsData()
    data.f_bsize = STATFS_BLOCK_BYTES
    data.f_frsize = STATFS_BLOCK_BYTES
    data.f_blocks = total_bytes // STATFS_BLOCK_BYTES
    data.f_bfree = free_bytes // STATFS_BLOCK_BYTES
    data.f_bavail = data.f_bfree
    data.f_files = INODES_LIMIT
    data.f_ffree = INODES_LIMIT - files
    data.f_favail = data.f_ffree
    data.f_namemax = NAME_BYTES
    return data
