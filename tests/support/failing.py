"""A volume without a mount and without threads, at work under strace, which makes one of its
system calls fail: the Nth of its kind. What was acknowledged must be there afterwards.

Run as `python -m tests.support.failing --work STATE SOCKET` it does always the same, and tells each
step over the socket with that number, in the words of `tests.support.workload`.
"""

import argparse
import errno
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError
from aggfs.mount.errors import errno_of
from aggfs.threads import without_threads
from tests.support.commands import TOP
from tests.support.oracle import SYNCS as SURE
from tests.support.oracle import Oracle, Step, Tree, read_steps
from tests.support.powercut import tree_in
from tests.support.running import flush, new_file, running
from tests.support.stripes import content
from tests.support.volume_mount import config_of, make

WRITES = ("pwrite64", "pwritev", "pwritev2", "write", "writev", "ftruncate", "fallocate")
SYNCS = ("fsync", "fdatasync")
SIZES = {"old0": 700, "old1": 5000, "old2": 70_000, "old3": 300_001, "old4": 1025, "old5": 20_000}
RUN_SECONDS = 100.0
STEP_SECONDS = 15.0
ACCEPTED = (errno.ENOSPC, errno.EIO)
_INJECTED = re.compile(r"^(\d+)\.(\d{9}) (\w+)\(\d+<([^>]*)>.*\(INJECTED\)$", re.MULTILINE)

Call = Callable[[], Awaitable[object]]


class Program:
    """Does steps, and tells them. One that fails leaves its file alone from then on."""

    def __init__(self, volume: Volume, tell: Callable[[str], None]) -> None:
        self._volume = volume
        self._tell = tell
        self._spoilt: set[str] = set()

    def _number(self, path: str) -> int:
        return self._volume.namespace.resolve(b"/" + path.encode()).number

    async def step(
        self,
        kind: str,
        call: Call,
        path: str = "",
        other: str = "",
        place: int = 0,
        length: int = 0,
        seed: int = 0,
    ) -> None:
        """One step. An error that is none of a full or broken disk ends the program."""
        if path in self._spoilt:
            return
        fields = ("begin", time.time_ns(), kind, path, other, place, length, seed)
        self._tell("\t".join(map(str, fields)))
        try:
            with trio.fail_after(STEP_SECONDS):
                await call()
        except (AggfsError, OSError, trio.TooSlowError) as error:
            if errno_of(kind, error) not in ACCEPTED:
                raise
            self._tell(f"failed\t{time.time_ns()}")
            if path:
                self._spoilt.add(path)
        else:
            self._tell(f"done\t{time.time_ns()}")

    async def create(self, path: str) -> None:
        """A new name."""

        async def call() -> None:
            self._volume.namespace.create(1, path.encode(), stat.S_IFREG | 0o640, 0, 0)

        await self.step("create", call, path)

    async def write(self, path: str, place: int, length: int) -> None:
        """Opened, written, closed."""

        async def call() -> None:
            number = self._number(path)
            await self._volume.files.opened(number, truncate=False)
            try:
                await self._volume.files.write(number, place, content(length, place + length))
            finally:
                await self._volume.files.released(number)

        await self.step("write", call, path, "", place, length, place + length)

    async def truncate(self, path: str, size: int) -> None:
        """As truncate(2)."""
        await self.step(
            "truncate",
            lambda: self._volume.files.truncate(self._number(path), size),
            path,
            "",
            size,
        )

    async def fsync(self, path: str) -> None:
        """As fsync(2)."""
        await self.step("fsync", lambda: self._volume.files.fsync(self._number(path)), path)

    async def replace(self, path: str, other: str) -> None:
        """As rename(2) over a file."""

        async def call() -> None:
            names, files = self._volume.namespace, self._volume.files
            number = self._number(path)
            dirty = files.is_dirty(number)
            names.rename(1, path.encode(), 1, other.encode(), wait_for_content=dirty)
            if dirty:
                files.sync_before_commit(number)

        if path not in self._spoilt:
            await self.step("rename", call, path, other)
            self._spoilt.discard(other)

    async def unlink(self, path: str) -> None:
        """As unlink(2), of a file that nobody has open."""

        async def call() -> None:
            row = self._volume.namespace.unlink(1, path.encode())
            self._volume.namespace.drop_unlinked(row.number)

        await self.step("unlink", call, path)

    async def sync_names(self) -> None:
        """As fsync(2) of a directory."""
        await self.step("fsync_directory", self._volume.files.fsync_directory)

    async def flush(self) -> None:
        """`aggfs flush`."""
        await self.step("flush", lambda: flush(self._volume))

    async def read_back(self) -> None:
        """Everything, with nothing cached."""

        async def call() -> None:
            await self._volume.control("evict", {})
            await tree_in(self._volume)

        await self.step("read back", call)


async def work(volume: Volume, tell: Callable[[str], None]) -> None:
    """A bit of everything that writes to the local disk."""
    program = Program(volume, tell)
    await program.create("new")
    await program.write("new", 0, 300_001)
    await program.fsync("new")
    await program.write("old1", 1000, 5000)
    await program.fsync("old1")
    await program.truncate("old2", 777)
    await program.create("temporary")
    await program.write("temporary", 0, 70_000)
    await program.replace("temporary", "old3")
    await program.sync_names()
    await program.unlink("old4")
    await program.flush()
    await program.read_back()
    await program.write("old0", 100, 900)
    await program.truncate("old5", 0)
    await program.write("old5", 0, 5000)
    await program.fsync("old5")
    await program.write("old3", 65_000, 140_000)
    await program.write("new", 17, 1)
    await program.sync_names()
    await program.flush()


