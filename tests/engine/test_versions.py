"""Versions of files: kept by the table, an old one put back, trimmed without harm to the others."""

from dataclasses import replace

import pytest
import trio

from aggfs.cache.past import Past
from aggfs.engine.past.history import History
from aggfs.engine.volume import Volume
from aggfs.errors import Damaged
from aggfs.model import BLOCK_BYTES
from aggfs.sync.retention import DAY_MS, HOUR_MS, Retention, Tier
from tests.support.running import (
    checkpoint,
    dump,
    flush,
    make_volume,
    new_file,
    recover,
    running,
    write,
)
from tests.support.stripes import content

NOTHING_OLD = Retention((Tier(0, 0),), 0)


async def all_of(volume: Volume, number: int) -> bytes:
    size = volume.namespace.by_number(number).size
    return bytes(await volume.files.read(number, 0, size))


async def with_versions(volume: Volume, name: bytes = b"f") -> tuple[int, list[bytes]]:
    """A file with a version for each kind of edit, and what each of them holds."""
    row = await new_file(volume, 1, name, content(5 * BLOCK_BYTES, 1))
    number, held = row.number, []

    async def note() -> None:
        await volume.stage({number})
        held.append(await all_of(volume, number))

    await note()
    await write(volume, row, BLOCK_BYTES + 10, content(100, 2))
    await note()
    await volume.files.truncate(number, 2 * BLOCK_BYTES + 77)
    await note()
    await volume.files.truncate(number, 4 * BLOCK_BYTES)
    await note()
    await write(volume, row, 6 * BLOCK_BYTES, content(3000, 3))
    await note()
    await volume.files.truncate(number, 0)
    await write(volume, row, 0, content(300, 4))  # inline
    await note()
    await write(volume, row, 200, content(3 * BLOCK_BYTES, 5))
    await note()
    return number, held


async def assert_all_come_back(volume: Volume, number: int, held: list[bytes]) -> None:
    """Each kept version, put beside the file, holds what was noted."""
    past = History(volume)
    inode = volume.namespace.by_number(number).inode
    versions = past.versions.of(inode)
    assert len(versions) == len(held)
    for at, (version, data) in enumerate(zip(versions, held, strict=True)):
        arguments = {"path": "/f", "version": version.content.version.hex(), "to": f"/old{at}"}
        await volume.control("restore", arguments)
        made = volume.namespace.lookup(1, b"old%d" % at)
        assert await all_of(volume, made.number) == data
        volume.namespace.unlink(1, b"old%d" % at)
        volume.namespace.drop_unlinked(made.number)


