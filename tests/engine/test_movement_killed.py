"""A daemon that is killed while fragments move: it goes on, and nothing is lost or left over."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import Config
from tests.support.movements import fill, fragments_at, nothing_is_lost_or_left_over, read_all
from tests.support.running import Place, flush, make_volume, running

REPOSITORY = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("AGGFS_KILLS", "3"))
DEATHS = 4
FILES = 10


def killed_while_moving(place: Place, config: Config, verb: str, name: str, seconds: float) -> bool:
    """Run until some time after the movement began; whether it had come to its end."""
    command = [sys.executable, "-m", "tests.support.moving_until_killed", str(place.state)]
    with subprocess.Popen(
        [*command, verb, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(pickle.dumps(config))
        program.stdin.close()
        assert program.stdout.readline() == b"moving\n"
        time.sleep(seconds)
        program.send_signal(signal.SIGKILL)
        return b"done" in program.stdout.read()


@pytest.mark.parametrize("verb", ["rebalance", "account-drain", "account-remove"])
@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_a_movement_that_is_killed_again_and_again_ends_well(
    tmp_path: Path, verb: str, seed: int
) -> None:
    place = await make_volume(tmp_path, accounts=5)
    chance = random.Random(seed)
    fewer = replace(place.config, accounts=place.config.accounts[:4])
    async with running(fewer, place.state) as volume:
        made = await fill(volume, FILES)
    name = "" if verb == "rebalance" else "a1"
    for _ in range(DEATHS):
        seconds = chance.uniform(0.0, 0.25)
        done = await trio.to_thread.run_sync(
            killed_while_moving, place, place.config, verb, name, seconds
        )
        if done:
            break
    async with running(place.config, place.state) as volume:
        with trio.fail_after(60):
            while (await volume.control("movement", {}))["state"] == "running":  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert await read_all(volume, made) == made
        await flush(volume)
        nothing_is_lost_or_left_over(volume, place)
        if verb == "rebalance":
            assert fragments_at(volume)["a4"] > 0
        else:
            assert fragments_at(volume)["a1"] == 0
