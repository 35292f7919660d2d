"""A process that puts one content of a file back after the other, and says so each time.

  python -m tests.support.dying_restore STATE_DIRECTORY

Reads (configuration, versions of /f), pickled, from its standard input.
"""

import pickle
import sys
from itertools import cycle
from pathlib import Path

import trio

from tests.support.running import running


async def run(state: Path) -> None:
    config, versions = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - the tests' own words
    async with running(config, state) as volume:
        for version in cycle(versions):
            await volume.control("restore", {"path": "/f", "version": version})
            print(f"restored {version}", flush=True)


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]))
