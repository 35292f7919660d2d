"""Accounts that went back in time: known by their older head, told once, and brought up to date."""

from pathlib import Path

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.stores.faulty import Fault, FaultKind
from tests.support.faults import (
    DOWN,
    FULL_SECONDS,
    Contents,
    Ground,
    flushed,
    new_ground,
    until_full,
)

NOT_LISTED = Fault(FaultKind.DOWN, verbs=frozenset({"list_page"}))
TAKES_NOTHING = Fault(FaultKind.DOWN, verbs=frozenset({"put"}))
BACK = "a0 has gone back in time"


@pytest.fixture
async def ground(tmp_path: Path) -> Ground:
    return await new_ground(tmp_path, 2, 3)


async def write(ground: Ground, volume: Volume, name: bytes) -> None:
    await ground.write_file(volume, name)
    await flushed(volume)
    await until_full(volume)


def told(volume: Volume) -> bool:
    return any(f"{BACK}: what it lacks is" in text for text in volume.warnings())


async def until_told(ground: Ground, volume: Volume) -> None:
    """It stands in the status, for as long as the account takes nothing; and no longer."""
    with ground.clouds.failing(["a0"], TAKES_NOTHING):
        await until(volume, is_told=True)
    await until(volume, is_told=False)


async def until(volume: Volume, *, is_told: bool) -> None:
    with trio.fail_after(2 * FULL_SECONDS):
        while told(volume) != is_told:  # noqa: ASYNC110 - as a user looks
            await trio.sleep(1)


def sizes(contents: Contents) -> dict[str, int]:
    return {key: len(data) for key, data in contents["a0"].items()}


async def assert_again(ground: Ground, volume: Volume, latest: Contents) -> None:
    """The account has every object that it had, at its size; a head comes again under new bytes."""
    await until_full(volume)
    assert sizes(latest).items() <= sizes(ground.clouds.contents()).items()


async def written_twice(ground: Ground, volume: Volume) -> tuple[Contents, Contents]:
    """What lies in the accounts after a first file, and after a second one."""
    await write(ground, volume, b"first")
    former = ground.clouds.contents()
    await write(ground, volume, b"second")
    return former, ground.clouds.contents()


def times_logged(caplog: pytest.LogCaptureFixture) -> int:
    return sum(BACK in record.getMessage() for record in caplog.records)


async def test_an_account_that_goes_back_while_it_is_used_is_told_and_brought_up_to_date(
    ground: Ground, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    async with ground.opened() as volume:
        former, latest = await written_twice(ground, volume)
        ground.clouds.roll_back(["a0"], former)
        assert sizes(latest).items() > sizes(ground.clouds.contents()).items()
        await until_told(ground, volume)
        await assert_again(ground, volume, latest)
        assert times_logged(caplog) == 1
        assert any(f"{BACK}: what it lacked was put again" in x for x in volume.warnings())
        await ground.assert_reads_cold(volume)


async def test_an_account_that_went_back_meanwhile_is_told_after_the_mount(
    ground: Ground, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    async with ground.opened() as volume:
        await write(ground, volume, b"first")
    former = ground.clouds.contents()
    async with ground.opened() as volume:
        await write(ground, volume, b"second")
    latest = ground.clouds.contents()
    ground.clouds.roll_back(["a0"], former)
    async with ground.opened() as volume:
        await until_told(ground, volume)
        await assert_again(ground, volume, latest)
    assert times_logged(caplog) == 1


async def test_an_account_that_comes_back_as_it_once_was_is_looked_at_before_it_gets_a_newer_head(
    ground: Ground, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    async with ground.opened() as volume:
        former, latest = await written_twice(ground, volume)
        with ground.clouds.failing(["a0"], DOWN):
            await ground.write_file(volume, b"third")
            await flushed(volume)
            ground.clouds.roll_back(["a0"], former)
        await ground.write_file(volume, b"fourth")
        await flushed(volume)
        await until_told(ground, volume)
        await assert_again(ground, volume, latest)
    assert times_logged(caplog) == 1


async def test_an_account_that_was_emptied_is_filled_again(
    ground: Ground, autojump_clock: object
) -> None:
    async with ground.opened() as volume:
        await write(ground, volume, b"file")
        latest = ground.clouds.contents()
        ground.clouds.roll_back(["a0"], {"a0": {}})
        await until_told(ground, volume)
        await volume.control("look", {})  # brings the header, under a new name
        await until_full(volume)
        assert sorted(sizes(ground.clouds.contents()).values()) == sorted(sizes(latest).values())
        await ground.assert_reads_cold(volume)


async def test_what_was_found_is_not_forgotten_by_a_restart(
    ground: Ground, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    """It has its newest head again, and was not listed yet: that it went back is known."""
    async with ground.opened() as volume:
        former, latest = await written_twice(ground, volume)
        ground.clouds.roll_back(["a0"], former)
        account = next(one for one in volume.parts.accounts if one.name == "a0")
        with ground.clouds.failing(["a0"], NOT_LISTED):
            await volume.parts.publisher.look(account)
            await volume.parts.publisher.publish()
            assert told(volume)
    async with ground.opened() as volume:
        assert told(volume)
        await until(volume, is_told=False)
        await assert_again(ground, volume, latest)
    assert times_logged(caplog) == 1


async def test_accounts_that_are_what_they_were_are_not_named(
    ground: Ground, caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    for name in (b"first", b"second"):
        async with ground.opened() as volume:
            await write(ground, volume, name)
            with ground.clouds.failing(["a0"], DOWN):
                await ground.write_file(volume, name + b" meanwhile")
                await flushed(volume)
            await until_full(volume)
            await volume.control("look", {})
            assert volume.warnings() == []
    assert not times_logged(caplog)
