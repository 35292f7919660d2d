"""A program that saves documents as editors do (write a temporary file, rename it over the old
one) until it is killed.

Run as `python -m tests.support.saving STATE SEED < CONFIG`. It tells each save before it begins,
and after a flush which versions were in the accounts by then.
"""

import pickle
import random
import stat
import sys
from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from tests.support.running import flush, read, running, write
from tests.support.stripes import content

DOCUMENTS = 4
SIZES = (10, 900, 1025, 5000, 70_000, 300_001)


def body(document: int, version: int) -> bytes:
    """What a document is in a version."""
    seed = document << 32 | version
    return b"%d %d\n" % (document, version) + content(SIZES[seed % len(SIZES)], seed)


def version_of(document: int, data: bytes) -> int:
    """Which version this is; -1 if it is none, or not all of one."""
    words = data.partition(b"\n")[0].split()
    version = int(words[1]) if len(words) == 2 and words[1].isdigit() else -1
    return version if version >= 0 and data == body(document, version) else -1


async def save(volume: Volume, document: int, version: int, *, sync: bool) -> None:
    """One document, as the mount would do it."""
    names, files = volume.namespace, volume.files
    temporary, name = b".saving%d" % version, b"document%d" % document
    row = names.create(1, temporary, stat.S_IFREG | 0o640, 0, 0)
    await write(volume, row, 0, body(document, version))
    if sync:
        await files.fsync(row.number)
    dirty = files.is_dirty(row.number)
    replaced = names.rename(1, temporary, 1, name, wait_for_content=dirty)
    if dirty:
        files.sync_before_commit(row.number)
    if replaced is not None:
        names.drop_unlinked(replaced.number)


async def documents(volume: Volume) -> dict[int, int]:
    """Which version of each document is there."""
    found = {}
    present = {name for name, _, _ in volume.namespace.readdir(1, 2)}
    for document in range(DOCUMENTS):
        name = b"document%d" % document
        if name in present:
            found[document] = version_of(document, await read(volume, name))
    return found


def tidy(volume: Volume) -> None:
    """What was being saved when the last one was killed would be in the way."""
    names = volume.namespace
    for name in [name for name, _, _ in names.readdir(1, 2) if name.startswith(b".saving")]:
        names.drop_unlinked(names.unlink(1, name).number)


async def main(state: Path, seed: int) -> None:
    config = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the test
    chance = random.Random(seed)
    async with running(config, state) as volume:
        tidy(volume)
        version = max([0, *(await documents(volume)).values()])
        while True:
            for _ in range(chance.randint(1, 6)):
                version += 1
                document = chance.randrange(DOCUMENTS)
                print("save", document, version, flush=True)
                await save(volume, document, version, sync=chance.random() < 0.5)
            saved = await documents(volume)
            if chance.random() < 0.7:
                await flush(volume)
                print("flushed", *(f"{one}:{saved[one]}" for one in saved), flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
