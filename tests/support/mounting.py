"""Real mounts for tests: started as a process, and gone when the test is, whatever it did."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from aggfs.cli.client import call
from aggfs.daemon.mountpoint import mounted_at
from aggfs.daemon.rendezvous import socket_path
from tests.support.checking import assert_sound

TOP = Path(__file__).parent.parent.parent
START_SECONDS = 60
LIFETIME_SECONDS = 240
STOP_SECONDS = 60

# The one reason to skip that scripts/check lets pass: without the device nothing can be mounted.
needs_fuse = pytest.mark.skipif(
    not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse on this machine"
)


@dataclass
class ServedFolder:
    """A mounted folder and the process that serves it."""

    path: str
    state_directory: str
    log_path: str
    process: subprocess.Popen[bytes]
    expected_log: list[str] = field(default_factory=list)

    @property
    def socket(self) -> str:
        return socket_path(self.state_directory)

    def ask(self, verb: str, **arguments: object) -> dict[str, object]:
        """Call a verb of the daemon."""
        return call(self.socket, verb, **arguments)

    def comes_to_say(self, verb: str, result: dict[str, object]) -> bool:
        """Ask until the answer is `result`: release and forget have no reply to wait for."""
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if self.ask(verb) == result:
                return True
            os.listdir(self.path)  # requests carry what the kernel forgets along
        return False

    def expect_log(self, text: str) -> None:
        """The test provokes a warning or error with this text in it."""
        self.expected_log.append(text)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def wait_until_unmounted(self) -> None:
        """Until the name is free; the process may go on for those who have files open."""
        deadline = time.monotonic() + STOP_SECONDS
        while mounted_at(self.path) is not None:
            assert time.monotonic() < deadline, "still mounted"

    def log(self) -> str:
        """What the process printed and logged."""
        return Path(self.log_path).read_text(errors="replace")

    def unexpected_log(self) -> list[str]:
        """Log records of WARNING and above that the test did not name."""
        lines = [
            line
            for line in self.log().splitlines()
            if line.startswith(("WARNING", "ERROR", "CRIT"))
        ]
        return [line for line in lines if not any(text in line for text in self.expected_log)]


@contextmanager
def served(
    module: str,
    top: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    under: Sequence[str] = (),
) -> Iterator[ServedFolder]:
    """Run `python -m module MOUNTPOINT STATE arguments` until the block ends; `under` a tracer,
    which is given the command.

    Yields when the folder answers. The process and the mount are gone afterwards, and the local
    state that a volume leaves is in order.
    """
    mountpoint, state = top / "mnt", top / "state"
    mountpoint.mkdir(exist_ok=True)
    state.mkdir(mode=0o700, exist_ok=True)
    log_path = top / "daemon.log"
    where, inherited = str(mountpoint), []
    if under and os.geteuid() != 0:
        inherited = [mounted_beforehand(where)]
        where = f"/dev/fd/{inherited[0]}"  # libfuse takes that for a mounted folder's connection
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [*under, sys.executable, "-m", module, where, str(state), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=TOP,
            env=environment,
            start_new_session=True,
            pass_fds=inherited,
        )
    for descriptor in inherited:
        os.close(descriptor)
    folder = ServedFolder(str(mountpoint), str(state), str(log_path), process)
    # A call into a folder that never answers cannot be interrupted; it ends with the daemon.
    guardian = threading.Timer(LIFETIME_SECONDS, process.kill)
    guardian.daemon = True
    guardian.start()
    try:
        wait_until_ready(folder)
        yield folder
    finally:
        guardian.cancel()
        end(folder)
    trio.run(assert_sound, state)


def mounted_beforehand(mountpoint: str) -> int:
    """Mount a folder that another process will serve; the connection's descriptor. Under a tracer
    `fusermount3` has not the rights that setuid gives it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            ["fusermount3", "-o", "default_permissions,fsname=aggfs,subtype=aggfs", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            timeout=START_SECONDS,
            check=True,
        )
        return socket.recv_fds(ours, 1, 1)[1][0]


def unmount(folder: ServedFolder) -> None:
    """As its user does; the process goes on with what waits, and ends."""
    subprocess.run(["fusermount3", "-u", folder.path], timeout=STOP_SECONDS, check=True)


def wait_until_ready(folder: ServedFolder) -> None:
    """Until the process prints "ready"; fails with its log when it ends before."""
    assert folder.process.stdout is not None
    readable, _, _ = select.select([folder.process.stdout], [], [], START_SECONDS)
    line = folder.process.stdout.readline() if readable else b""
    if line.strip() != b"ready":
        raise AssertionError(f"the folder was not ready: {line!r}\n{folder.log()}")


def end(folder: ServedFolder) -> None:
    """End the process, kindly if it listens, and take its mount away."""
    process = folder.process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
    while mounted_at(folder.path) is not None:
        subprocess.run(["fusermount3", "-u", "-z", folder.path], timeout=STOP_SECONDS, check=True)
    if process.stdout is not None:
        process.stdout.close()
