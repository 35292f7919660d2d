"""Documents that are saved by "write temporary, rename over" while the daemon is killed: whole and
not older than promised, here, and as seen from the accounts alone at that very moment."""

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.support.running import Place, make_volume, recover, running
from tests.support.saving import documents
from tests.support.victims import victim


def killed_while_saving(place: Place, seed: int) -> dict[int, int]:
    """The versions that a flush had brought into the accounts."""
    with victim("saving", place.config, str(place.state), str(seed)) as program:
        lines = [program.line()]
        time.sleep(random.Random(seed).uniform(0.0, 2.0))
        lines += program.kill()
    told = [line.decode().split()[1:] for line in lines if line.startswith(b"flushed")]
    last = told[-1] if told and lines[-1].endswith(b"\n") else told[-2] if told[1:] else []
    return {int(one): int(version) for one, _, version in (pair.partition(":") for pair in last)}


async def seen_from_the_accounts(place: Place, top: Path) -> dict[int, int]:
    """The documents in a volume that was recovered from a copy of the accounts as they are."""
    accounts = []
    for one in place.accounts:
        shutil.copytree(one.path, top / one.name)
        accounts.append(replace(one, path=str(top / one.name)))
    state, config = await recover(place, top / "state", accounts)
    async with running(config, state) as volume:
        return await documents(volume)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_saved_document_is_whole_and_no_older_than_flushed_also_in_the_accounts(
    tmp_path: Path, seed: int
) -> None:
    place = await make_volume(tmp_path)
    for death in range(3):
        flushed = await trio.to_thread.run_sync(killed_while_saving, place, 100 * seed + death)
        far = await seen_from_the_accounts(place, tmp_path / f"copy{death}")
        async with running(place.config, place.state) as volume:
            here = await documents(volume)
        for found in (far, here):
            assert -1 not in found.values(), "a document is not whole"
            for document, version in flushed.items():
                assert found[document] >= version, (document, found, flushed)
