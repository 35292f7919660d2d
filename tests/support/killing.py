"""The daemon is killed with -9 while programs change files of its folder at random; what it
acknowledged must be there after the next mount, with no step in between."""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aggfs.daemon.rendezvous import socket_path
from tests.support.commands import TOP
from tests.support.oracle import Oracle, Tree, read_steps
from tests.support.places import DirectoryPlace
from tests.support.stage import Stage, temporary_stage
from tests.support.volumes import LiveVolume

LONGEST_SECONDS = 1.5
WORKERS = 2
END_SECONDS = 60.0
LAST_STEPS = 20
BEGIN_SECONDS = 30.0
GONE = re.compile(r"ended by: .*(Transport endpoint|onnection abort|no daemon|daemon ended)")


def tree_of(folder: Path) -> Tree:
    """Everything that is in a folder."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        found[str(path.relative_to(folder))] = None if path.is_dir() else path.read_bytes()
    return found


def links_in(folder: Path) -> list[list[str]]:
    """The paths that are one file, for each file that has several."""
    found: dict[int, list[str]] = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_nlink > 1:
            found.setdefault(path.stat().st_ino, []).append(str(path.relative_to(folder)))
    return list(found.values())


class Worker:
    """A program in a folder of its own, and the oracle of what may be there after a crash."""

    def __init__(self, folder: Path, log: Path, socket: str) -> None:
        folder.mkdir()
        self.folder = folder
        self._log = log
        self._socket = socket
        self._program: subprocess.Popen[str] | None = None
        self._oracle = Oracle()
        self.syncs = 0

    def start(self, seed: int) -> None:
        """Begin, and be at work."""
        self._log.write_text("")
        arguments = (str(self.folder), str(self._log), str(seed), "0", self._socket)
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.support.workload", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=TOP,
        )
        until = time.monotonic() + BEGIN_SECONDS
        while not self._log.stat().st_size and self._program.poll() is None:
            assert time.monotonic() < until, "the program does not begin"

    def end(self) -> None:
        """It ended because the folder answers no more, and for no other reason."""
        assert self._program is not None
        told, _ = self._program.communicate(timeout=END_SECONDS)
        code = self._program.returncode  # a touch of a page that cannot come ends it by SIGBUS
        assert code in (3, -7), (code, told)
        assert code != 3 or GONE.search(told), told

    def judge(self) -> Tree:
        """What is there now; it must be what the oracle allows, and is taken for granted then."""
        found = tree_of(self.folder)
        steps = read_steps(self._log.read_text())
        self._oracle.take(steps)
        fault = self._oracle.fault(found)
        last = "\n".join(map(str, steps[-LAST_STEPS:]))
        assert not fault, f"{self.folder.name}: {fault}; its last steps:\n{last}"
        self.syncs += sum(step.kind.startswith("f") and step.ended is not None for step in steps)
        self._oracle = Oracle(found, links_in(self.folder))
        return found


class Killing:
    """Rounds of work and death over one volume whose accounts are directories."""

    def __init__(self, volume: LiveVolume, seed: int) -> None:
        self._volume = volume
        self._chance = random.Random(seed)
        socket = socket_path(str(volume.state))
        logs = volume.home.path.parent
        self.workers = [
            Worker(volume.folder / f"worker{number}", logs / f"log{number}", socket)
            for number in range(WORKERS)
        ]
        self._sync_top()
        self._copies = 0

    def _sync_top(self) -> None:
        descriptor = os.open(self._volume.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def round(self, options: Sequence[str] = ()) -> None:
        """Work, die, mount again, and judge."""
        for worker in self.workers:
            worker.start(self._chance.randrange(1 << 30))
        time.sleep(self._chance.uniform(0.0, LONGEST_SECONDS))
        self._volume.kill()
        for worker in self.workers:
            worker.end()
        self._volume.mount(*options)
        for worker in self.workers:
            worker.judge()

    def look_from_the_accounts(self, stage: Stage) -> None:
        """All of it must be the same from the accounts alone: here with nothing cached, and on a
        machine that has nothing but the words."""
        before = [tree_of(worker.folder) for worker in self.workers]
        self._volume.flush()
        self._volume.wait_until_quiet()
        self._volume.evict()
        assert [tree_of(worker.folder) for worker in self.workers] == before
        with Recovered(stage, self._volume) as folder:
            assert [tree_of(folder / worker.folder.name) for worker in self.workers] == before


class Recovered:
    """The folder of a volume that was made again from a copy of its accounts as they are now."""

    def __init__(self, stage: Stage, volume: LiveVolume) -> None:
        self._stage = stage
        self._volume = volume
        self._copies: list[Path] = []

    def __enter__(self) -> Path:
        number = len(list(self._stage.path.glob("copy*")))
        places = []
        for place in self._volume.places:
            assert isinstance(place, DirectoryPlace)
            copy = self._stage.path / f"copy{number}" / place.name
            shutil.copytree(place.path, copy)
            places.append(DirectoryPlace(copy, place.name, provider=place.provider))
        self._copies = [place.path for place in places]
        self._other = self._stage.recovered(self._volume, f"again{number}", places)
        return self._other.folder

    def __exit__(self, *exception: object) -> None:
        self._other.umount("--now")
        for copy in self._copies:
            shutil.rmtree(copy)


def kill_again_and_again(
    stage: Stage, volume: LiveVolume, rounds: int, *, seed: int, looks: int
) -> Iterator[str]:
    """So many rounds, and after each `looks` of them, and the last, from the accounts alone. Says
    what was seen."""
    killing = Killing(volume, seed)
    for number in range(1, rounds + 1):
        killing.round()
        syncs = sum(worker.syncs for worker in killing.workers)
        yield f"kill {number}: {syncs} syncs and flushes acknowledged, nothing of them lost"
        if number % looks == 0 or number == rounds:
            killing.look_from_the_accounts(stage)
            yield f"kill {number}: the same from the accounts alone, and in a recovered volume"


def main(rounds: int, looks: int, seed: int) -> None:
    """`scripts/drill kill`."""
    with temporary_stage("aggfs-kill-", print) as stage:
        volume = stage.volume()
        volume.expect_log("")
        for line in kill_again_and_again(stage, volume, rounds, seed=seed, looks=looks):
            print(line, flush=True)
    print(f"{rounds} kills, nothing that was acknowledged was lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/drill kill", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--looks", type=int, default=20, help="rounds between two recoveries")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    main(options.rounds, options.looks, options.seed)
