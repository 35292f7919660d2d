"""The work that is timed on each peer: one function for each kind, which yields figures.

A figure is (what, value, unit); more is better, but where the unit is of `LESS_IS_BETTER`.
"""

import os
import pathlib
import random
import sqlite3
import time
from collections.abc import Iterator

from measuring import GIB, MIB, cpu_seconds, read_file, write_file
from peers import Peer

Figure = tuple[str, float, str]

LESS_IS_BETTER = {"s", "ms", "CPU-s/GiB"}
LOOK_SECONDS = 6.0
READ_BYTES = 4096


def stream(peer: Peer, size: int) -> Iterator[Figure]:
    """A large file written, stored, read cold, read again; first bytes and random reads, cold."""
    path = peer.folder / "large"
    began, before = time.monotonic(), cpu(peer)
    write_file(path, size)
    written = time.monotonic()
    peer.drain()
    yield "write, application", size / 1e6 / (written - began), "MB/s"
    yield "write, until in the cloud", size / 1e6 / (time.monotonic() - began), "MB/s"
    yield from cost("write", peer, before, size)
    peer.cold()
    path.stat()
    began, before = time.monotonic(), cpu(peer)
    read_file(path)
    yield "cold read", size / 1e6 / (time.monotonic() - began), "MB/s"
    yield from cost("cold read", peer, before, size)
    began, before = time.monotonic(), cpu(peer)
    read_file(path)
    yield "warm read", size / 1e6 / (time.monotonic() - began), "MB/s"
    yield from cost("warm read", peer, before, size)
    peer.cold()
    path.stat()
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        file.read(READ_BYTES)
    yield "first 4 KiB, cold", 1000 * (time.monotonic() - began), "ms"
    for name, length in (("4 KiB", 4096), ("64 KiB", 65536)):
        peer.cold()
        yield f"random reads of {name}, cold", random_reads(path, size, length), "1/s"


def random_reads(path: pathlib.Path, size: int, length: int) -> float:
    """Reads of one thread each second, at places drawn anew."""
    draw = random.Random(1)  # noqa: S311 - any places will do
    count, began = 0, time.monotonic()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while time.monotonic() - began < LOOK_SECONDS:
            os.pread(file.fileno(), length, draw.randrange(size // length) * length)
            count += 1
    return count / (time.monotonic() - began)


def small_files(peer: Peer, count: int) -> Iterator[Figure]:
    """Files of 4 KiB made, stored, read cold, renamed, removed."""
    folder = peer.folder / "small"
    folder.mkdir()
    began = time.monotonic()
    for number in range(count):
        (folder / f"{number:05d}").write_bytes(os.urandom(READ_BYTES))
    made = time.monotonic()
    peer.drain()
    yield "small files, made", count / (made - began), "1/s"
    yield "small files, until in the cloud", count / (time.monotonic() - began), "1/s"
    peer.cold()
    began = time.monotonic()
    for name in sorted(os.listdir(folder)):
        (folder / name).read_bytes()
    yield "small files, listed and read cold", count / (time.monotonic() - began), "1/s"
    some = sorted(folder.iterdir())[:500]
    began = time.monotonic()
    for path in some:
        path.rename(path.with_suffix(".new"))
    yield "renames", len(some) / (time.monotonic() - began), "1/s"
    began = time.monotonic()
    for path in list(folder.iterdir()):
        path.unlink()
    yield "removals", count / (time.monotonic() - began), "1/s"


def transactions(peer: Peer) -> Iterator[Figure]:
    """Inserts into SQLite, each synced."""
    base = sqlite3.connect(peer.folder / "base.db", isolation_level=None)
    try:
        base.execute("pragma journal_mode=wal")
        base.execute("pragma synchronous=full")
        base.execute("create table t (body blob)")
        count, began = 0, time.monotonic()
        while time.monotonic() - began < LOOK_SECONDS:
            base.execute("insert into t values (randomblob(200))")
            count += 1
        yield "SQLite transactions", count / (time.monotonic() - began), "1/s"
    finally:
        base.close()


def cpu(peer: Peer) -> float:
    """User and system seconds of the daemon so far."""
    return sum(cpu_seconds(pid) for pid in peer.pids())


def cost(what: str, peer: Peer, before: float, size: int) -> Iterator[Figure]:
    """What the daemon took since, of a peer that has one."""
    if peer.pids():
        yield f"{what}, daemon", (cpu(peer) - before) * GIB / size, "CPU-s/GiB"


def all_work(peer: Peer, *, short: bool) -> Iterator[Figure]:
    """Everything."""
    yield from stream(peer, (192 if short else 1024) * MIB)
    yield from small_files(peer, 300 if short else 1000)
    yield from transactions(peer)
