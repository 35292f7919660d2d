"""Accounts that are away, all or too many of them: what goes on, what waits, and what is told."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.config import MountConfig, Size
from aggfs.errors import NoSpace, TooFewFragments
from aggfs.stores.faulty import Fault, FaultKind
from tests.support.faults import DOWN, HUNG, Ground, flushed, new_ground, until_full
from tests.support.running import running

LIMIT_BYTES = 16 << 20
STUCK_SECONDS = 300
AUTH = Fault(FaultKind.AUTH)
either = pytest.mark.parametrize("fault", [DOWN, HUNG], ids=["down", "hung"])


async def with_little_staging(tmp_path: Path) -> Ground:
    ground = await new_ground(tmp_path, 2, 3)
    mount = MountConfig(staging_limit_bytes=Size(LIMIT_BYTES))
    ground.place = replace(ground.place, config=replace(ground.place.config, mount=mount))
    return ground


@either
async def test_a_volume_opens_without_any_account_and_catches_up_by_itself(
    tmp_path: Path, fault: Fault, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        for name in (b"cached", b"pinned", b"cold"):
            await ground.write_file(volume, name)
        await flushed(volume)
        await until_full(volume)
        await volume.control("pin", {"path": "/pinned"})
        cold = volume.namespace.lookup(1, b"cold")
        await volume.parts.local.evict([cold.number])
    with ground.clouds.failing(ground.names, fault):
        async with ground.opened() as volume:
            assert {name for name, _, _ in volume.namespace.readdir(1, 2)} == set(ground.files)
            await ground.assert_reads(volume, [b"cached", b"pinned"])
            with trio.fail_after(30), pytest.raises(TooFewFragments):
                await volume.files.read(cold.number, 0, 4096)
            written = await ground.write_file(volume, b"written offline")
            volume.namespace.rename(1, b"cached", 1, b"renamed", wait_for_content=False)
            await trio.sleep(STUCK_SECONDS)
            now = volume.namespace.by_number(written.number)
            assert volume.state_of(now) == "staged"
            status = await volume.control("status", {})
            assert not any(account["healthy"] for account in status["accounts"])
        # A restart in the middle of it loses nothing either.
        async with ground.opened() as volume:
            await ground.assert_reads(volume, [b"pinned", b"written offline"])
            for name in ground.names:
                ground.clouds.stores[name].heal()
            await until_full(volume)
            await flushed(volume)
            ground.files[b"renamed"] = ground.files.pop(b"cached")
            await ground.assert_reads_cold(volume)


async def test_writes_queue_up_to_the_limit_then_wait_then_fail_and_none_is_lost(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await with_little_staging(tmp_path)
    async with ground.opened() as volume:
        with ground.clouds.failing(ground.names, DOWN):
            waited = 0.0
            for number in range(200):
                began = trio.current_time()
                try:
                    await ground.write_file(volume, b"f%d" % number)
                except NoSpace as error:
                    waited, text = trio.current_time() - began, str(error)
                    break
            accepted = sum(map(len, ground.files.values()))
            assert LIMIT_BYTES / 2 < accepted <= LIMIT_BYTES
            assert waited >= 60, "a writer waits before he is refused"
            assert "waits to be sent" in text
            await ground.assert_reads(volume)
            volume.namespace.unlink(1, b"f%d" % number)
        await ground.write_file(volume, b"after")
        await until_full(volume)
        await flushed(volume)
        await ground.assert_reads_cold(volume)


async def test_a_writer_who_waits_goes_on_when_accounts_return(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await with_little_staging(tmp_path)
    async with ground.opened() as volume, trio.open_nursery() as nursery:
        for name in ground.names:
            ground.clouds.stores[name].inject(DOWN)

        async def write_on() -> None:
            for number in range(40):
                await ground.write_file(volume, b"f%d" % number)

        nursery.start_soon(write_on)
        await trio.sleep(30)
        assert len(ground.files) < 40
        for name in ground.names:
            ground.clouds.stores[name].heal()
    assert len(ground.files) == 40


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5)])
async def test_partial_redundancy_is_no_success(
    tmp_path: Path, k: int, n: int, autojump_clock: object
) -> None:
    """With fewer than k fragments in place nothing is published, and no flush returns."""
    ground = await new_ground(tmp_path, k, n)
    async with ground.opened() as volume:
        await ground.write_file(volume, b"before")
        await flushed(volume)
        published = volume.parts.publisher.state.published
        with ground.clouds.failing(ground.names[: n - k + 1], DOWN):
            row = await ground.write_file(volume, b"file")
            with trio.move_on_after(STUCK_SECONDS) as scope:
                await volume.control("flush", {})
            assert scope.cancelled_caught
            now = volume.namespace.by_number(row.number)
            assert volume.state_of(now) == "staged"
            assert volume.parts.publisher.state.published == published
            assert volume.parts.staging.size_bytes
        await flushed(volume)
        assert volume.parts.publisher.state.published > published


async def test_a_sync_to_the_cloud_waits_also_for_what_somebody_else_has_begun_to_send(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The flush behind the program has taken its edits, and cannot bring them there."""
    ground = await new_ground(tmp_path, 2, 3)
    for option in ("fsync", "close"):
        mount = MountConfig(**{option: "cloud"})
        config = replace(ground.place.config, mount=mount)
        async with running(
            config, ground.place.state, open_store=ground.clouds.open_store
        ) as volume:
            row = volume.namespace.create(1, option.encode(), 0o100640, 0, 0)
            await volume.files.write(row.number, 0, b"precious" * 50_000)
            sync = volume.files.fsync if option == "fsync" else volume.files.flush
            with ground.clouds.failing(ground.names, DOWN):
                await volume.stage({row.number})
                with trio.move_on_after(STUCK_SECONDS) as scope:
                    await sync(row.number)
                assert scope.cancelled_caught
            await sync(row.number)
            assert volume.state_of(volume.namespace.by_number(row.number)) in ("stored", "full")
            with ground.clouds.failing(ground.names, DOWN):
                await sync(row.number)  # nothing of it is missing anywhere


