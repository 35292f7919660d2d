"""Programs over the state of a volume, at work until they are killed with -9."""

import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.support.commands import TOP


class Victim:
    """A program that would go on for ever."""

    def __init__(self, program: subprocess.Popen[bytes], told: IO[bytes]) -> None:
        self._program = program
        self._told = told

    def line(self) -> bytes:
        """The next line that it tells."""
        return self._told.readline()

    def kill(self) -> list[bytes]:
        """End it; the lines that it had told by then and were not read. Nothing else may have
        ended it before."""
        self._program.kill()
        lines = self._told.readlines()
        assert self._program.wait() == -signal.SIGKILL, "it ended by itself"
        return lines

    def end(self) -> tuple[int, list[bytes]]:
        """It ends because what it works on does; its code, and the lines that were not read."""
        lines = self._told.readlines()
        return self._program.wait(), lines


@contextmanager
def victim(module: str, given: object, *arguments: str) -> Iterator[Victim]:
    """Runs `tests.support.MODULE`, with `given` pickled on its standard input. It is gone at the
    end of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", f"tests.support.{module}", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        try:
            program.stdin.write(pickle.dumps(given))
            program.stdin.close()
            yield Victim(program, program.stdout)
        finally:
            program.kill()
