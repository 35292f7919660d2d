"""Other file systems, and ours, all used in one way: what `bench` compares.

A peer is there while its block runs: `peer.folder` is mounted. Peers that are not installed are
`Missing`, with what to install. Where they keep their caches and their state goes with the block.
`cloud_peers` has those that we did not write and that keep everything far away.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from measuring import (
    PYTHON,
    ROOT,
    SeaweedFS,
    Volume,
    drop_caches,
)

from tests.support.shaping import Traffic, Ways

START_SECONDS = 30.0
DRAIN_SECONDS = 300.0
STEP_SECONDS = 0.02


class Missing(Exception):
    """The peer is not installed; the text says what would."""


class Failed(Exception):
    """The peer did not do what it was asked; the text is its own."""


class Meter:
    """What a peer asks of its accounts, and what it keeps there."""

    def __init__(self, server: SeaweedFS, ways: Ways, bucket: str) -> None:
        self._server, self._ways, self._bucket = server, ways, bucket

    def traffic(self) -> list[Traffic]:
        """What went to and from each account so far."""
        return self._ways.traffic()

    def stored_bytes(self) -> int:
        """What lies in all accounts."""
        with contextlib.closing(self._server.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
            return sum(each["Size"] for page in pages for each in page.get("Contents", ()))


class Peer(ABC):
    """A mounted file system of whoever."""

    keeps = True  # what is written can be read
    meter: Meter | None = None  # of those whose accounts are behind lines
    is_over = False  # it took too long, and was killed

    def __init__(self, name: str, place: pathlib.Path) -> None:
        """`place` is an empty directory of its own."""
        self.name = name
        self.place = place
        self.folder = place / "mnt"
        self.folder.mkdir()

    @abstractmethod
    def mount(self) -> None:
        """Return when the folder is mounted."""

    @abstractmethod
    def unmount(self) -> None:
        """Return when it is not, and all that was written is stored."""

    @abstractmethod
    def forget(self) -> None:
        """Delete the local cache, while it is not mounted."""

    @abstractmethod
    def pids(self) -> list[int]:
        """The daemon's processes."""

    def drain(self) -> None:  # noqa: B027 - of most, nothing is left to do
        """Return when all that was written and closed is in the cloud."""

    def cold(self) -> None:
        """Nothing of any content is on this machine after that."""
        self.unmount()
        self.forget()
        drop_caches()
        self.mount()


class Ours(Peer):
    """aggfs over accounts of as many providers."""

    def __init__(self, name: str, place: pathlib.Path, k: int, accounts: Sequence[str]) -> None:
        super().__init__(name, place)
        self.folder.rmdir()  # the volume makes it, and mounts itself
        self._volume = Volume(place, k=k, n=len(accounts), accounts=accounts)
        self._volume.unmount()
        self._pids: list[int] = []

    def mount(self) -> None:
        self._volume.mount()
        self._pids = [self._volume.pid]

    def unmount(self) -> None:
        self._volume.unmount()

    def forget(self) -> None:
        """Done by `cold`."""

    def cold(self) -> None:
        self._volume.flush()
        self._volume.evict()
        self.unmount()
        drop_caches()
        self.mount()

    def drain(self) -> None:
        self._volume.flush()

    def pids(self) -> list[int]:
        return self._pids


class Program(Peer):
    """A peer that is one program in the foreground."""

    def __init__(self, name: str, place: pathlib.Path) -> None:
        super().__init__(name, place)
        self.cache = place / "cache"
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """What mounts it, and stays."""

    def environment(self) -> dict[str, str]:
        """Added to the program's."""
        return {}

    def mount(self) -> None:
        self.cache.mkdir(exist_ok=True)
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._came_or_ended, START_SECONDS, "no mount")
        if self._process.poll() is not None:
            raise Failed((self.place / "log").read_text(errors="replace").strip()[-200:])

    def _came_or_ended(self) -> bool:
        assert self._process is not None
        return os.path.ismount(self.folder) or self._process.poll() is not None

    def unmount(self) -> None:
        self.drain()
        subprocess.run(["fusermount3", "-u", str(self.folder)], check=False)
        self.wait(DRAIN_SECONDS)

    def wait(self, seconds: float) -> None:
        """Until the program has ended, which is killed if that takes longer."""
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()

    def forget(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def pids(self) -> list[int]:
        return mounting(self.folder)


class Null(Program):
    """The floor of whoever is built on pyfuse3: it forgets contents, and answers from memory."""

    keeps = False

    def command(self) -> list[str]:
        return [PYTHON, str(ROOT / "scripts/nullfs.py"), str(self.folder)]

    def cold(self) -> None:
        drop_caches()


class Gocryptfs(Program):
    """Encrypts over a directory of this machine: nothing is far away, nothing is uploaded."""

    def __init__(self, name: str, place: pathlib.Path) -> None:
        super().__init__(name, place)
        self._gocryptfs = found("gocryptfs", "Debian's gocryptfs")
        self._sealed = place / "sealed"
        self._sealed.mkdir()
        passphrase = place / "passphrase"
        passphrase.write_text("a passphrase")
        self._options = ["-q", "-passfile", str(passphrase)]
        once(self._gocryptfs, "-init", "-scryptn", "10", *self._options, str(self._sealed))

    def command(self) -> list[str]:
        return [self._gocryptfs, "-fg", *self._options, str(self._sealed), str(self.folder)]


class Plain(Peer):
    """No file system of anybody's: the disk that all the others keep their caches on."""

    def mount(self) -> None:
        """It is there."""

    def unmount(self) -> None:
        """It stays."""

    def forget(self) -> None:
        """There is no cache."""

    def pids(self) -> list[int]:
        return []


@contextlib.contextmanager
def mounted(
    make: type[Peer], seconds: float, name: str, *arguments: object, **options: object
) -> Iterator[Peer]:
    """A peer, mounted; gone with the block. Raises `Missing`. After so many seconds its daemon is
    killed, so that nothing waits for it for ever."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-peer-"))
    peer = None
    try:
        peer = make(name, place, *arguments, **options)
        peer.mount()
        watch = threading.Timer(seconds, end, [peer])
        watch.start()
        try:
            yield peer
        finally:
            watch.cancel()
    finally:
        with contextlib.suppress(subprocess.SubprocessError, OSError, TimeoutError, Failed):
            if peer is not None:
                peer.unmount()
        subprocess.run(
            ["fusermount3", "-uz", str(place / "mnt")], check=False, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(place, ignore_errors=True)


def end(peer: Peer) -> None:
    """Kill its daemon: whatever waits for it gets an error."""
    peer.is_over = True
    for pid in peer.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


LOCAL = {"gocryptfs": Gocryptfs, "null": Null, "plain directory": Plain}


def once(*command: str, told: str = "") -> str:
    """Run a command of a peer to its end; its output. Raises `Failed`."""
    done = subprocess.run(
        command, check=False, input=told, capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        words = f"{command[0].rpartition('/')[2]}: {done.stderr or done.stdout}"
        raise Failed(" ".join(words.split())[-300:])
    return done.stdout


def found(program: str, package: str) -> str:
    """Where a program is. Raises `Missing`."""
    path = shutil.which(program)
    if path is None:
        raise Missing(f"{program} is not installed ({package})")
    return path


def free_port() -> int:
    """One that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def mounting(folder: pathlib.Path) -> list[int]:
    """The processes that have a folder on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(STEP_SECONDS)
