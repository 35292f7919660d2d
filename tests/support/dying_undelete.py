"""A process that brings a tree back from the trash, and says when so many of its files are there.

  python -m tests.support.dying_undelete STATE_DIRECTORY

Reads (configuration, number of the directory, number of files), pickled, from its standard input.
"""

import pickle
import sys
from pathlib import Path

import trio

from tests.support.running import running


async def run(state: Path) -> None:
    config, number, files = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - the tests' own
    async with running(config, state) as volume, trio.open_nursery() as nursery:
        nursery.start_soon(volume.control, "undelete", {"path": "/d"})
        while volume.namespace.by_number(number).children < files:
            await trio.lowlevel.checkpoint()
        await volume.parts.database.durable()
        print("there", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]))
