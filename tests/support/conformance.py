"""Suites that others wrote, run on a real mount: `scripts/conformance`.

A suite lies elsewhere and is built there, as its own README says; nothing of it is kept here. What
it finds is a tally: how many of its assertions held, and each that did not.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.stage import Stage, temporary_stage
from tests.support.volumes import LiveVolume, drop_pages

SCRIPT_SECONDS = 900.0
ROUND_SECONDS = 7200.0
FILE_BYTES = 640 * 1024  # two blocks and a half, in whole pages
LAST_LINES = 40
RESULT = re.compile(r"^(not )?ok\b(.*)$", re.MULTILINE)
PLAN = re.compile(r"^1\.\.(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Tally:
    """What a part of a suite found; each failure is a line for people."""

    part: str
    held: int
    failed: tuple[str, ...]


# --- pjdfstest: scripts that say "ok" or "not ok" of each assertion -------------------------------


def tally_of(name: str, text: str) -> Tally:
    """What a script printed, judged: what was planned and did not come has failed, too."""
    held, failed = 0, []
    for refused, rest in RESULT.findall(text):
        if refused and "# TODO" not in rest:  # a word of TAP: known to fail wherever it is run
            failed.append(f"not ok{rest}")
        else:
            held += 1
    plan = PLAN.search(text)
    planned = int(plan[1]) if plan else -1
    if planned != held + len(failed):
        failed.append(f"{held + len(failed)} results, planned were {planned}")
    return Tally(name, held, tuple(failed))


def run_pjdfstest(suite: Path, volume: LiveVolume) -> Iterator[Tally]:
    """Each of its scripts, in a directory of the folder."""
    folder = volume.folder / "pjdfstest"
    folder.mkdir()
    for script in sorted((suite / "tests").rglob("*.t")):
        done = subprocess.run(
            ["sh", script],
            cwd=folder,
            umask=0o022,
            stdout=subprocess.PIPE,
            timeout=SCRIPT_SECONDS,
            check=False,
        )
        name = str(script.relative_to(suite / "tests"))
        yield tally_of(name, done.stdout.decode(errors="replace"))


# --- fsx: random calls on one file, compared with a copy in memory --------------------------------


@dataclass(frozen=True)
class Round:
    """So many calls of one kind; `options` are fsx's."""

    kind: str
    calls: int
    options: tuple[str, ...]


ROUNDS = (
    Round("with mmap, closed and opened", 50_000, ("-c", "100")),
    Round("without mmap", 150_000, ("-R", "-W")),
    Round("O_DIRECT", 50_000, ("-Z", "-R", "-W", *("-r", "4096", "-w", "4096", "-t", "4096"))),
    Round("page cache dropped by each call", 2_500, ("-f",)),
    Round("fsync by each call", 2_500, ("-y",)),
)


def run_fsx(program: Path, volume: LiveVolume, operations: int) -> Iterator[Tally]:
    """Rounds until so many operations are done; the file goes on from each to the next.

    After a round the same bytes must be read without the kernel's pages, after a remount, and
    from the accounts alone.
    """
    path = volume.folder / "fsx"
    path.touch()
    done = 0
    for seed in range(1, sys.maxsize):
        kind = ROUNDS[(seed - 1) % len(ROUNDS)]
        tally = _round(program, path, kind, seed, log=volume.home.path)
        yield tally
        yield _read_again(volume, path)
        done += tally.held
        if tally.failed or done >= operations:
            return


def _round(program: Path, path: Path, kind: Round, seed: int, *, log: Path) -> Tally:
    name = f"round {seed}, {kind.kind}"
    os.truncate(path, FILE_BYTES)  # `-k`: this is how long it may be, and what it holds is kept
    calls = log / "calls"
    call = [program, "-q", "-k", "-N", str(kind.calls), "-S", str(seed), "-P", log, *kind.options]
    ended = subprocess.run(
        [*call, f"--record-ops={calls}", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=ROUND_SECONDS,
        check=False,
    )
    if ended.returncode:
        last = ended.stdout.decode(errors="replace").splitlines()[-LAST_LINES:]
        return Tally(name, 0, (f"exit {ended.returncode}", *last))
    return Tally(name, round(kind.calls * _share_done(calls.read_text())), ())


def _share_done(calls: str) -> float:
    """Of the last calls that fsx chose, how many it did: what is refused here (fallocate and its
    like) it leaves out."""
    lines = [line for line in calls.splitlines() if line and not line.startswith("#")]
    return sum(not line.startswith("skip ") for line in lines) / len(lines)


def _read_again(volume: LiveVolume, path: Path) -> Tally:
    before = _digest(path)
    losing: dict[str, Callable[[], None]] = {
        "without the kernel's pages": lambda: drop_pages(path),
        "after a remount": volume.remount,
        "from the accounts": volume.evict,
    }
    failed = []
    for how, lose in losing.items():
        lose()
        if _digest(path) != before:
            failed.append(f"other bytes {how}")
    return Tally("the same bytes again", len(losing) - len(failed), tuple(failed))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- any of them ----------------------------------------------------------------------------------

Run = Callable[[LiveVolume], Iterator[Tally]]


def recognised(suite: Path, operations: int) -> tuple[str, Run] | None:
    """The name of a suite, and how it is run; None if this is none that is known and built."""
    suite = suite.resolve()
    if os.access(suite / "pjdfstest", os.X_OK) and (suite / "tests").is_dir():
        return "pjdfstest", lambda volume: run_pjdfstest(suite, volume)
    if suite.is_file() and os.access(suite, os.X_OK) and b"fsxgood" in suite.read_bytes():
        return "fsx", lambda volume: run_fsx(suite, volume, operations)
    return None


def judge(stage: Stage, name: str, run: Run, mount: Sequence[str]) -> bool:
    """Run a suite on a volume of its own, tell its tally; whether all of it held."""
    stage.path.chmod(0o755)  # all users, not only who made it
    volume = stage.volume(mount=(*(["allow_other"] if os.geteuid() == 0 else []), *mount))
    held = failed = 0
    for tally in run(volume):
        held += tally.held
        failed += len(tally.failed)
        stage.tell(f"{tally.part}: {tally.held} held, {len(tally.failed)} failed")
        for line in tally.failed:
            stage.tell(f"    {line}")
    stage.tell(f"{name} in all: {held} held, {failed} failed; none is expected to fail")
    return not failed


def main() -> int:
    """`scripts/conformance`."""
    parser = argparse.ArgumentParser(prog="scripts/conformance", description=__doc__)
    parser.add_argument("suites", nargs="+", type=Path, metavar="SUITE")
    parser.add_argument("-o", dest="mount", action="append", default=[], metavar="OPTION")
    parser.add_argument("--operations", type=int, default=1_000_000, help="how many fsx does")
    options = parser.parse_args()
    known = [recognised(suite, options.operations) for suite in options.suites]
    suites = [found for found in known if found is not None]
    if len(suites) < len(known):
        parser.error("SUITE is a built checkout of pjdfstest, or the program fsx of xfstests")
    if os.geteuid() and any(name == "pjdfstest" for name, _ in suites):
        parser.error("pjdfstest needs root: it becomes other users")
    good = True
    for name, run in suites:
        with temporary_stage("aggfs-conformance-", lambda line: print(line, flush=True)) as stage:
            good = judge(stage, name, run, options.mount) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
