"""A process that makes or brings back many files by one verb, and says when some of them are there.

  python -m tests.support.dying_verb STATE_DIRECTORY

Reads (configuration, verb, arguments, number of a directory, how many), pickled, from its standard
input. It waits until the directory has so many children; without one, until there are so many
inodes more.
"""

import pickle
import sys
from pathlib import Path

import trio

from tests.support.running import running


async def run(state: Path) -> None:
    given = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - the tests' own words
    config, verb, arguments, number, files = given
    async with running(config, state) as volume, trio.open_nursery() as nursery:
        names = volume.namespace
        before = names.inode_count

        def there() -> int:
            return names.by_number(number).children if number else names.inode_count - before

        nursery.start_soon(volume.control, verb, arguments)
        while there() < files:
            await trio.lowlevel.checkpoint()
        await volume.parts.database.durable()
        print("there", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(run, Path(sys.argv[1]))
