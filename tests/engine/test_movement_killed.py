"""A daemon that is killed while fragments move: it goes on, and nothing is lost or left over."""

import json
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import Config, MountConfig
from aggfs.engine.volume import Volume
from tests.support.movements import (
    fill,
    forget_the_past,
    fragments_at,
    nothing_comes_late,
    nothing_is_lost_or_left_over,
    read_all,
    sparse_files,
)
from tests.support.running import Place, flush, make_volume, running
from tests.support.victims import victim

ROUNDS = int(os.environ.get("AGGFS_KILLS", "2"))
DEATHS = 4
FILES = 10


def killed_while_moving(
    place: Place, config: Config, verb: str, arguments: dict[str, object], seconds: float
) -> bool:
    """Run until some time after it began; whether it had come to its end."""
    told = str(place.state), verb, json.dumps(arguments)
    with victim("moving_until_killed", config, *told) as program:
        assert program.line() == b"moving\n"
        time.sleep(seconds)
        return b"done\n" in program.kill()


async def killed_again_and_again(
    place: Place, config: Config, verb: str, arguments: dict[str, object], seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(DEATHS):
        seconds = chance.uniform(0.0, 0.3)
        if await trio.to_thread.run_sync(
            killed_while_moving, place, config, verb, arguments, seconds
        ):
            return


async def ended(volume: Volume) -> None:
    await nothing_comes_late(volume)
    with trio.fail_after(60):
        while (await volume.control("movement", {}))["state"] == "running":  # noqa: ASYNC110
            await trio.sleep(0.02)
    await nothing_comes_late(volume)
    await volume.control("look", {})  # a header that was put half way is put again
    await flush(volume)


@pytest.mark.parametrize("verb", ["rebalance", "account-drain", "account-remove"])
@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_a_movement_that_is_killed_again_and_again_ends_well(
    tmp_path: Path, verb: str, seed: int
) -> None:
    place = await make_volume(tmp_path, accounts=5)
    fewer = replace(place.config, accounts=place.config.accounts[:4])
    async with running(fewer, place.state) as volume:
        made = await fill(volume, FILES)
    arguments: dict[str, object] = {} if verb == "rebalance" else {"name": "a1"}
    await killed_again_and_again(place, place.config, verb, arguments, seed)
    async with running(place.config, place.state) as volume:
        await ended(volume)
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)
        if verb == "rebalance":
            assert fragments_at(volume)["a4"] > 0
        else:
            assert fragments_at(volume)["a1"] == 0


@pytest.mark.parametrize("code", [(2, 5), (3, 5), (2, 3)])
@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_coding_anew_that_is_killed_again_and_again_ends_well(
    tmp_path: Path, code: tuple[int, int], seed: int
) -> None:
    k, n = code
    place = await make_volume(tmp_path, k=2, n=4, accounts=5)
    config = replace(place.config, mount=MountConfig(collect_after_seconds=0))
    async with running(config, place.state) as volume:
        made = await fill(volume, FILES)
    await killed_again_and_again(place, config, "re-encode", {"k": k, "n": n}, seed)
    async with running(config, place.state) as volume:
        await ended(volume)
        assert await read_all(volume, made) == made
        await collected(volume)
        assert {(one.row.k, len(one.row.places)) for one in volume.parts.blocks.stripes()} == {code}
        await nothing_is_lost_or_left_over(volume, place)
        assert await read_all(volume, made) == made


async def collected(volume: Volume) -> None:
    await flush(volume)
    for _ in range(2):
        await volume.control("gc", {})
    await flush(volume)


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_compaction_that_is_killed_again_and_again_leaves_all_readable(
    tmp_path: Path, seed: int
) -> None:
    place = await make_volume(tmp_path)
    config = replace(place.config, mount=MountConfig(collect_after_seconds=0))
    async with running(config, place.state) as volume:
        made = await sparse_files(volume, 6)
        await forget_the_past(volume)
    await killed_again_and_again(place, config, "compact", {}, seed)
    async with running(config, place.state) as volume:
        await nothing_comes_late(volume)
        assert await read_all(volume, made) == made
        await flush(volume)
        await volume.control("compact", {})
        await collected(volume)
        assert volume.parts.blocks.stripe_count <= 6 + 3
        await nothing_is_lost_or_left_over(volume, place)
        assert await read_all(volume, made) == made
