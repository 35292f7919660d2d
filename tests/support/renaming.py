"""rename with flags: Python's os module does not have it."""

import ctypes
import os
from pathlib import Path

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_FDCWD = -100

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: Path | bytes, new: Path | bytes, flags: int) -> None:
    """Raises `OSError` as `os.rename` does."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
