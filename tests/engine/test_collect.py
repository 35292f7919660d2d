"""What nothing refers to any more leaves the accounts, and nothing else does."""

from pathlib import Path

import msgspec
import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.errors import Busy
from aggfs.model import DropStripe, PutStripe, VersionRow
from aggfs.stores.faulty import Fault, FaultKind
from tests.support.faults import DOWN, flushed, new_ground, until_full
from tests.support.keeping import (
    GRACE_SECONDS,
    forget,
    fragment_keys,
    gc,
    ledger,
    lying,
    opened,
    stored,
)
from tests.support.stripes import content


async def test_what_nothing_refers_to_goes_and_the_ledger_says_so(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        await stored(ground, volume, b"kept")
        gone = fragment_keys(ground, volume, await stored(ground, volume, b"gone"))
        assert gone
        await forget(ground, volume, b"gone")
        found = await gc(volume)
        assert found["found_stripes"] == 1
        assert found["deleted_objects"] == len(gone) == 3
        assert not any(ground.read_object(*at) for at in gone)
        assert volume.parts.blocks.stripe_count == 1
        await until_full(volume)
        assert ledger(volume) == lying(ground)
        await ground.assert_reads_cold(volume)


async def test_what_a_version_an_open_file_or_an_unpublished_entry_names_stays(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        row = await stored(ground, volume, b"versions")
        await volume.files.truncate(row.number, 0)
        await volume.files.write(row.number, 0, content(300_000, 99))
        await flushed(volume)  # the first version is superseded, and kept
        await stored(ground, volume, b"open")
        await volume.files.opened(volume.namespace.lookup(1, b"open").number, truncate=False)
        volume.namespace.unlink(1, b"open")
        before = ground.clouds.contents()
        found = await gc(volume)
        assert found["found_stripes"] == 0
        for name, objects in before.items():
            missing = objects.keys() - ground.clouds.contents()[name].keys()
            assert not missing


async def test_objects_stay_until_the_intent_is_published_and_the_grace_is_over(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground, GRACE_SECONDS) as volume:
        gone = fragment_keys(ground, volume, await stored(ground, volume, b"gone"))
        await forget(ground, volume, b"gone")
        found = await gc(volume)
        assert (found["found_stripes"], found["waiting_stripes"]) == (1, 1)
        await trio.sleep(GRACE_SECONDS / 2)
        await gc(volume)
        assert all(ground.read_object(*at) for at in gone)
        assert volume.parts.blocks.stripe_count == 1
        await trio.sleep(GRACE_SECONDS)
        assert (await gc(volume))["deleted_objects"] == 3
        assert not any(ground.read_object(*at) for at in gone)


async def test_the_grace_counts_only_while_the_volume_is_open(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground, GRACE_SECONDS) as volume:
        await stored(ground, volume, b"gone")
        await forget(ground, volume, b"gone")
        await gc(volume)
    await trio.sleep(10 * GRACE_SECONDS)
    async with opened(ground, GRACE_SECONDS) as volume:
        assert (await gc(volume))["deleted_objects"] == 0
        await trio.sleep(GRACE_SECONDS)
        assert (await gc(volume))["deleted_objects"] == 3


async def test_an_intent_that_too_few_accounts_know_deletes_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        gone = fragment_keys(ground, volume, await stored(ground, volume, b"gone"))
        await forget(ground, volume, b"gone")
        with ground.clouds.failing(ground.names[:2], Fault(FaultKind.QUOTA)):
            with pytest.raises(Exception, match="accounts took"):
                await gc(volume)
            assert all(ground.read_object(*at) for at in gone)


async def test_an_account_that_is_away_keeps_its_part_in_the_ledger_until_it_is_back(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        gone = fragment_keys(ground, volume, await stored(ground, volume, b"gone"))
        await forget(ground, volume, b"gone")
        (away,) = [at for at in gone if at[0] == "a0"]
        with ground.clouds.failing(["a0"], DOWN):
            found = await gc(volume)
            assert (found["deleted_objects"], found["deleting_objects"]) == (2, 1)
            assert ledger(volume)["a1"] == lying(ground)["a1"]
            assert ground.read_object(*away) is not None
        status = await volume.control("status", {})
        assert status["collection"]["deleting_objects"] == 1
        await trio.sleep(120)  # it is noticed that it is back, and the rest goes by itself
        assert ground.read_object(*away) is None
        await until_full(volume)
        assert ledger(volume) == lying(ground)


async def test_a_writer_that_has_not_named_its_stripes_yet_loses_none(
    tmp_path: Path, autojump_clock: object
) -> None:
    """A stripe of a file lies in all its accounts, and its file is not captured yet: nothing
    refers to it, and it is no garbage."""
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        row = await stored(ground, volume, b"file")
        (sid,) = volume.sids_of(row)
        with volume.parts.writers.work():
            forgotten = volume.parts.blocks.extents(row.inode, 0, 100)
            versions = volume.parts.tree.versions(row.inode)
            volume.parts.blocks.clear(row.inode, 0, 100)
            for version, known in versions:
                unnamed = without_extents(known)
                volume.parts.tree.put_version(row.inode, version, unnamed)
            with pytest.raises(Busy):
                await gc(volume)
            volume.parts.blocks.lay(row.inode, forgotten)  # what a writer does at last
            for version, known in versions:
                volume.parts.tree.put_version(row.inode, version, known)
        assert (await gc(volume))["found_stripes"] == 0
        assert volume.parts.blocks.stripe(sid) is not None
        await ground.assert_reads_cold(volume)


def without_extents(row: VersionRow) -> VersionRow:
    return msgspec.structs.replace(row, content=msgspec.structs.replace(row.content, extents=()))


async def test_a_reference_that_comes_in_the_grace_takes_the_intent_back(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground, GRACE_SECONDS) as volume:
        row = await stored(ground, volume, b"gone")
        extents = volume.parts.blocks.extents(row.inode, 0, 100)
        await forget(ground, volume, b"gone")
        assert (await gc(volume))["waiting_stripes"] == 1
        key = b"s" + extents[0].sid
        assert isinstance(volume.parts.tree.control(key).entry, DropStripe)
        other = await ground.write_file(volume, b"other")
        volume.parts.blocks.lay(other.inode, extents)
        found = await gc(volume)
        assert (found["revived_stripes"], found["waiting_stripes"]) == (1, 0)
        assert isinstance(volume.parts.tree.control(key).entry, PutStripe)
        volume.parts.blocks.clear(other.inode, 0, 100)


@pytest.mark.parametrize("seconds", [0, 5, 15, 25, 35, 45])
async def test_a_collection_that_is_cut_short_anywhere_is_finished_by_the_next(
    tmp_path: Path, autojump_clock: object, seconds: float
) -> None:
    """Each delete takes a while, and the volume is closed in the middle of it all."""
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        for number in range(9):
            await stored(ground, volume, b"gone%d" % number)
        kept = fragment_keys(ground, volume, await stored(ground, volume, b"kept"))
        for number in range(9):
            await forget(ground, volume, b"gone%d" % number)
        slow = Fault(FaultKind.SLOW, verbs=frozenset({"delete"}), seconds=10)
        with ground.clouds.failing(ground.names, slow), trio.move_on_after(seconds) as scope:
            await gc(volume)
        assert scope.cancelled_caught
    async with opened(ground) as volume:
        await gc(volume)
        await until_full(volume)
        assert volume.parts.blocks.stripe_count == 1
        assert all(ground.read_object(*at) for at in kept)
        assert ledger(volume) == lying(ground)
        await ground.assert_reads_cold(volume)


async def test_a_flush_in_the_middle_of_a_file_loses_none_of_its_stripes(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The first stripes of a large file are in all their accounts, the others wait for their
    turn: no version names any of them yet."""
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground) as volume:
        data = content(80 << 20, 5)
        row = volume.namespace.create(1, b"large", 0o100640, 0, 0)
        await volume.files.opened(row.number, truncate=False)
        await volume.files.write(row.number, 0, data)
        await volume.files.released(row.number)
        slow = Fault(FaultKind.SLOW, verbs=frozenset({"put"}), seconds=4)
        with ground.clouds.failing(ground.names, slow):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.flush, None)
                with trio.fail_after(60):
                    while not full_stripes(volume):  # noqa: ASYNC110 - as a user's status looks
                        await trio.sleep(0.1)
                early = full_stripes(volume)
                assert not volume.namespace.by_number(row.number).heads  # nothing names them
                assert (await gc(volume))["found_stripes"] == 0
        assert early <= full_stripes(volume)
        await volume.control("evict", {})
        assert bytes(await volume.files.read(row.number, 0, len(data))) == data


def full_stripes(volume: Volume) -> set[bytes]:
    return {state.row.sid for state in volume.parts.blocks.stripes() if state.full}
