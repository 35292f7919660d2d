"""The daemon is killed with -9 while files are copied in and fsynced; what fsync acknowledged must
be there after the next mount, with no step in between."""

import contextlib
import hashlib
import os
import random
import sys
import tempfile
import threading
from pathlib import Path

from tests.support.stage import Servers, Stage
from tests.support.volumes import LiveVolume

KIB = 1024
LONGEST_SECONDS = 1.5


class Copier:
    """Copies files into a volume's folder, each with fsync; remembers what was acknowledged."""

    def __init__(self, volume: LiveVolume, seed: int) -> None:
        self._volume = volume
        self._random = random.Random(seed)
        self.acknowledged: dict[str, str] = {}
        self._stopped = threading.Event()

    def copy_until_killed(self, number: int) -> None:
        """One round: ends when the folder answers no more."""
        with contextlib.suppress(OSError):
            for count in range(10_000):
                if self._stopped.is_set():
                    return
                self._copy(f"round{number}-{count}")

    def _copy(self, name: str) -> None:
        data = self._random.randbytes(self._random.choice([1, 900, 5000, 300 * KIB, 2048 * KIB]))
        path = self._volume.folder / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            os.write(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if self._random.random() < 0.3:  # as editors save: the old name, another content
            final = f"{name}-renamed"
            path.rename(self._volume.folder / final)
            folder = os.open(self._volume.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            name = final
        self.acknowledged[name] = hashlib.sha256(data).hexdigest()

    def round(self, number: int) -> int:
        """Copy, kill at a random moment, mount again; how many files were acknowledged."""
        before = len(self.acknowledged)
        worker = threading.Thread(target=self.copy_until_killed, args=(number,), daemon=True)
        worker.start()
        self._stopped.wait(self._random.uniform(0.05, LONGEST_SECONDS))
        self._volume.kill()
        worker.join(60)
        assert not worker.is_alive(), "a call into the folder does not end"
        self._volume.mount()
        return len(self.acknowledged) - before

    def broken(self) -> list[str]:
        """The acknowledged files that are not as they were acknowledged."""
        found = []
        for name, digest in self.acknowledged.items():
            try:
                data = (self._volume.folder / name).read_bytes()
            except OSError as error:
                found.append(f"{name}: {error.strerror}")
                continue
            if hashlib.sha256(data).hexdigest() != digest:
                found.append(f"{name}: other bytes")
        return found


def kill_again_and_again(volume: LiveVolume, rounds: int, *, seed: int) -> Copier:
    """So many rounds; after each, and at the end from the accounts alone, all must be there."""
    copier = Copier(volume, seed)
    for number in range(rounds):
        count = copier.round(number)
        broken = copier.broken()
        print(f"kill {number + 1}: {count} files acknowledged, {len(broken)} broken", flush=True)
        assert not broken, broken
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    assert not copier.broken(), copier.broken()
    return copier


def main(rounds: int) -> None:
    """`scripts/drill kill`."""
    with tempfile.TemporaryDirectory(prefix="aggfs-kill-") as directory:
        place = Path(directory)
        with Servers(place / "servers") as servers:
            stage = Stage(place, servers, print)
            try:
                volume = stage.volume()
                volume.expect_log("")
                copier = kill_again_and_again(volume, rounds, seed=rounds)
            finally:
                stage.close()
    print(f"{rounds} kills, {len(copier.acknowledged)} files acknowledged, all intact")


if __name__ == "__main__":
    main(int(sys.argv[1]))
