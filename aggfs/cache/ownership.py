"""Being the only process that uses a directory of local state."""

import fcntl
import os

from aggfs.errors import Busy

LOCK_NAME = "owner.lock"


def lock_alone(path: str) -> int:
    """Own the directory `path` until the descriptor that is returned is closed. Raises Busy."""
    lock = os.open(os.path.join(path, LOCK_NAME), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Busy(f"another process has the local state in {path} open") from error
    return lock


def is_owned(path: str) -> bool:
    """Whether a process owns the directory now."""
    return not _could_share(path, fcntl.LOCK_NB)


def wait_until_unowned(path: str) -> None:
    """Return when no process owns the directory; a signal whose handler raises ends the wait."""
    _could_share(path, 0)


def _could_share(path: str, flags: int) -> bool:
    try:
        lock = os.open(os.path.join(path, LOCK_NAME), os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | flags)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
