"""Starting the daemon behind the command that asked for it.

The parent forks before anything is opened (LMDB and trio do not survive a fork), the child does
the work and tells over a pipe how it went: its pid first, then that the folder is ready, or one
error. The parent returns, or raises that error, so a user reads one line and no traceback.

The daemon leaves the parent's session only when the folder is there: where an automount asked for
it, the kernel lets processes of that group pass to the directory, and refuses all others.
"""

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from aggfs.daemon.rendezvous import named_error
from aggfs.errors import AggfsError, MountRefused
from aggfs.mount.errors import leaves

log = logging.getLogger(__name__)

MESSAGE_BYTES = 64 * 1024
READY_SECONDS = 300.0

Ready = Callable[[], None]


class Teller:
    """The child's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def started(self) -> None:
        """This process is the daemon."""
        self._send({"pid": os.getpid()})

    def ready(self) -> None:
        """The folder answers: the parent may go."""
        self._send({"ready": True})
        self.close()

    def failed(self, error: BaseException) -> None:
        """Nothing will come; does nothing after `ready`."""
        found = first_of_ours(error)
        if found is None:
            self._send({"error": "AggfsError", "text": f"{type(error).__name__}: {error}"})
        else:
            self._send({"error": type(found).__name__, "text": str(found)})
        self.close()

    def close(self) -> None:
        """No more messages."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _send(self, message: dict[str, object]) -> None:
        if self._descriptor is None:
            return
        line = json.dumps(message).encode()[: MESSAGE_BYTES - 1] + b"\n"
        try:
            os.write(self._descriptor, line)
        except BrokenPipeError:
            self.close()  # the parent was ended; the folder is served all the same


def first_of_ours(error: BaseException) -> AggfsError | None:
    """The error of ours in what a nursery may have tied together."""
    return next((leaf for leaf in leaves(error) if isinstance(leaf, AggfsError)), None)


def start(work: Callable[[Ready], None], log_path: str, *, seconds: float = READY_SECONDS) -> int:
    """Run `work(ready)` in a daemon; returns its pid once it has called `ready`.

    Raises what the daemon raised before that, as one error of ours. The calling process must have
    one thread. `log_path` receives what the daemon prints and logs.
    """
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        os.close(reading)
        _become_daemon(work, writing, log_path)
    os.close(writing)
    os.waitpid(middle, 0)
    try:
        return _wait_until_ready(reading, log_path, time.monotonic() + seconds)
    finally:
        os.close(reading)


def _wait_until_ready(reading: int, log_path: str, deadline: float) -> int:
    pid = 0
    try:
        for line in _lines(reading, deadline):
            message = json.loads(line)
            if "error" in message:
                raise named_error(message["error"], message["text"])
            if "ready" in message:
                return pid
            pid = message["pid"]
    except (KeyboardInterrupt, TimeoutError) as stop:
        if pid:
            os.kill(pid, signal.SIGTERM)
        if isinstance(stop, TimeoutError):
            raise MountRefused(f"the folder was not ready in time; see {log_path}") from None
        raise
    raise MountRefused(f"the daemon ended before the folder was ready; see {log_path}")


def _lines(reading: int, deadline: float) -> Iterator[bytes]:
    pending = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            raise TimeoutError
        data = os.read(reading, MESSAGE_BYTES)
        if not data:
            return
        *lines, pending = (pending + data).split(b"\n")
        yield from lines


def _become_daemon(work: Callable[[Ready], None], writing: int, log_path: str) -> NoReturn:
    if os.fork():
        os._exit(0)
    code = 1
    teller = Teller(writing)

    def ready() -> None:
        os.setsid()
        teller.ready()

    try:
        os.umask(0o077)
        os.chdir("/")
        _redirect_output(log_path)
        teller.started()
        work(ready)
        code = 0
    except BaseException as error:
        if first_of_ours(error) is None:
            log.critical("the daemon ended", exc_info=error)
        else:
            log.error("the daemon ended: %s", first_of_ours(error))
        teller.failed(error)
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the parent's exit handlers are not ours


def _redirect_output(log_path: str) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)
