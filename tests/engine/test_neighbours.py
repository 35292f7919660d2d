"""Many at once in one file that is fetched: writers and readers, each with regions of his own
that share blocks, units and cipher groups with those of others."""

import itertools
import random
from pathlib import Path

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.running import flush, make_volume, new_file, running

SIZE = 9 * BLOCK_BYTES + 12_345
WRITERS = 4
ROUNDS = 20


def regions(draw: random.Random) -> list[list[tuple[int, int]]]:
    """The file cut at arbitrary places, and dealt out."""
    cuts = sorted({0, SIZE, *(draw.randrange(SIZE) for _ in range(12))})
    dealt: list[list[tuple[int, int]]] = [[] for _ in range(WRITERS)]
    for number, pair in enumerate(itertools.pairwise(cuts)):
        dealt[number % WRITERS].append(pair)
    return dealt


async def write_and_look(
    volume: Volume, number: int, truth: bytearray, mine: list[tuple[int, int]], seed: int
) -> None:
    draw = random.Random(seed)
    for step in range(4):
        for _ in range(draw.randrange(60)):  # anywhere among what the others do
            await trio.lowlevel.checkpoint()
        start, end = draw.choice(mine)
        low = draw.randrange(start, end)
        high = draw.choice([end, draw.randrange(low, end) + 1])
        if step % 2:
            data = draw.randbytes(high - low)
            truth[low:high] = data
            await volume.files.write(number, low, data)
        else:
            found = bytes(await volume.files.read(number, low, high - low))
            assert found == bytes(truth[low:high]), (seed, low, high)


@pytest.mark.parametrize("seed", range(3))
async def test_neighbours_in_a_file_do_not_disturb_each_other(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        truth = bytearray(draw.randbytes(SIZE))
        row = await new_file(volume, 1, b"file", bytes(truth))
        dealt = regions(draw)
        for turn in range(ROUNDS):
            await flush(volume)
            await volume.control("evict", {})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.read, row.number, 0, SIZE)
                for mine in dealt:
                    nursery.start_soon(
                        write_and_look, volume, row.number, truth, mine, draw.getrandbits(64)
                    )
            assert bytes(await volume.files.read(row.number, 0, SIZE)) == bytes(truth), turn
        await flush(volume)
        await volume.control("evict", {})
        assert bytes(await volume.files.read(row.number, 0, SIZE)) == bytes(truth)
