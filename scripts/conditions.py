"""What aggfs costs and bears where it is alone: accounts that stop or are slow, requests that must
not happen, and what a request of metadata costs beside the floor. Figures are (what, value, unit,
bar)."""

import os
import pathlib
import time
from collections.abc import Iterator

from measuring import (
    MIB,
    Distance,
    Volume,
    cpu_seconds,
    drop_caches,
    null_filesystem,
    read_file,
    run,
    s3_accounts,
    s3_ways,
    volume,
    write_file,
)
from peers import mounting
from work import Amount, read_times

FAR = Distance(rtt_seconds=0.02, bytes_per_second=30e6)
TEN_TIMES = Distance(rtt_seconds=0.2, bytes_per_second=3e6)

Judged = tuple[str, float, str, str]


def one_stopped(amount: Amount) -> Iterator[Judged]:
    """A cold read of 2-of-3 with one account away."""
    size = amount.large_bytes
    with s3_ways(3, FAR) as (_, ways), volume(k=2, n=3, accounts=s3_accounts(ways)) as made:
        path = made.mountpoint / "large"
        write_file(path, size)
        for what in ("cold read, 2-of-3", "cold read, 2-of-3, one account stopped"):
            cold(made)
            path.stat()
            began = time.monotonic()
            read_file(path)
            yield what, size / 1e6 / (time.monotonic() - began), "MB/s", ""
            ways.cut(1)


def one_slow(amount: Amount) -> Iterator[Judged]:
    """Random reads of 3-of-5, and with one account ten times slower."""
    seconds = 4 * amount.look_seconds
    with s3_ways(5, FAR) as (_, ways), volume(accounts=s3_accounts(ways)) as made:
        path = made.mountpoint / "large"
        write_file(path, amount.large_bytes)
        p95 = []
        for what in ("as far as the others", "ten times slower"):
            cold(made)
            took = sorted(read_times(path, amount.large_bytes, 4096, seconds))
            p95.append(1000 * took[len(took) * 95 // 100])
            yield f"p95 of cold random reads of 4 KiB, one account {what}", p95[-1], "ms", ""
            ways.move(2, TEN_TIMES)
        yield "change of the p95", 100 * (p95[1] / p95[0] - 1), "%", "about 0"


def cold(made: Volume) -> None:
    made.flush()
    made.evict()
    made.unmount()
    drop_caches()
    made.mount()


def no_requests(amount: Amount) -> Iterator[Judged]:
    """What the page cache and the local state answer alone."""
    count, size = amount.small_files[0], amount.large_bytes
    with s3_ways(5, FAR) as (_, ways), volume(accounts=s3_accounts(ways)) as made:
        folder = made.mountpoint / "names"
        folder.mkdir()
        make(folder, count)
        path = made.mountpoint / "large"
        write_file(path, size)
        made.flush()
        through_pages(path)
        pid = made.pid
        before = cpu_seconds(pid)
        through_pages(path)
        yield "re-read out of the page cache, daemon", cpu_seconds(pid) - before, "CPU-s", "0"
        made.unmount()
        drop_caches()
        made.mount()
        for what, act in (
            (f"{count:,} files, ls -lR", lambda: run("ls", "-lR", str(folder))),
            (f"{count:,} files, stat", lambda: look(folder)),
            (f"{count:,} files, renamed", lambda: rename(folder)),
        ):
            made.flush()
            before = requests(ways)
            act()
            yield f"requests of {what}", requests(ways) - before, "requests", "0"


def through_pages(path: pathlib.Path) -> None:
    """Read it all, and let the kernel keep it."""
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass


def requests(ways) -> int:
    return sum(each.requests for each in ways.traffic())


def beside_null(amount: Amount) -> Iterator[Judged]:
    """CPU of both daemons for one request of a kind."""
    count = 10 * amount.small_files[0]
    with volume() as made, null_filesystem() as null:
        places = [("aggfs", made.mountpoint, made.pid), ("null", null, mounting(null)[0])]
        for what, act in (
            ("file made", lambda folder: make(folder, count)),
            ("listing and stat of a name the kernel forgot", look),
            ("rename", rename),
            ("removal", remove),
        ):
            costs = {}
            for who, top, pid in places:
                folder = top / "metadata"
                folder.mkdir(exist_ok=True)
                drop_caches()
                before = cpu_seconds(pid)
                act(folder)
                costs[who] = (cpu_seconds(pid) - before) * 1e6 / count
                yield f"{what}, {who}", costs[who], "CPU-us", ""
            if costs["null"]:
                yield f"{what}, times the floor", costs["aggfs"] / costs["null"], "", ""


def make(folder: pathlib.Path, count: int) -> None:
    for number in range(count):
        os.mknod(folder / f"{number:06}", 0o600)


def look(folder: pathlib.Path) -> None:
    for name in os.listdir(folder):
        os.stat(folder / name)


def rename(folder: pathlib.Path) -> None:
    for name in os.listdir(folder):
        os.rename(folder / name, folder / f"{name}.new")


def remove(folder: pathlib.Path) -> None:
    for name in os.listdir(folder):
        os.unlink(folder / name)


CONDITIONS = [one_stopped, one_slow, no_requests, beside_null]
