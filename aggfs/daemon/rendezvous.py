"""Where the daemon of a volume and the commands meet: a socket in its state directory.

Standard library only: every command imports this, and must start fast.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from aggfs import errors
from aggfs.errors import AggfsError

SOCKET_NAME = "control.sock"
ADDRESS_BYTES = 107  # sun_path, less its final zero

REQUEST_BYTES = 64 * 1024
REPLY_BYTES = 64 * 1024 * 1024


def socket_path(state_directory: str) -> str:
    """The control socket of the volume with this state directory."""
    return os.path.join(state_directory, SOCKET_NAME)


@contextmanager
def address_of(path: str) -> Iterator[str]:
    """An address for bind(2) or connect(2) that means `path`, however long that is."""
    if len(os.fsencode(path)) <= ADDRESS_BYTES:
        yield path
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"
    finally:
        os.close(directory)


def named_error(name: str, text: str) -> AggfsError:
    """The error that another process told by name. Unknown names give the plain `AggfsError`."""
    kind = getattr(errors, name, AggfsError)
    if isinstance(kind, type) and issubclass(kind, AggfsError):
        return kind(text)
    return AggfsError(text)
