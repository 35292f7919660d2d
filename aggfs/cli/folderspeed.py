"""How fast a folder is, measured from outside by what programs do. Standard library alone.

All of it happens in a directory of its own, which is gone afterwards, whatever happened: a full
disk, an interrupt, the end of the time. Each measurement stops at its number of bytes or
operations, or when its time is over, and says what it did until then.
"""

import errno
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path

from aggfs.errors import NoEntry, NoSpace, NotADirectory

PREFIX = ".aggfs-bench-"
PIECE_BYTES = 1 << 20
SMALL_BYTES = 4096
SMALL_FILES = 500
RANDOM_READS = 2000
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

Step = Callable[[], int]
Steps = Generator[Step, None, None]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement: so many operations and bytes in so many seconds; how long the slowest of
    95 % of the operations took."""

    what: str
    operations: int
    size_bytes: int
    seconds: float
    mean_seconds: float
    p95_seconds: float


def measure_folder(
    path: Path, *, size_bytes: int, seconds: float, report: Report = lambda text: None
) -> list[Measured]:
    """Measure writing, reading, small files and stat in `path`: a large file of `size_bytes`, each
    measurement for up to `seconds`.

    Raises `NoEntry`, `NotADirectory`, `NoSpace`, or `OSError` where nothing can be made there.
    Leaves nothing behind.
    """
    if not path.exists():
        raise NoEntry(f"{path}: there is no such folder")
    if not path.is_dir():
        raise NotADirectory(f"{path} is no folder")
    with _room_in(path) as room:
        runner = _Runner(seconds, report)
        large = room / "large"
        runner.run(
            "write, 1 MiB each, with fsync", _writes(large, size_bytes), last=_syncing(large)
        )
        runner.run("read again, 1 MiB each", _reads(large))
        runner.run("read 4 KiB anywhere", _random_reads(large))
        runner.run("make a file of 4 KiB", _new_files(room))
        runner.run("read a file of 4 KiB", _whole_reads(room))
        runner.run("stat", _stats(room))
    return runner.found


@contextmanager
def _room_in(path: Path) -> Iterator[Path]:
    """A directory in `path` for as long as the block runs."""
    room = Path(tempfile.mkdtemp(prefix=PREFIX, dir=path))
    try:
        yield room
    except OSError as error:
        if error.errno in FULL:
            raise NoSpace(f"{path} is full: nothing more could be written") from error
        raise
    finally:
        shutil.rmtree(room)


class _Runner:
    """Runs measurements one after the other, each within its time."""

    def __init__(self, seconds: float, report: Report) -> None:
        self._seconds = seconds
        self._report = report
        self.found: list[Measured] = []

    def run(self, what: str, steps: Steps, *, last: Step | None = None) -> None:
        """Time `steps`, at least one, which return how many bytes they moved. `last` belongs to all
        of them: it counts as time, and as no operation."""
        self._report(what)
        began = before = time.perf_counter()
        latencies, moved = [], 0
        with closing(steps):
            for step in steps:
                moved += step()
                now = time.perf_counter()
                latencies.append(now - before)
                before = now
                if now - began >= self._seconds:
                    break
        if last is not None:
            last()
        seconds = time.perf_counter() - began
        latencies.sort()
        self.found.append(
            Measured(
                what,
                len(latencies),
                moved,
                seconds,
                sum(latencies) / len(latencies),
                latencies[min(len(latencies) - 1, len(latencies) * 95 // 100)],
            )
        )


def _writes(path: Path, size_bytes: int) -> Steps:
    """Bytes that nothing can compress, never the same twice."""
    noise = os.urandom(2 * PIECE_BYTES)
    with path.open("xb", buffering=0) as file:
        for start in range(0, size_bytes, PIECE_BYTES):
            length = min(PIECE_BYTES, size_bytes - start)
            at = start // PIECE_BYTES * 4099 % PIECE_BYTES
            yield partial(_write_all, file.fileno(), noise[at : at + length])


def _write_all(descriptor: int, data: bytes) -> int:
    """The whole of it: a disk that becomes full takes a part first."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


def _syncing(path: Path) -> Step:
    def sync() -> int:
        descriptor = os.open(path, os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return 0

    return sync


@contextmanager
def _opened_cold(path: Path) -> Iterator[int]:
    """Open for reading; the kernel forgets its pages of it, as far as it does that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        yield descriptor
    finally:
        os.close(descriptor)


def _reads(path: Path) -> Steps:
    with _opened_cold(path) as descriptor:
        for start in range(0, os.fstat(descriptor).st_size, PIECE_BYTES):
            yield partial(_read, descriptor, PIECE_BYTES, start)


def _random_reads(path: Path) -> Steps:
    chosen = random.Random(1)  # noqa: S311 - places, no secrets; the same in each run
    with _opened_cold(path) as descriptor:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        pages = max(1, os.fstat(descriptor).st_size // SMALL_BYTES)
        for _ in range(RANDOM_READS):
            start = chosen.randrange(pages) * SMALL_BYTES
            yield partial(_read, descriptor, SMALL_BYTES, start)


def _read(descriptor: int, length: int, start: int) -> int:
    return len(os.pread(descriptor, length, start))


def _new_files(room: Path) -> Steps:
    data = os.urandom(SMALL_BYTES)
    for number in range(SMALL_FILES):
        yield partial((room / f"small{number}").write_bytes, data)


def _small_files(room: Path) -> Iterator[Path]:
    """Those that were made in time."""
    return takewhile(Path.exists, (room / f"small{number}" for number in range(SMALL_FILES)))


def _whole_reads(room: Path) -> Steps:
    for path in list(_small_files(room)):
        yield partial(_read_whole, path)


def _stats(room: Path) -> Steps:
    for path in list(_small_files(room)):
        yield partial(_stat, path)


def _read_whole(path: Path) -> int:
    return len(path.read_bytes())


def _stat(path: Path) -> int:
    path.stat()
    return 0