async def test_every_version_can_be_had_again(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        answer = await volume.control("versions", {"path": "/f"})
        told = answer["versions"]
        assert [one["size"] for one in told] == [len(data) for data in reversed(held)]
        assert [one["current"] for one in told] == [True] + [False] * (len(held) - 1)
        assert {one["device"] for one in told} == {"first"}
        await assert_all_come_back(volume, number, held)


async def test_a_file_is_put_back_in_place_and_what_it_held_is_a_version(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        await flush(volume)
        row = volume.namespace.by_number(number)
        await write(volume, row, 5, b"not in any version yet")
        newest = await all_of(volume, number)
        sent = sum(account.meter()["put"].sent_bytes for account in volume.parts.accounts)
        told = (await volume.control("versions", {"path": "/f"}))["versions"]
        await volume.control("restore", {"path": "/f", "version": told[-1]["version"][:12]})
        assert await all_of(volume, number) == held[0]
        told = (await volume.control("versions", {"path": "/f"}))["versions"]
        assert len(told) == len(held) + 2
        await volume.control(
            "restore", {"path": "/f", "version": told[1]["version"], "to": "/newest"}
        )
        made = volume.namespace.lookup(1, b"newest")
        assert await all_of(volume, made.number) == newest
        await flush(volume)
        moved = sum(a.meter()["put"].sent_bytes for a in volume.parts.accounts) - sent
        assert moved < 8 * len(newest)  # of the edit and of journals, not of what was put back
        await volume.control("evict", {})
        assert await all_of(volume, number) == held[0]
        await write(volume, row, 0, b"goes on")
        assert await all_of(volume, number) == b"goes on" + held[0][7:]
    async with running(place.config, place.state) as volume:
        assert await all_of(volume, number) == b"goes on" + held[0][7:]


async def test_versions_come_back_from_the_accounts(tmp_path) -> None:
    for with_checkpoint in (False, True):
        root = tmp_path / str(with_checkpoint)
        root.mkdir()
        place = await make_volume(root)
        async with running(place.config, place.state) as volume:
            _, held = await with_versions(volume)
            await volume.control("restore", {"path": "/f", "at": "2100-01-01", "to": "/copy"})
            await flush(volume)
            if with_checkpoint:
                await checkpoint(volume, place)
            before = await dump(volume)
        second, config = await recover(place, root / "second")
        async with running(config, second) as volume:
            assert await dump(volume) == before
            await assert_all_come_back(volume, volume.namespace.lookup(1, b"f").number, held)


async def test_what_the_table_does_not_keep_goes_and_the_rest_is_as_it_was(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        await flush(volume)
        parts, past = volume.parts, History(volume)
        inode = volume.namespace.by_number(number).inode
        now_ms = past.versions.of(inode)[-1].time_ms
        assert await past.versions.trim(now_ms, parts.history) == 0
        times = [one.time_ms for one in past.versions.of(inode)]
        assert await past.versions.trim(now_ms + HOUR_MS // 2, parts.history) == 0
        gone = await past.versions.trim(now_ms + 40 * DAY_MS, NOTHING_OLD)
        left = past.versions.of(inode)
        assert [one.time_ms for one in left] == times[-1:]
        assert gone == len(held) - 1
        assert not list(Past(parts.database).superseded())
        await volume.control("evict", {})
        assert await all_of(volume, number) == held[-1]


async def test_versions_that_rest_on_each_other_go_together_and_the_last_holds_all(
    tmp_path,
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"f", content(5 * BLOCK_BYTES, 1))
        for block in range(4):
            await volume.stage({row.number})
            await write(volume, row, block * BLOCK_BYTES, content(100, block))
        await flush(volume)
        held = [await all_of(volume, row.number)]
        versions = History(volume).versions
        assert await versions.trim(2**50, NOTHING_OLD) == 4
        await assert_all_come_back(volume, row.number, held)
        await checkpoint(volume, place)
    second, config = await recover(place, tmp_path / "second")
    async with running(config, second) as volume:
        assert await all_of(volume, volume.namespace.lookup(1, b"f").number) == held[0]


async def test_each_version_goes_alone_and_the_others_hold_what_they_held(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        await flush(volume)
        versions = History(volume).versions
        inode = volume.namespace.by_number(number).inode
        cut = volume.parts.tree.cut.to_bytes(8)
        for at in (3, 1, 3, 0):  # of what is left
            assert versions._let_go(inode, versions.of(inode)[at].content.version, cut)
            del held[at]
            await assert_all_come_back(volume, number, held)
        await checkpoint(volume, place)
    second, config = await recover(place, tmp_path / "second")
    async with running(config, second) as volume:
        await assert_all_come_back(volume, volume.namespace.lookup(1, b"f").number, held)


async def test_what_is_not_below_the_cut_stays(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        past = History(volume)
        with trio.fail_after(10):
            gone = await past.versions.trim(2**46, NOTHING_OLD)
        assert gone == 0
        await assert_all_come_back(volume, number, held)


async def test_what_an_entry_rests_on_that_is_not_below_the_cut_stays(tmp_path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        number, held = await with_versions(volume)
        await flush(volume)
        await write(volume, volume.namespace.by_number(number), 0, b"staged, not published")
        await volume.stage({number})
        held.append(await all_of(volume, number))
        past = History(volume)
        inode = volume.namespace.by_number(number).inode
        rested_on, newest = past.versions.of(inode)[-2:]
        assert await past.versions.trim(2**46, NOTHING_OLD) == len(held) - 2
        assert [one.when for one in past.versions.of(inode)] == [rested_on.when, newest.when]
        assert newest.content.bases == (rested_on.content.version,)


async def test_what_was_let_go_is_told_after_a_recovery_that_still_hears_of_it(tmp_path) -> None:
    place = await make_volume(tmp_path)
    mount = replace(place.config.mount, collect_after_seconds=0)
    async with running(replace(place.config, mount=mount), place.state) as volume:
        number, held = await with_versions(volume)
        await flush(volume)
        past = History(volume)
        now_ms = past.versions.of(volume.namespace.by_number(number).inode)[-1].time_ms
        await past.versions.trim(now_ms + 40 * DAY_MS, NOTHING_OLD)
        gone = await volume.control("gc", {})
        assert gone["deleted_objects"]
        await flush(volume)
    second, config = await recover(place, tmp_path / "second")  # from the whole journal
    async with running(config, second) as volume:
        told = (await volume.control("versions", {"path": "/f"}))["versions"]
        assert [one["current"] for one in told] == [True] + [False] * (len(held) - 1)
        assert not told[0]["gone"]
        assert sum(one["gone"] for one in told) >= 4
        for one in told[1:]:
            arguments = {"path": "/f", "version": one["version"], "to": "/old"}
            if one["gone"]:
                with pytest.raises(Damaged, match="not stored any more"):
                    await volume.control("restore", arguments)
        assert not {name for name, _, _ in volume.namespace.readdir(1, 2)} & {b"old"}
        assert await all_of(volume, volume.namespace.resolve(b"/f").number) == held[-1]
