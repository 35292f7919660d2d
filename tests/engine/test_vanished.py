"""An account that is gone altogether: whoever looks for what lies there says so, and ends."""

import shutil
from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from tests.support.running import fill, flush, make_volume, running


async def test_scrub_collection_and_check_end_and_name_the_account(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        confirmed = marks(volume)
        shutil.rmtree(place.config.accounts[0].path)
        with trio.fail_after(60):
            for arguments in ({}, {"repair": True}, {"full": True, "repair": True}):
                found = await volume.control("scrub", arguments)
                assert list(found["left_out"]) == ["a0"]
                assert found["fault_count"] == 0
            collected = await volume.control("gc", {})
            (told,) = [one for one in collected["accounts"] if one["name"] == "a0"]
            assert told["failure"]
            assert told["deleted"] == 0
            checked = await volume.control("check", {})
            assert checked["findings"] == []
            assert list(checked["scrub"]["left_out"]) == ["a0"]
        assert marks(volume) == confirmed  # what cannot be listed proves nothing
        status = await volume.control("status", {})
        (account,) = [one for one in status["accounts"] if one["name"] == "a0"]
        assert not account["healthy"]


async def test_an_account_that_was_emptied_is_filled_again(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        path = Path(place.config.accounts[0].path)
        for directory in path.iterdir():
            shutil.rmtree(directory)
        with trio.fail_after(60):
            found = await volume.control("scrub", {"repair": True})
            assert found["left_out"] == {}
            assert found["fault_count"] == found["repaired_fragments"] > 0
            await flush(volume)
            assert (await volume.control("scrub", {"full": True}))["fault_count"] == 0
        account = place.config.accounts[0]
        for state in volume.parts.blocks.stripes():
            index = state.row.places.index(account.id)
            row = state.row
            key = volume.parts.keys.fragment_name(row.epoch, row.sid, index, account.id)
            assert (path / key).exists()
            assert state.full


def marks(volume: Volume) -> list[int]:
    return [state.confirmed for state in volume.parts.blocks.stripes()]
