"""Rebalancing a running volume."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import Config, Size
from aggfs.engine.volume import Volume
from aggfs.errors import Busy
from tests.support.movements import (
    ask,
    fill,
    fragments_at,
    nothing_comes_late,
    nothing_is_lost_or_left_over,
    read_all,
)
from tests.support.running import Place, flush, make_volume, running

MIB = 1 << 20


def with_quota(config: Config, quota_bytes: int) -> Config:
    accounts = tuple(replace(one, quota_bytes=Size(quota_bytes)) for one in config.accounts)
    return replace(config, accounts=accounts)


async def crowded(place: Place) -> tuple[Config, dict[bytes, bytes]]:
    """Files at three of four accounts; the configuration with all four."""
    config = with_quota(place.config, 40 * MIB)
    three = replace(config, accounts=config.accounts[:3])
    async with running(three, place.state) as volume:
        made = await fill(volume, 8)
    return config, made


async def test_a_new_account_gets_its_part_and_everything_stays_readable(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    config, made = await crowded(place)
    async with running(config, place.state) as volume:
        assert fragments_at(volume)["a3"] == 0
        plan = await volume.control("rebalance", {"dry_run": True})
        assert fragments_at(volume)["a3"] == 0
        answer = await ask(volume, "rebalance")
        assert answer["state"] == "done"
        assert answer["moved_bytes"] == plan["total_bytes"]
        counts = fragments_at(volume)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert (await volume.control("status", {}))["movement"] == answer
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)
        again = await volume.control("rebalance", {"dry_run": True})
        assert again["total_bytes"] == 0


async def test_a_movement_goes_on_after_a_restart(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    config, made = await crowded(place)
    async with running(config, place.state) as volume:
        started = await volume.control("rebalance", {"rate": 1 * MIB})
        assert started["state"] == "running"
        with pytest.raises(Busy):
            await volume.control("account-drain", {"name": "a0"})
        with trio.fail_after(30):
            while not fragments_at(volume)["a3"]:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(0.02)
    async with running(config, place.state) as volume:
        row = await volume.control("movement", {})
        assert row["state"] == "running"
        await until_done(volume)
        await nothing_comes_late(volume)
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)


async def until_done(volume: Volume) -> None:
    with trio.fail_after(60):
        while (await volume.control("movement", {}))["state"] == "running":  # noqa: ASYNC110 - as a user looks
            await trio.sleep(0.05)


async def test_what_is_stopped_stays_where_it_is(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, accounts=4)
    config, made = await crowded(place)
    async with running(config, place.state) as volume:
        await volume.control("rebalance", {"rate": 1 * MIB})
        answer = await volume.control("movement-stop", {})
        assert answer["state"] == "stopped"
        assert (await ask(volume, "rebalance"))["state"] == "done"
        assert await read_all(volume, made) == made
        await flush(volume)
        await nothing_is_lost_or_left_over(volume, place)
