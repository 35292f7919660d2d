"""A daemon works, traced, while programs change files and remember what they were told; then the
disk as it may be if the power had gone at any moment of that, many times.

Times of the trace and of the programs come from one clock, and a traced process goes on only
after its line was written: what a program was told before the time of a line had been done before
that line, and what was done before it had been begun before that time.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from aggfs.coding import slots
from aggfs.engine.volume import Volume
from tests.support import tracing
from tests.support.commands import TOP
from tests.support.killing import tree_of
from tests.support.mounting import served, unmount
from tests.support.oracle import Oracle, Step, Tree, read_steps
from tests.support.power import Disk
from tests.support.running import Place, flush, recover, running
from tests.support.volume_mount import config_of, make

MODULE = "tests.support.volume_mount"
PARTS = ("state", "account0", "account1", "account2")
WORKERS = ("worker0", "worker1")
WORK_SECONDS = 200.0
DEEP = 10  # of so many images one is looked at from the accounts
MOUNTED = 25  # and of so many one through a real mount


@dataclass(frozen=True)
class Recording:
    """What was done: the disk before it, the trace of the daemon, and what programs were told."""

    top: Path
    words: str
    began: int
    steps: Mapping[str, list[Step]]

    @property
    def trace(self) -> Path:
        """Where strace wrote."""
        return self.top / "trace"

    @property
    def machine(self) -> Path:
        """The state directory and the accounts, as they were before."""
        return self.top / "machine"


def record(top: Path, *, seed: int, turns: int) -> Recording:
    """Let two programs take so many turns each, and stop cleanly."""
    machine = top / "machine"
    machine.mkdir()
    words = _make_volume(machine)
    shutil.copytree(machine, top / "before")
    under = tracing.command(str(top / "trace"))
    with served(MODULE, machine, under=under) as folder:
        for name in WORKERS:
            os.mkdir(f"{folder.path}/{name}")
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)
        logs = {name: top / f"log-{name}" for name in WORKERS}
        programs = [
            _start(f"{folder.path}/{name}", logs[name], seed * 10 + number, turns, folder.socket)
            for number, name in enumerate(WORKERS)
        ]
        for program in programs:
            told, _ = program.communicate(timeout=WORK_SECONDS)
            assert program.returncode == 0, told
        unmount(folder)
        folder.process.wait(WORK_SECONDS)
        assert folder.unexpected_log() == []
    steps = {name: read_steps(logs[name].read_text()) for name in WORKERS}
    began = min(step.began for found in steps.values() for step in found)
    shutil.rmtree(machine)
    (top / "before").rename(machine)
    return Recording(top, words, began, steps)


def _make_volume(machine: Path) -> str:
    state = machine / "state"
    state.mkdir(mode=0o700)
    words = slots.new_recovery_words(os.urandom)

    trio.run(make, config_of(state), state, [slots.recovery_words(words)])
    return words


def _start(folder: str, log: Path, seed: int, turns: int, socket: str) -> "subprocess.Popen[str]":
    arguments = (folder, str(log), str(seed), str(turns), socket)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.workload", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Image:
    """One state that the disk may be in, below `place`; the power went at `time` (ns)."""

    place: Path
    number: int
    time: int
    how: str


def images(
    recording: Recording, count: int, *, seed: int, forgotten: str = r"(?!)"
) -> Iterator[Image]:
    """So many of them, in the order of time. Each is gone when the next one is made."""
    chance = random.Random(seed)
    with recording.trace.open() as lines:
        times = [moment.time for moment in tracing.read_moments(lines)]
    first = next(number for number, time in enumerate(times) if time > recording.began)
    chosen = sorted(chance.randrange(first, len(times)) for _ in range(count))
    disk = Disk(recording.machine, PARTS, forgotten)
    place = recording.top / "image"
    with recording.trace.open() as lines:
        for number, moment in enumerate(tracing.read_moments(lines)):
            while chosen and chosen[0] == number:
                chosen.pop(0)
                far = chance.random() < 0.5
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                how = disk.write_image(place, chance, lambda name, far=far: far and name[0] == "a")
                how += ", accounts elsewhere" if far else ", accounts on this disk"
                yield Image(place, count - len(chosen), moment.time, how)
            disk.see(moment)


def judge(recording: Recording, image: Image, *, deep: bool, mounted: bool) -> str:
    """What is wrong with an image, or nothing. Mounted, or opened as a mount does."""
    try:
        if mounted:
            with served(MODULE, image.place) as folder:
                found = tree_of(Path(folder.path))
            return _fault(recording, image, found)
        return trio.run(_judge, recording, image, deep)
    except Exception:  # noqa: BLE001 - whatever happens is a finding
        return traceback.format_exc()


async def _judge(recording: Recording, image: Image, deep: bool) -> str:
    state = image.place / "state"
    config = config_of(state)
    async with running(config, state) as volume:
        found = await tree_in(volume)
        fault = _fault(recording, image, found)
        if fault or not deep:
            return fault
        await flush(volume)
        await volume.control("evict", {})
        if await tree_in(volume) != found:
            return "from the accounts it is another tree"
    place = Place(image.place, config, state, recording.words)
    second, again = await recover(place, image.place / "again")
    async with running(again, second) as volume:
        return "" if await tree_in(volume) == found else "the recovered volume is another tree"


def _fault(recording: Recording, image: Image, found: Tree) -> str:
    for name, steps in recording.steps.items():
        oracle = Oracle()
        oracle.take(steps, until=image.time)
        below = {
            path[len(name) + 1 :]: data
            for path, data in found.items()
            if path.startswith(name + "/")
        }
        fault = oracle.fault(below)
        if fault:
            return f"{name}: {fault}"
    return ""


async def tree_in(volume: Volume) -> Tree:
    """Everything that is in a volume."""
    found: Tree = {}

    async def walk(number: int, path: str) -> None:
        for name, row, _ in volume.namespace.readdir(number, 2):
            below = f"{path}{name.decode()}"
            if row.mode & 0o170000 == 0o040000:
                found[below] = None
                await walk(row.number, below + "/")
            else:
                found[below] = bytes(await volume.files.read(row.number, 0, row.size + 1))

    await walk(1, "")
    return found


# --- the drill ------------------------------------------------------------------------------------


@contextmanager
def _a_place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="aggfs-power-"))
    yield path
    shutil.rmtree(path)  # when there was a fault, it stays for who looks for that


def main(count: int, seed: int, turns: int, share: int, forgotten: str) -> None:
    """`scripts/drill power`."""
    done = 0
    while done < count:
        with _a_place() as top:
            recording = record(top, seed=seed, turns=turns)
            size = recording.trace.stat().st_size >> 20
            print(f"recorded with seed {seed}: a trace of {size} MiB", flush=True)
            now = min(share, count - done)
            for image in images(recording, now, seed=seed, forgotten=forgotten):
                done += 1
                deep, mounted = done % DEEP == 0, done % MOUNTED == 1
                fault = judge(recording, image, deep=deep, mounted=mounted)
                after = (image.time - recording.began) / 1e9
                how = f"{image.how}{', deep' * deep}{', mounted' * mounted}"
                print(f"image {done}: at {after:.3f} s, {how}: {fault or 'intact'}", flush=True)
                assert not fault, f"kept in {top}"
        seed += 1
    print(f"{count} power cuts, nothing that was acknowledged was lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/drill power", description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--turns", type=int, default=150, help="of each program in a recording")
    parser.add_argument("--share", type=int, default=100, help="images of one recording")
    parser.add_argument("--forgotten", default=r"(?!)", help="ignore syncs of paths like this")
    options = parser.parse_args()
    main(options.images, options.seed, options.turns, options.share, options.forgotten)
