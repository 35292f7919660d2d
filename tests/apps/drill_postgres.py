"""PostgreSQL: a cluster on the mount under pgbench, whose server is killed, and then the mount."""

import os
import select
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse
from tests.support.programs import run
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse

IS_ROOT = os.geteuid() == 0
CLIENTS, TRANSACTIONS = 4, 150
END_SECONDS = 60.0
SUMS = """select sum(abalance) = (select sum(delta) from pgbench_history),
    sum(abalance) = (select sum(bbalance) from pgbench_branches),
    sum(abalance) = (select sum(tbalance) from pgbench_tellers) from pgbench_accounts"""


@pytest.fixture(scope="module")
def mount_options() -> tuple[str, ...]:
    """PostgreSQL will not run as root: another user has to reach the mount then."""
    return ("allow_other",) if IS_ROOT else ()


class Cluster:
    """A cluster of databases at `data`; its socket and logs lie in `beside`, off the mount."""

    def __init__(self, data: Path, beside: Path) -> None:
        self._data, self._beside = data, beside

    def run(self, program: str, *arguments: str | Path) -> str:
        """One of PostgreSQL's programs, as the user who owns the cluster."""
        [*_, programs] = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        owner = ("runuser", "-u", "postgres", "--") if IS_ROOT else ()
        where = {"PGDATA": self._data, "PGHOST": self._beside, "PGDATABASE": "postgres"}
        command = (*owner, programs / program, *arguments)
        return run(*command, at=self._beside, seconds=600, **where)

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self._beside}"
        self.run("pg_ctl", "start", "-w", "-l", self._beside / "log", "-o", options)

    def stop(self, how: str = "fast") -> None:
        self.run("pg_ctl", "stop", "-w", "-m", how)

    @contextmanager
    def server_ending(self) -> Iterator[None]:
        """It is running before the block, and ended after it, without a look at its files."""
        server = int((self._data / "postmaster.pid").read_text().split()[0])
        descriptor = os.pidfd_open(server)
        try:
            yield
            signal.pidfd_send_signal(descriptor, signal.SIGQUIT)
            assert select.select([descriptor], [], [], END_SECONDS)[0], "the server goes on"
        finally:
            os.close(descriptor)

    def unlock(self) -> None:
        """The server has ended, but its number is taken until the first process of the machine has
        looked after it, and so long PostgreSQL thinks that it runs."""
        (self._data / "postmaster.pid").unlink()

    def ask(self, question: str) -> str:
        return self.run("psql", "-Atc", question).strip()

    def work(self) -> int:
        """pgbench; how many transactions it was told are committed so far."""
        share = ("-c", str(CLIENTS), "-t", str(TRANSACTIONS), "--log")
        self.run("pgbench", "--no-vacuum", *share)
        logs = self._beside.glob("pgbench_log.*")
        return sum(log.read_bytes().count(b"\n") for log in logs)

    def assert_has(self, committed: int) -> None:
        """The books balance, and every transaction that was told is in them."""
        assert self.ask(SUMS) == "t|t|t"
        assert int(self.ask("select count(*) from pgbench_history")) >= committed


@pytest.fixture
def cluster(volume: LiveVolume, place: Path) -> Iterator[Cluster]:
    beside = Path(tempfile.mkdtemp(prefix="pg"))  # a socket's path is short
    for directory in volume.folder.parents:
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o111)
    if IS_ROOT:
        for directory in (place, beside):
            shutil.chown(directory, "postgres", "postgres")
    made = Cluster(place / "data", beside)
    try:
        yield made
    finally:
        if (place / "data" / "postmaster.pid").exists():
            made.stop("immediate")
        shutil.rmtree(beside)


def test_a_cluster_survives_its_server_and_its_mount(
    cluster: Cluster,
    volume: LiveVolume,
    cold: Callable[[], None],
    mount_options: tuple[str, ...],
):
    cluster.run("initdb", "--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8")
    cluster.start()
    cluster.run("pgbench", "--initialize", "--quiet", "--scale=2")
    committed = cluster.work()
    assert committed == CLIENTS * TRANSACTIONS
    cluster.stop("immediate")
    cluster.start()
    cluster.assert_has(committed)
    committed = cluster.work()
    with cluster.server_ending():
        volume.kill()
    volume.mount(*mount_options)
    cluster.unlock()
    cluster.start()
    cluster.assert_has(committed)
    cluster.stop()
    cold()
    cluster.run("pg_checksums", "--check")
    cluster.start()
    cluster.assert_has(committed)
    cluster.run("pg_amcheck", "--install-missing", "--all")
    cluster.stop()
