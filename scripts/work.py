"""The work that is timed on each peer: one function for each kind, which yields figures.

A figure is (what, value, unit); more is better, but where the unit is of `LESS_IS_BETTER`. A kind
that takes too long ends early: rates are of what was done until then.
"""

import os
import pathlib
import random
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass

from measuring import GIB, MIB, cpu_seconds, in_time, read_file, rss_peak_mib, write_file
from peers import Peer
from trees import Tree, tree_work

from tests.support.shaping import Traffic

Figure = tuple[str, float, str]

LESS_IS_BETTER = {"s", "ms", "MiB", "CPU-s/GiB", "CPU-ms", "requests", "bytes"}
READ_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Amount:
    """How much work there is."""

    large_bytes: int
    small_files: tuple[int, ...]
    tree_files: int
    look_seconds: float  # for what could go on for ever
    limit_seconds: float  # for what has an end


SHORT = Amount(96 * MIB, (200,), 500, 3.0, 4.0)
FULL = Amount(384 * MIB, (1000, 10_000), 5000, 10.0, 15.0)
AGAIN = Amount(384 * MIB, (1000,), 0, 10.0, 15.0)  # what is done once more for the spread


class Bill:
    """What a peer's daemon and accounts have borne since."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._cpu = cpu(peer)
        self._traffic = peer.meter.traffic() if peer.meter else []

    def cpu(self, what: str, size: int) -> Iterator[Figure]:
        """Of a peer that has a daemon."""
        if self._peer.pids():
            yield f"{what}, daemon", (cpu(self._peer) - self._cpu) * GIB / size, "CPU-s/GiB"

    def traffic(self) -> list[Traffic]:
        """Of each account that took part; none where there are no lines."""
        after = self._peer.meter.traffic() if self._peer.meter else []
        since = [
            Traffic(
                new.requests - old.requests,
                new.sent_bytes - old.sent_bytes,
                new.received_bytes - old.received_bytes,
            )
            for new, old in zip(after, self._traffic, strict=True)
        ]
        return [each for each in since if each.requests]

    def requests(self, what: str, count: float) -> Iterator[Figure]:
        """Of so many things done."""
        if traffic := self.traffic():
            yield f"{what}, all accounts", sum(t.requests for t in traffic) / count, "requests"
            yield f"{what}, busiest account", max(t.requests for t in traffic) / count, "requests"


def all_work(peer: Peer, amount: Amount, tree: Tree) -> Iterator[Figure]:
    """Everything that a peer can do."""
    yield from stream(peer, amount)
    for count in amount.small_files:
        yield from small_files(peer, count, amount.limit_seconds)
    if peer.keeps:
        if amount.tree_files:
            yield from tree_work(peer, tree, amount.limit_seconds)
        yield from transactions(peer, amount.look_seconds)


def stream(peer: Peer, amount: Amount) -> Iterator[Figure]:
    """A large file written, stored, read cold, read again, and read here and there."""
    path, size = peer.folder / "large", amount.large_bytes
    yield from written(peer, path, size)
    peer.cold()
    yield from read_through(peer, path, size)
    for name, length in (("4 KiB", 4096), ("64 KiB", 65536)):
        rate = random_reads(path, size, length, amount.look_seconds)
        yield f"random reads of {name}, warm", rate, "1/s"
    yield from memory("file read", peer)
    peer.cold()
    path.stat()
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        file.read(READ_BYTES)
    yield "first 4 KiB, cold", 1000 * (time.monotonic() - began), "ms"
    for name, length in (("4 KiB", 4096), ("64 KiB", 65536)):
        peer.cold()
        rate = random_reads(path, size, length, amount.look_seconds)
        yield f"random reads of {name}, cold", rate, "1/s"


def written(peer: Peer, path: pathlib.Path, size: int) -> Iterator[Figure]:
    bill, began = Bill(peer), time.monotonic()
    write_file(path, size)
    at = time.monotonic()
    peer.drain()
    yield "write, application", size / 1e6 / (at - began), "MB/s"
    yield "write, until in the cloud", size / 1e6 / (time.monotonic() - began), "MB/s"
    yield from bill.cpu("write", size)
    yield from bill.requests("requests of a GiB written", size / GIB)
    if peer.meter:
        sent = sum(each.sent_bytes for each in bill.traffic())
        yield "bytes sent for a byte written", sent / size, "bytes"
        yield "bytes stored for a byte written", peer.meter.stored_bytes() / size, "bytes"
    yield from memory("file written", peer)


def read_through(peer: Peer, path: pathlib.Path, size: int) -> Iterator[Figure]:
    path.stat()
    for what in ("cold read", "warm read"):
        bill, began = Bill(peer), time.monotonic()
        read_file(path)
        yield what, size / 1e6 / (time.monotonic() - began), "MB/s"
        yield from bill.cpu(what, size)
        if what == "cold read" and peer.meter:
            yield from bill.requests("requests of a GiB read cold", size / GIB)
            received = sum(each.received_bytes for each in bill.traffic())
            yield "bytes received for a byte read cold", received / size, "bytes"


def random_reads(path: pathlib.Path, size: int, length: int, seconds: float) -> float:
    """Reads of one thread each second, as `read_times` makes them."""
    took = read_times(path, size, length, seconds)
    return len(took) / sum(took)


def read_times(path: pathlib.Path, size: int, length: int, seconds: float) -> list[float]:
    """What reads here and there take, in seconds. No place is read twice, and nothing is in the
    kernel's pages before."""
    places = list(range(0, size, length))
    random.Random(1).shuffle(places)  # noqa: S311 - any places will do
    took: list[float] = []
    end = time.monotonic() + seconds
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for place in places:
            began = time.monotonic()
            os.pread(file.fileno(), length, place)
            took.append(time.monotonic() - began)
            if time.monotonic() > end:
                break
    return took


