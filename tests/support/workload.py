"""A program that changes files of a folder at random, one step after the other, until the folder
answers no more or so many steps are done.

Run as `python -m tests.support.workload FOLDER LOG SEED STEPS SOCKET`. Each step is logged before
it begins and when it was acknowledged, with the time; LOG is on another disk than what crashes.
"""

import mmap
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggfs.cli.client import NotRunning, call
from tests.support.stripes import content

SIZES = (1, 17, 500, 1024, 1025, 5000, 5000, 20_000, 70_000, 140_000, 262_144, 300_001)
FILES = 14
DIRECTORIES = 4
RARE = 0.04


class Worker:
    """`socket` is the daemon's; empty: no verbs are asked."""

    def __init__(self, folder: Path, log: Path, seed: int, socket: str) -> None:
        self._folder = folder
        self._chance = random.Random(seed)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._socket = socket
        self._made = time.time_ns()
        self._kinds = [
            *[self._create] * 5,
            *[self._overwrite] * 6,
            *[self._truncate] * 3,
            *[self._rewrite] * 2,
            *[self._replace] * 5,
            *[self._rename] * 3,
            *[self._unlink, self._link, self._mkdir, self._rmdir, self._rename_directory],
            *[self._fsync] * 4,
            *[self._fsync_directory] * 2,
            self._map,
        ]

    # --- logging ------------------------------------------------------------------------------

    @contextmanager
    def _step(
        self,
        kind: str,
        path: str,
        other: str = "",
        *,
        place: int = 0,
        length: int = 0,
        seed: int = 0,
    ) -> Iterator[None]:
        self._tell("begin", time.time_ns(), kind, path, other, place, length, seed)
        yield
        self._tell("done", time.time_ns())

    def _tell(self, *fields: object) -> None:
        os.write(self._log, ("\t".join(map(str, fields)) + "\n").encode())

    # --- choosing -----------------------------------------------------------------------------

    def _paths(self) -> tuple[list[str], list[str]]:
        """Directories (the top is the empty path) and files, as they are now."""
        directories, files = [""], []
        for top, _, names in os.walk(self._folder):
            base = os.path.relpath(top, self._folder)
            if base != ".":
                directories.append(base)
            files += [name if base == "." else f"{base}/{name}" for name in names]
        return sorted(directories), sorted(files)

    def _fresh(self) -> str:
        self._made += 1
        directory = self._chance.choice(self._paths()[0])
        return f"{directory}/{self._made:x}".lstrip("/")

    def _some_file(self) -> str:
        files = self._paths()[1]
        return self._chance.choice(files) if files else self._create()

    # --- steps --------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        """For so many turns, of one to four steps each; 0: for ever."""
        turn = 0
        while not steps or turn < steps:
            turn += 1
            if self._socket and self._chance.random() < RARE:
                self._ask()
            else:
                self._chance.choice(self._kinds)()

    def _ask(self) -> None:
        verb = self._chance.choice(["flush", "flush", "evict"])
        if verb == "flush":
            with self._step("flush", ""):
                call(self._socket, "flush")
        else:
            call(self._socket, "evict")

    def _create(self) -> str:
        while len(self._paths()[1]) >= FILES:
            self._unlink()
        path = self._fresh()
        self._new(path, 0.4)
        return path

    def _new(self, path: str, synced: float) -> None:
        """A file that was not there, with some bytes; it is synced with that chance."""
        with self._step("create", path):
            descriptor = os.open(self._folder / path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            self._write(descriptor, path, 0)
            if self._chance.random() < synced:
                self._sync(descriptor, path)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, path: str, place: int) -> None:
        length, seed = self._chance.choice(SIZES), self._chance.randrange(1 << 30)
        with self._step("write", path, place=place, length=length, seed=seed):
            data = memoryview(content(length, seed))
            while data:
                count = os.pwrite(descriptor, data, place)
                data, place = data[count:], place + count

    def _sync(self, descriptor: int, path: str) -> None:
        with self._step("fsync", path):
            self._chance.choice([os.fsync, os.fdatasync])(descriptor)

    @contextmanager
    def _opened(self, path: str, flags: int = os.O_RDWR) -> Iterator[int]:
        descriptor = os.open(self._folder / path, flags)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _overwrite(self) -> None:
        path = self._some_file()
        with self._opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            place = self._chance.choice([size, self._chance.randint(0, size)])
            self._write(descriptor, path, place)
            if self._chance.random() < 0.3:
                self._sync(descriptor, path)

    def _truncate(self) -> None:
        path = self._some_file()
        size = (self._folder / path).stat().st_size
        place = self._chance.choice([0, size // 2, self._chance.randint(0, size), size + 5000])
        with self._step("truncate", path, place=place):
            os.truncate(self._folder / path, place)

    def _rewrite(self) -> None:
        path = self._some_file()
        with self._step("truncate", path):
            descriptor = os.open(self._folder / path, os.O_WRONLY | os.O_TRUNC)
        try:
            self._write(descriptor, path, 0)
        finally:
            os.close(descriptor)

    def _replace(self) -> None:
        """As editors save: write a temporary file, give it the name of the old one."""
        old, new = self._some_file(), self._fresh()
        self._new(new, 0.3)
        with self._step("rename", new, old):
            os.rename(self._folder / new, self._folder / old)

    def _rename(self) -> None:
        path, fresh = self._some_file(), self._fresh()
        with self._step("rename", path, fresh):
            os.rename(self._folder / path, self._folder / fresh)

    def _rename_directory(self) -> None:
        directories = self._paths()[0][1:]
        if directories:
            path = self._chance.choice(directories)
            self._made += 1
            with self._step("rename", path, f"{self._made:x}"):
                os.rename(self._folder / path, self._folder / f"{self._made:x}")

    def _unlink(self) -> None:
        path = self._some_file()
        with self._step("unlink", path):
            os.unlink(self._folder / path)

    def _link(self) -> None:
        path, fresh = self._some_file(), self._fresh()
        with self._step("link", path, fresh):
            os.link(self._folder / path, self._folder / fresh)

    def _mkdir(self) -> None:
        if len(self._paths()[0]) <= DIRECTORIES:
            path = self._fresh()
            with self._step("mkdir", path):
                os.mkdir(self._folder / path)

    def _rmdir(self) -> None:
        for path in self._paths()[0][1:]:
            if not os.listdir(self._folder / path):
                with self._step("rmdir", path):
                    os.rmdir(self._folder / path)
                return

    def _fsync(self) -> None:
        path = self._some_file()
        with self._opened(path) as descriptor:
            self._sync(descriptor, path)

    def _fsync_directory(self) -> None:
        path = self._chance.choice(self._paths()[0])
        with (
            self._opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor,
            self._step("fsync_directory", path),
        ):
            os.fsync(descriptor)

    def _map(self) -> None:
        """Bytes changed through a memory map, and msync."""
        path = self._some_file()
        with self._opened(path) as descriptor:
            size = os.fstat(descriptor).st_size
            if not size:
                return
            place, seed = self._chance.randrange(size), self._chance.randrange(1 << 30)
            length = min(size - place, self._chance.choice(SIZES))
            with mmap.mmap(descriptor, size) as mapped:
                with self._step("write", path, place=place, length=length, seed=seed):
                    mapped[place : place + length] = content(length, seed)
                with self._step("fsync", path):
                    mapped.flush()


def main(folder: str, log: str, seed: str, steps: str, socket: str) -> None:
    """Until the steps are done, or the folder fails."""
    try:
        Worker(Path(folder), Path(log), int(seed), socket).run(int(steps))
    except (OSError, NotRunning) as error:
        print(f"ended by: {error}")
        sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
