"""A file that only occupies space, so that a full disk can still record what frees it."""

import os

_FULL_BYTES = 1024 * 1024


class Headroom:
    """`size_bytes` of the file system, kept in reserve in `directory`."""

    def __init__(self, directory: str, size_bytes: int) -> None:
        self._directory = directory
        self._path = os.path.join(directory, "headroom")
        self._size_bytes = size_bytes
        self._held = False
        self.reserve()

    @property
    def held(self) -> bool:
        """Whether the space is in reserve."""
        return self._held

    def needed(self) -> bool:
        """Whether the file system is full just now."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize < _FULL_BYTES

    def reserve(self) -> bool:
        """Take the space, if it is to be had; whether it is held now."""
        if not self._held:
            try:
                self._allocate()
                self._held = True
            except OSError:  # no room now: `held` says so, and the next call tries again
                self._truncate()
        return self._held

    def release(self) -> bool:
        """Give the space back; whether that freed anything."""
        if not self._held:
            return False
        self._held = False
        self._truncate()
        return True

    def _allocate(self) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._size_bytes)
        finally:
            os.close(descriptor)

    def _truncate(self) -> None:
        if os.path.exists(self._path):
            os.truncate(self._path, 0)
