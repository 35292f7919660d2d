"""The devices of a volume, and taking one out that is lost."""

import shutil
from pathlib import Path

import pytest

from aggfs.errors import NoEntry, Refused
from tests.support.running import flush, make_volume, new_file, recover, running


async def test_after_a_recovery_the_lost_device_can_be_taken_out(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", bytes(300_000))
        await flush(volume)
    shutil.rmtree(place.state)
    told: list[str] = []
    state, config = await recover(place, tmp_path / "again", report=told.append)
    assert told[-1].startswith(f"still members: {place.config.device_name}; take out each that is")
    lost = place.config.device.hex()
    async with running(config, state) as volume:
        listed = (await volume.control("device-list", {}))["devices"]
        assert {one["name"]: (one["this"], one["lapsed"]) for one in listed} == {
            place.config.device_name: (False, False),
            "second": (True, False),
        }
        with pytest.raises(Refused):
            await volume.control("device-lapse", {"device": "second"})
        with pytest.raises(NoEntry):
            await volume.control("device-lapse", {"device": "nobody"})
        assert (await volume.control("gc", {}))["notes"]
        await volume.control("device-lapse", {"device": lost})
        await flush(volume)
    async with running(config, state) as volume:
        listed = (await volume.control("device-list", {}))["devices"]
        assert [one["lapsed"] for one in listed if one["id"] == lost] == [True]
        assert volume.parts.tree.members()[place.config.device].lapsed_after > 0
        assert not (await volume.control("gc", {}))["notes"]
    await recover(place, tmp_path / "third", report=told.append)
    assert told[-1].startswith("still members: second; ")