async def serve(state: Path, tell: Callable[[str], None]) -> None:
    """The volume, the work, and a clean end."""
    without_threads()
    async with running(config_of(state), state) as volume:
        await work(volume, tell)


# --- runs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What became of one run: the steps, the last words of the program; of the call that strace
    made fail the path of its file and the time (ns)."""

    kind: str
    code: int
    text: str
    steps: list[Step]
    path: str
    time: int


def make_base(top: Path) -> Tree:
    """A volume with some old files, all in the accounts; what is in it."""
    state = top / "state"
    state.mkdir(parents=True, mode=0o700)

    async def make_and_fill() -> Tree:
        config = config_of(state)
        await make(config, state)
        async with running(config, state) as volume:
            for name, size in SIZES.items():
                await new_file(volume, 1, name.encode(), content(size, size))
            await flush(volume)
            return await tree_in(volume)

    return trio.run(make_and_fill)


def count_calls(base: Path) -> Counter[str]:
    """How many calls of each kind that may fail the program does, when none fails."""
    trace = base.parent / "counted"
    run = _run(base, ["-e", "trace=" + ",".join((*WRITES, *SYNCS))], trace)
    assert run.code == 0, run.text
    return Counter(re.findall(r"^\S+ (\w+)\(", trace.read_text(), re.MULTILINE))


def sites(counted: Counter[str], kinds: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """(call, which of them): each where the disk may say no."""
    for kind in kinds:
        for which in range(1, counted[kind] + 1):
            yield kind, which


def fail(base: Path, kind: str, which: int, error: str) -> Run:
    """Let this call fail in a copy of the volume. The copy is left as it is then."""
    inject = ["-e", f"trace={kind}", "-e", f"inject={kind}:error={error}:when={which}"]
    return _run(base, inject, base.parent / "trace")


def _run(base: Path, options: list[str], trace: Path) -> Run:
    copy = base.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(base, copy)
    ours, theirs = socket.socketpair()
    stamps = "--timestamps=format:unix,precision:ns"
    command = ["strace", "-qq", "-y", stamps, "-e", "signal=none", "-o", str(trace), *options]
    command += [sys.executable, "-B", "-m", "tests.support.failing", "--work"]
    with ours, theirs:
        program = subprocess.Popen(
            [*command, str(copy / "state"), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=TOP,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        _, text = program.communicate(timeout=RUN_SECONDS)
        told = b""
        while part := ours.recv(1 << 20):
            told += part
    steps = read_steps(told.decode())
    found = _INJECTED.search(trace.read_text(errors="replace"))
    if found is None:
        return Run("", program.returncode, text, steps, "", 0)
    seconds, fraction, kind, path = found.groups()
    time = int(seconds) * 10**9 + int(fraction)
    return Run(kind, program.returncode, text, steps, path, time)


def judge(base: Path, before: Tree, run: Run) -> str:
    """What is wrong with a run, or with the volume that it left behind; or nothing."""
    if run.code and run.steps:
        return f"the program ended: {run.text[-2000:]}"
    own = re.search(r"/state/(?!staging)", run.path)  # what could not be staged is staged anew
    late = [step for step in run.steps if step.kind in SURE and run.time < step.began]
    if own and run.kind in SYNCS and any(step.ended is not None for step in late):
        return f"acknowledged after a failed {run.kind} of {run.path}"
    try:
        return trio.run(_look, base, before, run)
    except Exception:  # noqa: BLE001 - whatever the next start raises is a finding, told in full
        return traceback.format_exc()


async def _look(base: Path, before: Tree, run: Run) -> str:
    """The next start must need no help."""
    state = base.parent / "copy" / "state"
    oracle = Oracle(before)
    oracle.take(run.steps)
    async with running(config_of(state), state) as volume:
        found = await tree_in(volume)
        fault = oracle.fault(found)
        if fault:
            return fault
        await flush(volume)
        await volume.control("evict", {})
        return "" if await tree_in(volume) == found else "from the accounts it is another tree"


def sweep(top: Path, error: str, *, every: int) -> Iterator[tuple[str, str]]:
    """Let every such call fail once, with this error; what failed, and what was wrong then."""
    base = top / error
    before = make_base(base / "base")
    kinds = SYNCS if error == "EIO" else WRITES
    chosen = list(sites(count_calls(base / "base"), kinds))[every // 2 :: every]
    for kind, which in chosen:
        run = fail(base / "base", kind, which, error)
        failed = sum(step.ended is None for step in run.steps)
        told = f"{error} at {kind} {which} of {run.path or '?'}, {failed} of {len(run.steps)} steps"
        yield told, judge(base / "base", before, run)


def work_in(state: str, number: str) -> None:
    """Work to the end, or to the error."""
    with socket.socket(fileno=int(number)) as told:
        trio.run(serve, Path(state), lambda line: told.sendall(line.encode() + b"\n"))


def main(every: int) -> None:
    """`scripts/drill disk`."""
    count = 0
    with tempfile.TemporaryDirectory(prefix="aggfs-disk-") as directory:
        for error in ("ENOSPC", "EIO"):
            for told, fault in sweep(Path(directory), error, every=every):
                count += 1
                print(f"{count}: {told} failed: {fault or 'as it must be'}", flush=True)
                assert not fault, fault
    print(f"{count} refusals of the disk, nothing that was acknowledged was lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="scripts/drill disk", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try one of so many calls")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work_in(*options.work)
    else:
        main(options.every)