async def test_an_upload_error_is_told(tmp_path: Path, autojump_clock: object) -> None:
    """An account that refuses is named with its words; what waits for it is shown with its age."""
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        with ground.clouds.failing(ground.names[:2], AUTH):
            row = await ground.write_file(volume, b"file")
            await trio.sleep(STUCK_SECONDS)
            status = await volume.control("status", {})
            told = {one["name"]: one["error"] for one in status["accounts"]}
            assert all("the key is not accepted" in told[name] for name in ground.names[:2])
            assert told[ground.names[2]] == ""
            assert status["stripes"]["staged"] == 1
            assert status["under_replicated"] == 1
            assert volume.xattr(row.number, b"user.aggfs.state") == b"staged"
        await flushed(volume)


async def test_a_wrong_quota_is_corrected_by_the_first_refusal(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Accounts said they had 1 GiB; one has less. What it refuses goes to the others."""
    ground = await new_ground(tmp_path, 2, 3, accounts=4, quota_bytes=1 << 30)
    async with ground.opened() as volume:
        small = ground.names[0]
        await ground.write_file(volume, b"before")
        await flushed(volume)
        with ground.clouds.failing([small], Fault(FaultKind.QUOTA)):
            total, *_ = volume.statfs()
            for number in range(8):
                await ground.write_file(volume, b"f%d" % number)
                await flushed(volume)
            with trio.fail_after(STUCK_SECONDS):
                while volume.parts.blocks.unfinished():  # noqa: ASYNC110 - as a user looks
                    await trio.sleep(1)
            account = next(one for one in volume.parts.accounts if one.name == small)
            state = next(s for s in volume.parts.accounts.states() if s.name == small)
            assert account.full
            assert state.quota_bytes <= max(1, state.used_bytes)
            await trio.sleep(2)
            assert volume.statfs()[0] < total
        await until_full(volume)
        await ground.assert_reads_cold(volume)
