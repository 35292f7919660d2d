"""A daemon that is killed at any moment: what is there after that, and that it stays so."""

import os
import random
import time
from pathlib import Path

import pytest
import trio

from tests.support.dying import NAMES, note
from tests.support.known import Known
from tests.support.running import Place, flush, make_volume, read, recover, running
from tests.support.victims import victim

ROUNDS = int(os.environ.get("AGGFS_KILLS", "6"))


def killed_while_editing(place: Place, known: dict[str, Known], seed: int) -> None:
    with victim("dying", place.config, str(place.state), str(seed)) as program:
        lines = [program.line()]
        time.sleep(random.Random(seed).uniform(0.0, 2.5))
        lines += program.kill()
    for line in lines:
        word, kind, name, *numbers = line.decode().split()
        if len(numbers) == 3:
            step = (kind, name, *map(int, numbers))
            note(known[name], step, acknowledged=word == "done")


async def contents(place: Place, state: Path, config=None) -> dict[str, bytes]:
    async with running(config or place.config, state) as volume:
        return {name: await read(volume, name.encode()) for name in NAMES}


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_a_killed_daemon_leaves_every_file_as_it_was_made_sure_or_later(
    tmp_path: Path, seed: int
) -> None:
    place = await make_volume(tmp_path)
    known = {name: Known() for name in NAMES}
    for death in range(3):
        await trio.to_thread.run_sync(killed_while_editing, place, known, 1000 * seed + death)
        found = await contents(place, place.state)
        assert {name: known[name].fault(found[name]) for name in NAMES} == dict.fromkeys(NAMES, "")
        async with running(place.config, place.state) as volume:
            await flush(volume)
            await volume.control("evict", {})
        assert await contents(place, place.state) == found
        for name in NAMES:
            known[name].is_now(found[name])
            known[name].make_sure()
    second, config = await recover(place, tmp_path / "second")
    assert await contents(place, second, config) == found
