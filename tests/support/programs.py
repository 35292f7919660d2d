"""Programs that are not ours, run as a user runs them: each must end in time, and as expected."""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAM_SECONDS = 180.0


def run(
    *command: str | Path,
    at: Path,
    code: int = 0,
    given: bytes = b"",
    seconds: float = PROGRAM_SECONDS,
    **variables: str | Path,
) -> str:
    """Run a program in the directory `at`, with `given` on its standard input; all that it
    printed. It must be installed, and end with this exit code."""
    assert shutil.which(command[0]), f"{command[0]} is not installed"
    environment = dict(os.environ) | {"LC_ALL": "C.UTF-8"}
    environment |= {name: str(value) for name, value in variables.items()}
    ended = subprocess.run(
        list(map(str, command)),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=at,
        env=environment,
        timeout=seconds,
        check=False,
    )
    printed = ended.stdout.decode(errors="replace")
    assert ended.returncode == code, f"{command} ended with {ended.returncode}:\n{printed}"
    return printed
