"""Pins: what is pinned is here, comes here, and stays here."""

from pathlib import Path
from stat import S_IFDIR

import pytest
import trio

from aggfs.engine.pins import Pins
from aggfs.engine.volume import Volume
from aggfs.errors import NoEntry, NoSpace, TooFewFragments
from aggfs.model import InodeRow
from tests.support.faults import DOWN, Ground, flushed, new_ground
from tests.support.running import flush, make_volume, new_file, running

BRING_SECONDS = 60


async def until_here(volume: Volume, number: int) -> None:
    with trio.fail_after(BRING_SECONDS):
        while volume.parts.local.holes(number)[0]:  # noqa: ASYNC110 - as a user looks
            await trio.sleep(0.02)


async def evicted(volume: Volume, *rows: InodeRow, force: bool = True) -> None:
    for row in rows:
        path = volume.namespace.path_of(row.number).decode()
        await volume.control("evict", {"path": path, "force": force})


async def test_what_is_pinned_comes_and_stays_until_it_is_unpinned(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        pinned = await new_file(volume, 1, b"pinned", b"p" * 700_000)
        other = await new_file(volume, 1, b"other", b"o" * 700_000)
        await flush(volume)
        await evicted(volume, pinned, other)
        await volume.control("pin", {"path": "/pinned"})
        await until_here(volume, pinned.number)
        assert volume.parts.local.holes(other.number)[0]
        answer = await volume.control("evict", {})
        assert answer["pinned_files"] == 1
        assert await volume.parts.local.keep_within(0) == 0
        assert not volume.parts.local.holes(pinned.number)[0]
        await volume.control("unpin", {"path": "/pinned"})
        assert await volume.parts.local.keep_within(0) == 700_000


async def test_a_pinned_directory_holds_what_comes_into_it_later(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        top = volume.namespace.create(1, b"top", S_IFDIR | 0o755, 0, 0)
        below = volume.namespace.create(top.number, b"below", S_IFDIR | 0o755, 0, 0)
        await volume.control("pin", {"path": "/top"})
        moved = await new_file(volume, 1, b"moved", b"m" * 300_000)
        await flush(volume)
        await evicted(volume, moved, force=False)
        assert volume.parts.local.holes(moved.number)[0]
        volume.namespace.rename(1, b"moved", below.number, b"moved", wait_for_content=False)
        await volume.control("warm", {"path": "/top"})
        await evicted(volume, moved, force=False)
        assert not volume.parts.local.holes(moved.number)[0]
        volume.namespace.link(moved.number, 1, b"second name")
        volume.namespace.unlink(below.number, b"moved")
        await evicted(volume, moved, force=False)
        assert volume.parts.local.holes(moved.number)[0]


async def test_pins_outlive_a_restart_and_bring_what_was_lost(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"pinned", b"p" * 700_000)
        await flush(volume)
        await volume.control("pin", {"path": "/pinned"})
        await evicted(volume, row)
        await until_here(volume, row.number)  # though it was taken by force
    (data,) = (place.state / "files" / "data").iterdir()
    data.write_bytes(bytes(data.stat().st_size))  # the local copy is spoilt
    async with running(place.config, place.state) as volume:
        assert bytes(await volume.files.read(row.number, 0, 700_000)) == b"p" * 700_000
        (one,) = (await volume.control("pins", {}))["pins"]
        assert one == {"path": "/pinned", "size_bytes": 700_000, "missing_bytes": 0}


async def test_what_is_not_pinned_itself_cannot_be_unpinned(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        volume.namespace.create(1, b"directory", S_IFDIR | 0o755, 0, 0)
        await volume.control("pin", {"path": "/"})
        with pytest.raises(NoEntry, match="not pinned itself"):
            await volume.control("unpin", {"path": "/directory"})
        await volume.control("unpin", {"path": "/"})
        assert (await volume.control("pins", {}))["pins"] == []


async def test_a_pin_on_what_is_gone_is_no_pin(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", b"x")
        await volume.control("pin", {"path": "/file"})
        volume.namespace.unlink(1, b"file")
        assert (await volume.control("pins", {}))["pins"] == []


async def test_nothing_is_brought_into_room_that_is_to_stay_free(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"x" * 700_000)
        await flush(volume)
        await evicted(volume, row)
        parts = volume.parts
        pins = Pins(
            *(parts.database, parts.tree, parts.namespace, parts.local, parts.pace),
            wall_ns=parts.wall_ns,
            room_bytes=lambda: 500_000,
        )
        with pytest.raises(NoSpace, match="minimum_free"):
            await pins.bring_under(row)
        assert parts.local.missing_bytes(row.number) == 700_000


async def offline(ground: Ground, volume: Volume) -> InodeRow:
    row = await ground.write_file(volume, b"file")
    await flushed(volume)
    await evicted(volume, row)
    return row


async def test_a_pin_that_cannot_be_met_is_told_and_met_when_accounts_return(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        row = await offline(ground, volume)
        with ground.clouds.failing(ground.names, DOWN):
            await volume.control("pin", {"path": "/file"})
            with pytest.raises(TooFewFragments):
                await volume.control("warm", {"path": "/file", "seconds": 60})
            await trio.sleep(60)
            status = await volume.control("status", {})
            assert any("pinned files are not all here" in one for one in status["warnings"])
        with trio.fail_after(600):
            while volume.parts.local.holes(row.number)[0]:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(1)
            await trio.sleep(1)
        status = await volume.control("status", {})
        assert not any("pinned" in one for one in status["warnings"])
