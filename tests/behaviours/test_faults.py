"""Accounts that fail under a real mount, behind real S3 servers."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.cli import exits
from tests.support.faultproxy import FaultProxy, ProxyFault
from tests.support.mounting import needs_fuse
from tests.support.places import BucketPlace, Place, ProxiedPlace
from tests.support.samples import noise, tree_of, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse
READ_SECONDS = 30.0
FAULTS = [ProxyFault.DOWN, ProxyFault.CORRUPT, ProxyFault.SERVER_ERROR]  # hanging: test_frg


@contextlib.contextmanager
def proxied(stage: Stage, count: int, **settings: int) -> Iterator[list[ProxiedPlace]]:
    """S3 accounts, each behind a proxy of its own."""
    with contextlib.ExitStack() as stack:
        yield [
            ProxiedPlace(stack.enter_context(FaultProxy(place.server.endpoint)), place)
            for place in stage.buckets(count, **settings)
        ]


@shows("FRG-4")
def test_faults_of_real_providers_stop_nothing_until_there_are_too_many(stage: Stage):
    """One of three down, corrupt or answering 500: all goes on; two: EIO in time."""
    with proxied(stage, 2) as behind:
        volume = stage.volume([*behind, *stage.directories(1)])
        for text in ("account", "fragment", "head", "stripe"):
            volume.expect_log(text)
        kept = write_noise(volume.folder / "cached", MIB, "cached")
        volume.flush()
        for fault in FAULTS:
            path = volume.folder / f"during-{fault.name}"
            with behind[0].proxy.failing(fault):
                _read_cold(volume, "cached", kept)
                data = write_noise(path, MIB, fault.name)
                volume.flush()
            volume.wait_until_quiet()
            volume.evict()
            assert (volume.folder / "cached").read_bytes() == kept
            with behind[0].proxy.failing(fault), behind[1].proxy.failing(fault):
                seconds = _assert_unreadable(path)
                assert (volume.folder / "cached").read_bytes() == kept
            stage.tell(f"{fault.value}: one stops nothing; two: EIO after {seconds:.1f} s")
            assert path.read_bytes() == data
            volume.wait_until_quiet()


def _read_cold(volume: LiveVolume, name: str, data: bytes) -> None:
    volume.evict()
    began = time.monotonic()
    assert (volume.folder / name).read_bytes() == data
    assert time.monotonic() - began < READ_SECONDS


def _assert_unreadable(path: Path) -> float:
    began = time.monotonic()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        path.read_bytes()
    seconds = time.monotonic() - began
    assert seconds < READ_SECONDS
    return seconds


@shows("FRG-4")
def test_a_mount_whose_accounts_all_hang_can_be_ended(stage: Stage):
    """A reader waits, umount --now ends it; the next mount, still hanging, answers."""
    with proxied(stage, 2) as behind:
        volume = stage.volume([*behind, *stage.directories(1)])
        volume.expect_log("account")
        volume.expect_log("durable")
        data = write_noise(volume.folder / "file", MIB)
        volume.flush()
        volume.wait_until_quiet()
        with behind[0].proxy.failing(ProxyFault.HANG), behind[1].proxy.failing(ProxyFault.HANG):
            write_noise(volume.folder / "written meanwhile", MIB, 2)
            began = time.monotonic()
            volume.umount("--now")
            stage.tell(f"unmounted after {time.monotonic() - began:.1f} s while accounts hang")
            began = time.monotonic()
            volume.mount()
            assert sorted(os.listdir(volume.folder)) == ["file", "written meanwhile"]
            stage.tell(f"mounted again after {time.monotonic() - began:.1f} s, still hanging")
            volume.kill()
            volume.mount()
        assert (volume.folder / "file").read_bytes() == data
        assert (volume.folder / "written meanwhile").read_bytes() == noise(MIB, 2)
        volume.wait_until_quiet()


@shows("FRG-6")
def test_a_provider_that_goes_back_in_time_is_noticed_out_voted_and_brought_up_to_date(
    stage: Stage,
):
    """All of an account is as it was before the last writes: read round it, told, made whole."""
    volume = stage.volume()
    for text in ("fragment", "gone back in time"):
        volume.expect_log(text)
    victim = volume.places[0]
    expected = {"first": write_noise(volume.folder / "first", 2 * MIB, 1)}
    volume.flush()
    volume.wait_until_quiet()
    backup = {key: victim.read(key) for key in victim.sizes()}
    for name in ("second", "third"):
        expected[name] = write_noise(volume.folder / name, 4 * MIB, name)
    os.unlink(volume.folder / "first")
    del expected["first"]
    volume.flush()
    volume.wait_until_quiet()
    latest = victim.sizes()
    for key in latest:
        victim.delete(key)
    for key, data in backup.items():
        victim.write(key, data)
    volume.evict()
    assert tree_of(volume.folder) == expected
    recovered = stage.recovered(volume, "recovered")
    assert tree_of(recovered.folder) == expected
    recovered.umount("--now")
    stage.tell("rolled back: every file reads right, and a recovery finds the newest state")
    found = volume.home.aggfs("scrub", volume.name, code=exits.FAILED).out
    stage.tell(next(line for line in found.splitlines() if victim.name in line))
    told = f"account {victim.name} has gone back in time"
    assert told not in volume.aggfs("status", volume.name)
    volume.ask("look")  # as the daemon does at every mount, and now and then
    volume.wait_until(lambda now: any("put again" in one for one in now["warnings"]), "it is told")
    shown = volume.aggfs("status", volume.name).splitlines()
    stage.tell(next(line.strip() for line in shown if told in line))
    volume.wait_until_quiet()
    assert volume.log().count(told) == 1
    fragments = {
        fragment["key"]
        for name in expected
        for run in volume.explained("where", volume.folder / name)["blocks"]
        for fragment in run["fragments"]
        if fragment["account"] == victim.name
    }
    stage.tell(f"by itself: its {len(fragments)} fragments of these files are there again")
    assert fragments
    assert {key: victim.sizes()[key] for key in fragments} == {k: latest[k] for k in fragments}


@shows("AGG-12")
def test_a_bucket_that_was_deleted_is_told_and_stops_nothing(stage: Stage):
    """It is gone: status says so, reads and writes go on; made again, it is filled again."""
    (other,) = stage.buckets(1)
    gone = BucketPlace(
        other.server, f"gone-{stage.path.name}"[:60].rstrip("-").lower(), "p", "gone"
    )
    gone.bucket = "".join(c if c.isalnum() else "-" for c in gone.bucket)
    gone.server.create_bucket(gone.bucket)
    volume = stage.volume([gone, *stage.directories(2)])
    volume.expect_log("account gone")
    data = write_noise(volume.folder / "before", 3 * MIB, 1)
    volume.flush()
    volume.wait_until_quiet()
    _delete_bucket(gone)
    write_noise(volume.folder / "after", 3 * MIB, 2)
    volume.flush()
    volume.evict()
    assert (volume.folder / "before").read_bytes() == data
    volume.wait_until(lambda now: "bucket" in _error_of(now, "gone"), "status tells of the bucket")
    status = volume.status()
    stage.tell(
        f"status: {_error_of(status, 'gone')}; {status['under_replicated']} stripes lack one"
    )
    assert status["under_replicated"]
    volume.umount("--now")
    volume.mount()
    assert (volume.folder / "after").read_bytes() == noise(3 * MIB, 2)
    gone.server.create_bucket(gone.bucket)
    volume.wait_until(lambda now: not _error_of(now, "gone"), "it answers again")
    volume.aggfs("scrub", volume.name, "--repair")
    volume.wait_until_quiet()
    stage.tell(f"made again and scrubbed: {len(gone.sizes())} objects lie there, all is full")
    assert volume.status()["under_replicated"] == 0


def _delete_bucket(place: BucketPlace) -> None:
    with contextlib.closing(place.server.client()) as client:
        for key in place.sizes():
            client.delete_object(Bucket=place.bucket, Key=f"{place.prefix}/{key}")
        client.delete_bucket(Bucket=place.bucket)


def _error_of(status: dict, name: str) -> str:
    return next(one["error"] for one in status["accounts"] if one["name"] == name)


@shows("AGG-13")
def test_a_wrong_quota_corrects_itself_at_the_first_refusal(stage: Stage):
    """Declared 10 GiB, in truth 6 MiB: what is refused goes elsewhere, and df shrinks."""
    with proxied(stage, 1, quota=10 << 30) as (wrong,):
        places: list[Place] = [wrong, *stage.directories(3, quota=10 << 30)]
        volume = stage.volume(places, k=2, n=3)
        volume.expect_log("account")
        declared = volume.status()
        wrong.proxy.quota_bytes = 6 * MIB
        with wrong.proxy.failing(ProxyFault.QUOTA):
            for number in range(12):
                write_noise(volume.folder / f"f{number}", 2 * MIB, number)
                volume.flush()
            volume.wait_until(lambda _: _has_all_fragments(volume, "f11"), "it is all elsewhere")
            after = volume.status()
            account = next(one for one in after["accounts"] if one["name"] == wrong.name)
            sizes = declared["total_bytes"] >> 20, after["total_bytes"] >> 20
            text = volume.aggfs("status", volume.name)
            stage.tell(next(line for line in text.splitlines() if line.startswith(wrong.name)))
            assert "FULL" in text
            stage.tell(f"declared 10 GiB each; df total {sizes[0]} MiB before, {sizes[1]} after")
            assert account["full"]
            assert account["capacity_bytes"] < 100 * MIB
            assert after["total_bytes"] < declared["total_bytes"]
            volume.evict()
            expected = {f"f{number}": noise(2 * MIB, number) for number in range(12)}
            assert tree_of(volume.folder) == expected


def _has_all_fragments(volume: LiveVolume, name: str) -> bool:
    runs = volume.explained("where", volume.folder / name)["blocks"]
    return all(fragment["account"] for run in runs for fragment in run["fragments"])


@shows("offline")
def test_a_mount_without_any_account_serves_what_is_here_and_catches_up(stage: Stage):
    """No account answers, a credential is not set: mounts, reads what is here, takes writes."""
    places: list[Place] = [*stage.buckets(1), *stage.directories(2)]
    volume = stage.volume(places)
    for text in ("account", "must wait", "stripe waits"):
        volume.expect_log(text)
    cached = write_noise(volume.folder / "cached", 2 * MIB, 1)
    (volume.folder / "pinned").mkdir()
    pinned = write_noise(volume.folder / "pinned" / "file", 2 * MIB, 2)
    volume.aggfs("pin", volume.folder / "pinned")
    write_noise(volume.folder / "cold", 2 * MIB, 3)
    volume.flush()
    volume.wait_until_quiet()
    volume.aggfs("evict", volume.folder / "cold")
    volume.umount()
    for place in places:
        place.fail()
    secrets = dict(volume.home.variables)
    volume.home.variables.clear()
    try:
        _work_offline(stage, volume, {"cached": cached, "pinned/file": pinned})
    finally:
        volume.home.variables.update(secrets)
        for place in places:
            place.heal()
    volume.mount()
    volume.wait_until_quiet()
    stage.tell("accounts are back: everything is in them by itself")
    volume.evict()
    assert (volume.folder / "offline").read_bytes() == noise(2 * MIB, 4)
    assert (volume.folder / "renamed").read_bytes() == cached


def _work_offline(stage: Stage, volume: LiveVolume, here: dict[str, bytes]) -> None:
    began = time.monotonic()
    volume.mount()
    stage.tell(f"mounted after {time.monotonic() - began:.1f} s with no account at all")
    for name, data in here.items():
        assert (volume.folder / name).read_bytes() == data
    seconds = _assert_unreadable(volume.folder / "cold")
    stage.tell(f"cached and pinned files read; what is not here: EIO after {seconds:.1f} s")
    write_noise(volume.folder / "offline", 2 * MIB, 4)
    os.rename(volume.folder / "cached", volume.folder / "renamed")
    volume.wait_until(lambda now: now["staged_bytes"] > 0, "the write is staged")
    errors = [one["error"] for one in volume.status()["accounts"]]
    stage.tell(f"written and renamed meanwhile; status: {errors}")
    assert all(errors)
    assert any("is not set" in error for error in errors)
    volume.umount("--now")
