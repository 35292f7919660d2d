"""A program that edits files of a volume at random until it is killed, and what may be left of
its files then.

Run as `python -m tests.support.dying STATE SEED < CONFIG`: each step is told on stdout before it is
begun, and again when it was acknowledged.
"""

import pickle
import random
import stat
import sys
from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.known import Known
from tests.support.running import running
from tests.support.stripes import content

NAMES = ("a", "b", "c")
SIZES = (0, 1, 500, 1024, 1025, 5000, 70_000, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7)
LENGTHS = (1, 17, 900, 5000, 70_000, 150_000, BLOCK_BYTES, 2 * BLOCK_BYTES + 3)
KINDS = ("write",) * 6 + ("truncate",) * 3 + ("fsync",) * 2 + ("flush", "evict", "wait", "empty")

Step = tuple[str, str, int, int, int]  # kind, name, offset or size, length, seed


def steps(seed: int):
    """For ever."""
    chance = random.Random(seed)
    while True:
        kind = chance.choice(KINDS)
        place = chance.choice(SIZES)
        yield kind, chance.choice(NAMES), place, chance.choice(LENGTHS), chance.randrange(1 << 30)


async def take(volume: Volume, step: Step) -> None:
    kind, name, place, length, seed = step
    row = volume.namespace.lookup(1, name.encode())
    match kind:
        case "write":
            await volume.files.opened(row.number, truncate=False)
            await volume.files.write(row.number, place, content(length, seed))
            await volume.files.released(row.number)
        case "truncate":
            await volume.files.truncate(row.number, place)
        case "empty":
            await volume.files.opened(row.number, truncate=True)
            await volume.files.write(row.number, 0, content(length, seed))
            await volume.files.released(row.number)
        case "fsync":
            await volume.files.fsync(row.number)
        case "flush":
            with trio.move_on_after(0.3):
                await volume.control("flush", {})
        case "evict":
            await volume.control("evict", {})
        case "wait":
            await trio.sleep(seed % 100 / 100)


def note(known: Known, step: Step, *, acknowledged: bool) -> None:
    """What a step that was begun, or acknowledged, makes possible."""
    kind, _, place, length, seed = step
    if kind == "write" and not acknowledged:
        _write(known, place, content(length, seed))
    elif kind == "truncate" and not acknowledged:
        _truncate(known, place)
    elif kind == "empty" and not acknowledged:
        _truncate(known, 0)
        _write(known, 0, content(length, seed))
    elif kind == "fsync" and acknowledged:
        known.make_sure()


def _write(known: Known, offset: int, data: bytes) -> None:
    known.may_write(offset, data)
    now = known.now.ljust(offset, b"\0")
    known.is_now(now[:offset] + data + now[offset + len(data) :])


def _truncate(known: Known, size: int) -> None:
    known.may_truncate(size)
    known.is_now(known.now[:size].ljust(size, b"\0"))


async def main(state: Path, seed: int) -> None:
    config = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - from the test
    async with running(config, state) as volume:
        present = {name for name, _, _ in volume.namespace.readdir(1, 2)}
        for name in NAMES:
            if name.encode() not in present:
                volume.namespace.create(1, name.encode(), stat.S_IFREG | 0o644, 0, 0)
        await volume.files.fsync_directory()
        for step in steps(seed):
            print("begin", *step, flush=True)
            await take(volume, step)
            print("done", *step, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