def small_files(peer: Peer, count: int, limit_seconds: float) -> Iterator[Figure]:
    """Files of 4 KiB made, stored, listed, read cold, renamed, removed."""
    name = f"{count:,} small files"
    folder = peer.folder / f"small{count}"
    folder.mkdir()

    def make(number: int) -> None:
        (folder / f"{number:05d}").write_bytes(os.urandom(READ_BYTES))

    bill, began = Bill(peer), time.monotonic()
    _, made = in_time(map(make, range(count)), limit_seconds)
    yield f"{name}, made", made, "1/s"
    peer.drain()
    done = len(os.listdir(folder))
    yield f"{name}, until in the cloud", done / (time.monotonic() - began), "1/s"
    yield from bill.requests(f"{name}, a file made", done)
    peer.cold()
    began = time.monotonic()
    names = sorted(os.listdir(folder))
    yield f"{name}, first listing", 1000 * (time.monotonic() - began), "ms"
    _, read = in_time(((folder / each).read_bytes() for each in names), limit_seconds)
    yield f"{name}, read cold", read, "1/s"
    paths = [folder / each for each in names]
    _, renamed = in_time(
        (path.rename(path.with_suffix(".new")) for path in paths[:500]), limit_seconds
    )
    yield f"{name}, renamed", renamed, "1/s"
    _, removed = in_time((os.unlink(entry) for entry in list(os.scandir(folder))), limit_seconds)
    yield f"{name}, removed", removed, "1/s"


def transactions(peer: Peer, seconds: float) -> Iterator[Figure]:
    """Inserts into SQLite, each synced."""
    base = sqlite3.connect(peer.folder / "base.db", isolation_level=None)
    try:
        base.execute("pragma journal_mode=wal")
        base.execute("pragma synchronous=full")
        base.execute("create table t (body blob)")
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            base.execute("insert into t values (randomblob(200))")
            count += 1
        yield "SQLite transactions", count / (time.monotonic() - began), "1/s"
    finally:
        base.close()


def cpu(peer: Peer) -> float:
    """User and system seconds of the daemon so far."""
    return sum(map(cpu_seconds, peer.pids()))


def memory(what: str, peer: Peer) -> Iterator[Figure]:
    """The most that the daemon's processes had at once since the mount."""
    if peer.pids():
        yield f"peak memory of the daemon, {what}", sum(map(rss_peak_mib, peer.pids())), "MiB"
