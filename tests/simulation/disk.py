"""The local disk of a simulation: it knows what was synced, and what a loss of power may leave.

The files are real, in memory where there is /dev/shm. `os.fsync` and `os.fdatasync` cost nothing
and are noted instead: of a file what it held then, of a directory which names it had. The death of
the process leaves everything that was written. A loss of power leaves of each file what was
synced, perhaps with some later pages, and in each directory the names that were synced, or those
of now. LMDB syncs by itself, within a commit, and no commit is under way between two steps of
the loop: its file is always as it was committed last.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tests.simulation.chance import Chance

PAGE_BYTES = 4096
DATABASE = Path("database")
NOT_COPIED = ("lock.mdb", "owner.lock", "headroom")  # made again when the database is opened
NAMES_MATTER = (Path("files/data"), Path("files/tails"), Path("staging"))


def parent_of_temporary_directories() -> str | None:
    """Where files cost no disk, if there is such a place."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - random names in it


class Disk:
    """What is durable of the state directories of one simulation."""

    def __init__(self) -> None:
        self._bytes: dict[int, bytes] = {}  # inode -> what was synced of it
        self._names: dict[int, dict[str, int]] = {}  # directory's inode -> name -> inode

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Take the place of fsync and fdatasync in this process."""
        with mock.patch.multiple(os, fsync=self._sync, fdatasync=self._sync):
            yield

    def _sync(self, descriptor: int) -> None:
        self._note(Path(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor))

    def _note(self, path: Path, known: os.stat_result) -> None:
        if stat.S_ISDIR(known.st_mode):
            self._names[known.st_ino] = _inodes_in(path)
        else:
            self._bytes[known.st_ino] = path.read_bytes()

    # --- what is left -------------------------------------------------------------------------

    def copy_after_death(self, state: Path, target: Path) -> None:
        """What the death of the process leaves of a state directory; what was synced of it is
        what counts as synced of the copy."""
        moved: dict[int, int] = {}
        for directory in _directories(state):
            (target / directory).mkdir(parents=True, exist_ok=True)
            for name, inode in _inodes_in(state / directory).items():
                path = target / directory / name
                if name not in NOT_COPIED:
                    path.write_bytes((state / directory / name).read_bytes())
                    moved[inode] = path.stat().st_ino
        for old, new in moved.items():
            if old in self._bytes:
                self._bytes[new] = self._bytes[old]
        for directory in NAMES_MATTER:
            names = self._names.get((state / directory).stat().st_ino, {})
            self._names[(target / directory).stat().st_ino] = {
                name: moved[inode] for name, inode in names.items() if inode in moved
            }

    def copy_after_power_loss(self, state: Path, target: Path, chance: Chance) -> None:
        """What a loss of power may leave of a state directory; the copy is all durable."""
        paths: dict[int, Path] = {}
        for directory in _directories(state):
            for name, inode in _inodes_in(state / directory).items():
                paths[inode] = state / directory / name
        for directory in _directories(state):
            (target / directory).mkdir(parents=True, exist_ok=True)
            for name, inode in self._names_left(state, directory, chance).items():
                if name not in NOT_COPIED:
                    now = paths[inode].read_bytes() if inode in paths else None
                    left = self._bytes_left(directory, inode, now, chance)
                    (target / directory / name).write_bytes(left)
        self.note_all(target)

    def _names_left(self, state: Path, directory: Path, chance: Chance) -> dict[str, int]:
        now = _inodes_in(state / directory)
        if directory not in NAMES_MATTER or chance.once_in(2):
            return now
        synced = self._names.get((state / directory).stat().st_ino, {})
        alive = set(now.values())
        return {
            name: inode
            for name, inode in synced.items()
            if inode in alive or inode in self._bytes  # else: unlinked, and never synced
        }

    def _bytes_left(self, directory: Path, inode: int, now: bytes | None, chance: Chance) -> bytes:
        synced = self._bytes.get(inode, b"")
        if now is None:
            return synced
        if directory in (DATABASE, Path()):
            return now
        how = chance.randrange(4)
        if how < 2 or now == synced:
            return synced
        return now if how == 2 else _mixed(synced, now, chance)

    def note_all(self, state: Path) -> None:
        """Everything in a state directory is durable."""
        for directory in _directories(state):
            path = state / directory
            self._note(path, path.stat())
            if directory != DATABASE:
                for name in _inodes_in(path):
                    self._note(path / name, (path / name).stat())

    def forget(self, state: Path) -> None:
        """A state directory is about to be deleted."""
        for directory in _directories(state):
            self._names.pop((state / directory).stat().st_ino, None)
            for inode in _inodes_in(state / directory).values():
                self._bytes.pop(inode, None)


def _directories(state: Path) -> list[Path]:
    """The state directory and all below it, relative to it."""
    return sorted(Path(path).relative_to(state) for path, _, _ in os.walk(state))


def _inodes_in(directory: Path) -> dict[str, int]:
    """The files in a directory, by name."""
    with os.scandir(directory) as entries:
        return dict(sorted((one.name, one.inode()) for one in entries if one.is_file()))


def _mixed(synced: bytes, now: bytes, chance: Chance) -> bytes:
    """Some pages of now, the others as they were synced."""
    mixed = bytearray(synced.ljust(len(now), b"\0")[: len(now)])
    for start in range(0, len(now), PAGE_BYTES):
        if chance.once_in(2):
            mixed[start : start + PAGE_BYTES] = now[start : start + PAGE_BYTES]
    return bytes(mixed)
