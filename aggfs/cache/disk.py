"""The disk that holds the local state: how large it is, and what it has left."""

import os
from pathlib import Path


def disk_bytes(directory: Path) -> int:
    """The size of the file system that a directory is on."""
    disk = os.statvfs(directory)
    return disk.f_blocks * disk.f_frsize


def free_bytes(directory: Path) -> int:
    """What this process could still write there."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize
