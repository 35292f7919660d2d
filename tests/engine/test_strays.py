"""Objects that no row names: ours go, after the grace; nobody else's is ever touched."""

from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from aggfs.stores.faulty import Fault, FaultKind
from tests.support.faults import DOWN, Ground, new_ground, until_full
from tests.support.keeping import GRACE_SECONDS, forget, gc, ledger, lying, opened, stored

HALF = "f" * 2 + "/" + "0" * 38


async def with_a_stray(ground: Ground, volume: Volume, name: bytes) -> tuple[str, str, bytes]:
    """A file is collected, and then a put of it that was long given up arrives."""
    row = await stored(ground, volume, name)
    fragments = ground.fragments(volume)
    sids = set(volume.sids_of(row))
    account, key = next(at for (sid, _), at in sorted(fragments.items()) if sid in sids)
    data = ground.read_object(account, key)
    await forget(ground, volume, name)
    await gc(volume)
    await trio.sleep(GRACE_SECONDS)
    await gc(volume)
    assert ground.read_object(account, key) is None
    ground.clouds.objects[account].write(key, data)
    return account, key, data


async def test_what_arrives_after_its_stripe_is_gone_goes_too_after_the_grace(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground, GRACE_SECONDS) as volume:
        await stored(ground, volume, b"kept")
        account, key, data = await with_a_stray(ground, volume, b"gone")
        found = await gc(volume, dry_run=True)
        (told,) = [one for one in found["accounts"] if one["name"] == account]
        assert (told["strays"], told["stray_bytes"], told["deleted"]) == (1, len(data), 0)
        await gc(volume)
        assert ground.read_object(account, key) is not None  # seen once
    async with opened(ground, GRACE_SECONDS) as volume:
        await trio.sleep(GRACE_SECONDS)
        await gc(volume)
        assert ground.read_object(account, key) is None
        await until_full(volume)
        assert ledger(volume) == lying(ground)
        await ground.assert_reads_cold(volume)


async def test_what_does_not_prove_itself_ours_is_left_alone(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Other people's objects under names like ours, another volume's, a copy of one of ours under
    another name."""
    ground = await new_ground(tmp_path / "one", 2, 3)
    other = await new_ground(tmp_path / "other", 2, 3)
    async with opened(other) as volume:
        await stored(other, volume, b"theirs")
    objects = ground.clouds.objects["a0"]
    async with opened(ground) as volume:
        row = await stored(ground, volume, b"file")
        (sid,) = volume.sids_of(row)
        account, key = ground.fragments(volume)[sid, 0]
        foreign = {
            HALF: ground.read_object(account, key),
            "ab/" + "1" * 38: b"",
            "cd/" + "2" * 38: bytes(5000),
            "holiday/picture.jpg": b"picture",
            **other.clouds.contents()["a0"],
        }
        for name, data in foreign.items():
            objects.write(name, data)
        for _ in range(3):
            found = await gc(volume)
        assert all(one["strays"] == 0 for one in found["accounts"])
        assert {name: objects.read(name) for name in foreign} == foreign


async def test_an_account_that_cannot_be_listed_completely_proves_nothing(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with opened(ground, GRACE_SECONDS) as volume:
        account, key, _ = await with_a_stray(ground, volume, b"gone")
        await gc(volume)
        await trio.sleep(GRACE_SECONDS)
        for fault in (DOWN, Fault(FaultKind.SERVER_ERROR, verbs=frozenset({"list_page"}))):
            with ground.clouds.failing([account], fault):
                found = await gc(volume)
                (told,) = [one for one in found["accounts"] if one["name"] == account]
                assert told["failure"]
                assert told["deleted"] == 0
                assert ground.read_object(account, key) is not None
            await trio.sleep(60)
        await gc(volume)
        assert ground.read_object(account, key) is None
