"""The commands as a user runs them: a process, a home directory, real mounts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOP = Path(__file__).parent.parent.parent
COMMAND_SECONDS = 120
PROGRAM = "from aggfs.cli.main import main; main()"


@dataclass(frozen=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Home:
    """A user's home directory. `aggfs` runs a command there, with these environment variables."""

    path: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def aggfs(
        self, *arguments: str | Path, code: int | None = 0, seconds: float = COMMAND_SECONDS
    ) -> Done:
        """Run one command, which must end without a traceback, and with this exit code if any."""
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=TOP,
            check=False,
        )
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert code in (None, done.code), f"{arguments}: {done}\n{self.logs()}"
        assert "Traceback" not in done.err, done.err
        if done.err and done.code:
            assert done.err.startswith(("aggfs: ", "Usage: ")), done.err
        return done

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """What a command says with --json."""
        return json.loads(self.aggfs(*arguments, "--json", code=code).out)

    def directories(self, count: int) -> list[Path]:
        """Empty directories to be accounts."""
        paths = [self.path / f"account{index}" for index in range(count)]
        for path in paths:
            path.mkdir()
        return paths

    def init(self, name: str, *arguments: str | Path, accounts: int = 3, code: int = 0) -> Done:
        """`aggfs init` over new directories, each declared as a provider of its own."""
        specs = [
            f"--account=a{index}={path}?provider=p{index}"
            for index, path in enumerate(self.directories(accounts))
        ]
        return self.aggfs("init", name, *specs, *arguments, code=code)

    def logs(self) -> str:
        """What daemons in the background have logged."""
        return "\n".join(path.read_text() for path in self.path.glob("state/aggfs/*/daemon.log"))

    def environment(self) -> dict[str, str]:
        """What a command runs with."""
        changed = {"HOME": str(self.path)}
        for variable in ("CONFIG", "STATE", "DATA", "CACHE"):
            changed[f"XDG_{variable}_HOME"] = str(self.path / variable.lower())
        return dict(os.environ) | changed | dict(self.variables)


def words_in(text: str) -> str:
    """The recovery words that a command printed."""
    words = re.findall(r"(?<![^\s])\d{1,2} ([a-z]+)", text)
    assert len(words) == 24, text
    return " ".join(words)


@contextmanager
def a_home(path: Path) -> Iterator[Home]:
    """A home directory; whatever is mounted from it at the end is unmounted, and is told."""
    home = Home(path)
    try:
        yield home
    finally:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", errors="surrogateescape")
        left = [line.split()[4] for line in mounts.splitlines() if f" {path}/" in line]
        for mountpoint in left:
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False, timeout=30)
    assert left == [], f"still mounted: {left}"
