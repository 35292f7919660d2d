"""Scrub: what is missing or damaged in the accounts is found and made again; nothing else is."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest
import trio

from aggfs.engine.care.mend import GAP_SEGMENTS, Mender
from aggfs.engine.volume import Volume
from aggfs.formats.fragment import Kind
from aggfs.formats.journal import NAMESPACE
from aggfs.stores.faulty import Fault, FaultKind
from aggfs.threads import in_slices
from tests.support.faults import DOWN, Ground, flushed, new_ground, until_full
from tests.support.keeping import ledger, lying, opened, stored

FILES = 4


def put_requests(volume: Volume) -> dict[str, int]:
    return {one.name: one.meter()["put"].requests for one in volume.parts.accounts}


async def filled(tmp_path: Path, k: int = 2, n: int = 3) -> Ground:
    ground = await new_ground(tmp_path, k, n)
    async with opened(ground) as volume:
        for number in range(FILES):
            await stored(ground, volume, b"file%d" % number)
    return ground


async def scrub(volume: Volume, **arguments: bool) -> Mapping:
    with trio.fail_after(3600):
        return await volume.control("scrub", arguments)


def one_fragment(ground: Ground, volume: Volume) -> tuple[str, str]:
    return min(ground.fragments(volume).values())


@pytest.mark.parametrize("full", [False, True])
async def test_a_healthy_volume_is_not_written_to(
    tmp_path: Path, autojump_clock: object, full: bool
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await until_full(volume)
        before, puts = ground.clouds.contents(), put_requests(volume)
        found = await scrub(volume, full=full, repair=True)
        assert (found["fault_count"], found["records"], found["left_out"]) == (0, {}, {})
        assert found["fragments"] == FILES * 3
        assert (found["repaired_fragments"], found["repaired_bytes"]) == (0, 0)
        assert put_requests(volume) == puts
        assert ground.clouds.contents() == before


def flipped(at: int) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        place = at % len(data)
        return data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :]

    return damage


DAMAGES = {
    "gone": (lambda data: None, "missing", False),
    "cut": (lambda data: data[:-1], "wrong size", False),
    "empty": (lambda data: b"", "wrong size", False),
    "grown": (lambda data: data + b"\0", "wrong size", False),
    "a bit of the header": (flipped(40), "damaged", True),
    "a bit of a cell": (flipped(1000), "damaged", True),
    "the last bit": (flipped(-1), "damaged", True),
    "other bytes": (lambda data: bytes(len(data)), "damaged", True),
}


@pytest.mark.parametrize(("damage", "what", "full"), DAMAGES.values(), ids=DAMAGES.keys())
async def test_each_damage_is_found_and_only_that_fragment_is_made_again(
    tmp_path: Path,
    autojump_clock: object,
    damage: Callable[[bytes], bytes | None],
    what: str,
    full: bool,
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await until_full(volume)
        account, key = one_fragment(ground, volume)
        before, puts = ground.clouds.contents(), put_requests(volume)
        objects = ground.clouds.objects[account]
        data = damage(before[account][key])
        objects.remove(key) if data is None else objects.write(key, data)
        found = await scrub(volume, full=full)
        assert [(one["account"], one["what"]) for one in found["faults"]] == [(account, what)]
        assert put_requests(volume) == puts  # it was only told
        found = await scrub(volume, full=full, repair=True)
        assert (found["fault_count"], found["repaired_fragments"]) == (1, 1)
        assert found["repaired_bytes"] == len(before[account][key])
        assert ground.clouds.contents() == before
        puts[account] += 1
        assert put_requests(volume) == puts
        assert (await scrub(volume, full=True))["fault_count"] == 0


async def test_a_wiped_account_is_rebuilt_with_its_journal(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await filled(tmp_path, 3, 5)
    async with opened(ground) as volume:
        await stored(ground, volume, b"one more")  # heads are known to be in place
        before = ground.clouds.contents()
        fragments = {at[1] for at in ground.fragments(volume).values() if at[0] == "a1"}
        for key in before["a1"]:
            ground.clouds.objects["a1"].remove(key)
        found = await scrub(volume, repair=True)
        assert found["repaired_fragments"] == found["fault_count"] == len(fragments) > 0
        assert found["records"]["a1"] == len(before["a1"]) - len(fragments)
        assert found["repaired_records"] == found["records"]["a1"]
        assert found["left_records"] == {}
        after = ground.clouds.contents()["a1"]
        assert {key: after[key] for key in fragments} == {
            key: before["a1"][key] for key in fragments
        }
        moved = sum(len(before["a1"][key]) for key in fragments)
        assert found["repaired_bytes"] >= moved
        assert ledger(volume) == lying(ground)
        assert (await scrub(volume, full=True))["records"] == {}
    # What was rebuilt is as good as what was lost: the volume comes back with it.
    with ground.clouds.failing(["a0", "a2"], DOWN):
        async with opened(ground) as volume:
            await ground.assert_reads_cold(volume)


@pytest.mark.parametrize(
    "fault", [DOWN, Fault(FaultKind.SERVER_ERROR, verbs=frozenset({"list_page"}))]
)
async def test_an_account_that_cannot_be_listed_is_left_out_and_nothing_is_noted(
    tmp_path: Path, autojump_clock: object, fault: Fault
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await until_full(volume)
        confirmed = [state.confirmed for state in volume.parts.blocks.stripes()]
        puts = put_requests(volume)
        with ground.clouds.failing(["a0"], fault):
            found = await scrub(volume, repair=True)
        assert list(found["left_out"]) == ["a0"]
        assert found["fault_count"] == 0
        assert [state.confirmed for state in volume.parts.blocks.stripes()] == confirmed
        assert put_requests(volume)["a1"] == puts["a1"]


async def test_reading_goes_on_where_it_was_stopped(tmp_path: Path, autojump_clock: object) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await until_full(volume)
        sids = [state.row.sid for state in volume.parts.blocks.stripes()]
        volume.parts.database.table("upkeep").put(b"pread all", sids[1])
    async with opened(ground) as volume:
        found = await scrub(volume, full=True)
        assert found["went_on"]
        assert found["read_bytes"] == sum(
            len(ground.read_object(*at))
            for (sid, _), at in ground.fragments(volume).items()
            if sid > sids[1]
        )
        found = await scrub(volume, full=True)
        assert not found["went_on"]


async def test_damage_is_found_and_repaired_by_itself_within_days(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await until_full(volume)
        account, key = one_fragment(ground, volume)
        good = ground.read_object(account, key)
        ground.clouds.objects[account].remove(key)
        due = (volume.parts.wall_ns() - 86_500 * 10**9).to_bytes(8)
        volume.parts.database.table("upkeep").put(b"dscrub", due)
        await trio.sleep(700)
        await until_full(volume)
        assert ground.read_object(account, key) == good


async def test_a_job_that_was_not_done_for_too_long_is_told(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        assert not any("scrub" in text for text in (await status(volume))["warnings"])
        old = (volume.parts.wall_ns() - 5 * 86_400 * 10**9).to_bytes(8)
        volume.parts.database.table("upkeep").put(b"dscrub", old)
        told = await status(volume)
        assert any("scrub was last done 120 h ago" in text for text in told["warnings"])
        assert told["upkeep"]["scrub"] > 400_000


async def status(volume: Volume) -> Mapping:
    return await volume.control("status", {})


async def test_a_damaged_object_of_journal_or_header_is_found_by_reading_and_made_again(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        await volume.control("checkpoint", {})
        await stored(ground, volume, b"one more")
        fragments = {at[1] for at in ground.fragments(volume).values() if at[0] == "a1"}
        before = ground.clouds.contents()["a1"]
        others = before.keys() - fragments
        for key in others:
            ground.clouds.objects["a1"].write(key, flipped(300)(before[key]))
        assert (await scrub(volume))["records"] == {}  # all sizes are right
        found = await scrub(volume, full=True)
        assert found["records"] == {"a1": len(others)}
        found = await scrub(volume, full=True, repair=True)
        assert (found["repaired_records"], found["left_records"]) == (len(others), {})
        await flushed(volume)
        assert (await scrub(volume, full=True))["records"] == {}
        after = ground.clouds.contents()["a1"]
        same = sum(after.get(key) == before[key] for key in others)
        assert same >= len(others) - 3  # head, header and checkpoint are new ones
        assert ledger(volume) == lying(ground)


async def test_a_lost_object_of_a_segment_is_made_again_when_all_others_tell_what_they_have(
    tmp_path: Path, autojump_clock: object
) -> None:
    """With one of them away, it might get the same fragment as that one."""
    ground = await filled(tmp_path, 3, 5)
    async with opened(ground) as volume:
        parts, before = volume.parts, ground.clouds.contents()
        keys, device = parts.keys, parts.checkpointer.device
        account = next(one for one in parts.accounts if one.name == "a4")
        key = keys.segment_name(1, device, NAMESPACE, 1, account.id)
        ground.clouds.objects["a4"].remove(key)
        with ground.clouds.failing(["a0"], DOWN):
            found = await scrub(volume, repair=True)
            assert found["left_records"] == {"a4": [key]}
            assert ground.read_object("a4", key) is None
        with trio.fail_after(300):
            while not all(one.healthy for one in parts.accounts):  # noqa: ASYNC110 - nobody tells
                await trio.sleep(5)
        found = await scrub(volume, repair=True)
        assert (found["repaired_records"], found["left_records"]) == (1, {})
        assert ground.read_object("a4", key) == before["a4"][key]


async def test_segments_are_known_behind_a_long_gap(tmp_path: Path, autojump_clock: object) -> None:
    """Accounts that left took the oldest ones with them."""
    ground = await filled(tmp_path)
    async with opened(ground) as volume:
        parts = volume.parts
        keys, ledger_of = parts.keys, parts.accounts.ledger
        state = parts.publisher.state
        tip = msgspec.structs.replace(state.namespace, sequence=GAP_SEGMENTS + 100)
        parts.publisher._put_state(msgspec.structs.replace(state, namespace=tip))
        first = next(iter(parts.accounts))
        for known in parts.accounts:
            for sequence in range(1, state.namespace.sequence + 1):
                device = parts.checkpointer.device
                name = keys.segment_name(1, device, NAMESPACE, sequence, known.id)
                ledger_of.drop_object(known.id, name)
        name = keys.segment_name(1, parts.checkpointer.device, NAMESPACE, tip.sequence, first.id)
        ledger_of.put_object(first.id, name, 1)
        groups = await in_slices(Mender(parts).groups_steps())
        assert (Kind.SEGMENT, [(first.id, name)]) in groups
        parts.publisher._put_state(state)
        ledger_of.drop_object(first.id, name)


@pytest.mark.parametrize("kind", [FaultKind.BITFLIP, FaultKind.TRUNCATE])
async def test_a_lost_object_of_a_segment_is_none_that_another_sent_damaged(
    tmp_path: Path, autojump_clock: object, kind: FaultKind
) -> None:
    """What came damaged may lie there whole: nobody else gets that fragment."""
    ground = await filled(tmp_path, 3, 5)
    async with opened(ground) as volume:
        parts, before = volume.parts, ground.clouds.contents()
        keys, device = parts.keys, parts.checkpointer.device
        for account in parts.accounts:
            key = keys.segment_name(1, device, NAMESPACE, 1, account.id)
            others = [one.name for one in parts.accounts if one is not account]
            for other in others:
                ground.clouds.objects[account.name].remove(key)
                with ground.clouds.failing([other], Fault(kind, verbs=frozenset({"get"}))):
                    await scrub(volume, repair=True)
                assert ground.read_object(account.name, key) in (None, before[account.name][key])
                await scrub(volume, repair=True)
                assert ground.read_object(account.name, key) == before[account.name][key]
