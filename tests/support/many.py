"""Programs that do the same to one file, several at once: `python -m tests.support.many KIND ...`.

Each says "ready", waits for a line, acts, and says "done". What they do is one function each.
"""

import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.commands import TOP

SECONDS = 60
LINES = 300
TURNS = 40
SLOT_BYTES = 8
PIECE_BYTES = 32 * 1024
WRITTEN_BYTES = 2000
LOCKS: dict[str, Callable[[int, int], object]] = {"flock": fcntl.flock, "fcntl": fcntl.lockf}

Program = subprocess.Popen[str]


# --- what they do ---------------------------------------------------------------------------------


def line(number: int, turn: int) -> bytes:
    """A line of a program: from a few bytes to more than a page."""
    return b"%d %d " % (number, turn) + b"%c" % (97 + number) * (turn * 37 % 6000) + b"\n"


def append(path: str, number: int) -> None:
    """Lines, each with one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    for turn in range(LINES):
        data = line(number, turn)
        assert os.write(descriptor, data) == len(data)
    os.close(descriptor)


def count(path: str, kind: str) -> None:
    """One more, again and again: what is lost where two do it at once without a lock."""
    descriptor = os.open(path, os.O_RDWR)
    for _ in range(TURNS):
        LOCKS[kind](descriptor, fcntl.LOCK_EX)
        os.pwrite(descriptor, b"%06d" % (int(os.pread(descriptor, 6, 0)) + 1), 0)
        LOCKS[kind](descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def hold(path: str, kind: str) -> None:
    """A lock; it is never given back."""
    LOCKS[kind](os.open(path, os.O_RDWR), fcntl.LOCK_EX)


def write_map(path: str, number: int, count_of_all: int) -> None:
    """Every so many-th slot of a file, through memory."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for start in range(number * SLOT_BYTES, len(mapped), count_of_all * SLOT_BYTES):
            mapped[start : start + SLOT_BYTES] = b"%c" % (97 + number) * SLOT_BYTES
        mapped.flush()


def write_pieces(path: str, number: int, count_of_all: int) -> None:
    """Into every so many-th piece of a file, at its beginning; some other piece is read first."""
    descriptor = os.open(path, os.O_RDWR)
    size = os.fstat(descriptor).st_size
    for start in range(number * PIECE_BYTES, size, count_of_all * PIECE_BYTES):
        os.pread(descriptor, PIECE_BYTES, start ^ (1 << 20))
        os.pwrite(descriptor, b"%c" % (97 + number) * WRITTEN_BYTES, start)
    os.close(descriptor)


def come_and_go(path: str, number: int) -> None:
    """Names that are there for a moment, in a directory."""
    for turn in range(LINES):
        name = f"{path}/passing-{number}-{turn}"
        os.mknod(name, 0o600)
        os.rename(name, name + "-moved")
        os.unlink(name + "-moved")


KINDS: dict[str, Callable[..., None]] = {
    each.__name__: each for each in (append, count, hold, write_map, write_pieces, come_and_go)
}


# --- starting them --------------------------------------------------------------------------------


def start(kind: Callable[..., None], *arguments: object) -> Program:
    """One of them, ready."""
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.support.many", kind.__name__, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    return program


def go(program: Program) -> None:
    """It may act."""
    assert program.stdin is not None
    program.stdin.write("go\n")
    program.stdin.flush()


def wait_until_done(program: Program) -> None:
    """It has acted."""
    assert program.stdout is not None
    assert program.stdout.readline() == "done\n"


@contextmanager
def at_once(kind: Callable[..., None], *arguments: tuple[object, ...]) -> Iterator[list[Program]]:
    """One program for each tuple of arguments, all acting; they have ended well after the block."""
    with ExitStack() as stack:
        programs = [ended(stack, start(kind, *each)) for each in arguments]
        for program in programs:
            go(program)
        yield programs
        for program in programs:
            wait_until_done(program)


def holding(stack: ExitStack, path: Path, kind: str) -> Program:
    """A program that has a lock, until the stack ends."""
    program = ended(stack, start(hold, path, kind))
    go(program)
    wait_until_done(program)
    return program


def ended(stack: ExitStack, program: Program) -> Program:
    """It will not outlive the stack."""

    def end() -> None:
        program.kill()
        program.communicate(timeout=SECONDS)

    stack.callback(end)
    return program


def main(kind: str, path: Path, *arguments: str) -> None:
    """One program."""
    print("ready", flush=True)
    sys.stdin.readline()
    KINDS[kind](path, *(int(each) if each.isdigit() else each for each in arguments))
    print("done", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
