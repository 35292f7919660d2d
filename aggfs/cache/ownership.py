"""Being the only process that uses a directory of local state."""

import fcntl
import os

from aggfs.errors import Busy


def lock_alone(path: str) -> int:
    """Own the directory `path` until the descriptor that is returned is closed. Raises Busy."""
    lock = os.open(os.path.join(path, "owner.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise Busy(f"another process has the local state in {path} open") from error
    return lock
