"""AGG: several accounts appear as one storage space."""

import errno
import os
import subprocess
from pathlib import Path

from aggfs.cli import exits
from aggfs.placement.accounts import reserve_bytes
from tests.support.mounting import needs_fuse
from tests.support.places import Place
from tests.support.samples import noise, tree_of, write_noise
from tests.support.servers import READER
from tests.support.stage import BUCKET, MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse


@shows("AGG-1")
def test_accounts_on_several_servers_are_one_folder_and_df_tells_what_fits(stage: Stage):
    """Two S3 servers and two directories; df is the formula's T, not the raw sum."""
    quotas = [300 * MIB, 200 * MIB, 100 * MIB, 100 * MIB]
    places: list[Place] = [*stage.buckets(2), *stage.directories(2)]
    for place, quota in zip(places, quotas, strict=True):
        place.quota = quota
    volume = stage.volume(places, k=2, n=3)
    room = [quota - reserve_bytes(quota) for quota in quotas]
    expected = _largest(room, k=2, n=3, q=1)
    total, used_before = _df(volume.folder)
    stage.tell(f"quotas {sum(quotas) // MIB} MiB raw; df {total} bytes; by the formula {expected}")
    assert abs(total - expected) <= 4096 * 4
    assert total < sum(quotas) * 2 // 3
    data = write_noise(volume.folder / "file", 10 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    volume.wait_until(lambda now: now["used_bytes"] >= 10 * MIB, "df counts the file")
    _, used = _df(volume.folder)
    status = volume.status()
    stage.tell(
        f"10 MiB written: df used grew by {(used - used_before) / MIB:.2f} MiB,"
        f" stored in the accounts {status['stored_bytes'] / MIB:.2f} MiB"
    )
    assert 10 * MIB <= used - used_before < 10.5 * MIB
    assert 15 * MIB <= status["stored_bytes"] < 16 * MIB
    volume.evict()
    assert (volume.folder / "file").read_bytes() == data
    assert all(place.sizes() for place in places)


def _largest(room: list[int], *, k: int, n: int, q: int) -> int:
    """The largest T with sum of min(c, q*T/k) >= n*T/k, by halving."""
    low, high = 0, sum(room)
    while low < high:
        middle = (low + high + 1) // 2
        if k * sum(min(c, q * middle / k) for c in room) >= n * middle:
            low = middle
        else:
            high = middle - 1
    return low


def _df(folder: Path) -> tuple[int, int]:
    """Total and used bytes, as df shows them."""
    done = subprocess.run(
        ["df", "--block-size=1", "--output=size,used", folder],
        capture_output=True,
        check=True,
        timeout=60,
    )
    total, used = done.stdout.split()[-2:]
    return int(total), int(used)


@shows("AGG-2")
def test_a_file_larger_than_any_account_is_stored(stage: Stage):
    """40 MiB over five accounts of 24 MiB."""
    places = stage.directories(5, quota=24 * MIB)
    volume = stage.volume(places, k=3, n=5)
    data = write_noise(volume.folder / "large", 40 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    assert (volume.folder / "large").read_bytes() == data
    used = [sum(place.sizes().values()) for place in places]
    stage.tell(f"a file of {len(data)} bytes; the accounts hold {used}, quota {24 * MIB} each")
    assert len(data) > 24 * MIB >= max(used)


@shows("AGG-3")
def test_what_lies_in_each_account_is_what_the_ledger_says(stage: Stage):
    """To the byte, after edits, deletes, an outage, a kill and a remount; `where` lists it."""
    volume = stage.volume([*stage.buckets(1), *stage.directories(2)], k=2, n=3)
    for number in range(40):
        write_noise(volume.folder / f"f{number}", 20_000 * number, number)
    volume.flush()
    with (volume.folder / "f39").open("r+b") as file:
        file.seek(300_000)
        file.write(b"an edit")
    os.unlink(volume.folder / "f38")
    victim = volume.places[0]
    victim.fail()
    try:
        write_noise(volume.folder / "during", 3 * MIB)
        volume.flush()
    finally:
        victim.heal()
    volume.wait_until_quiet()
    _compare_with_ledger(stage, volume, "after edits and an outage")
    write_noise(volume.folder / "killed", 5 * MIB)
    os.sync()
    volume.kill()
    volume.mount()
    volume.flush()
    volume.wait_until_quiet()
    _compare_with_ledger(stage, volume, "after a kill and a remount")
    _compare_with_where(stage, volume)


def _compare_with_ledger(stage: Stage, volume: LiveVolume, when: str) -> None:
    ledger = {a["name"]: a["used_bytes"] for a in volume.status()["accounts"]}
    listed = {place.name: sum(place.sizes().values()) for place in volume.places}
    stage.tell(f"{when}: listed {listed}")
    assert listed == ledger


def _compare_with_where(stage: Stage, volume: LiveVolume) -> None:
    sizes = {place.name: place.sizes() for place in volume.places}
    named = set()
    for path in volume.folder.iterdir():
        for run in volume.explained("where", path)["blocks"]:
            assert len({f["account"] for f in run["fragments"]}) == 3
            named |= {(f["account"], f["key"]) for f in run["fragments"]}
    assert all(key in sizes[account] for account, key in named)
    stage.tell(f"where names {len(named)} fragments of the files: each lies where it says")


@shows("AGG-7")
def test_a_full_account_is_passed_over_and_when_all_are_full_writers_are_told(stage: Stage):
    """One small quota is passed over; all full is ENOSPC at write; what was accepted is there."""
    places = [*stage.directories(1, quota=8 * MIB), *stage.directories(3, quota=40 * MIB)]
    volume = stage.volume(places, k=2, n=3, seconds=30)
    volume.expect_log("no room")
    volume.expect_log("waits in staging")
    accepted = {}
    for number in range(40):
        name, data = f"f{number}", noise(2 * MIB, number)
        code = _write_whole(volume.folder / name, data)
        if code:
            stage.tell(f"file {number}: {os.strerror(code)}")
            break
        accepted[name] = data
        volume.flush()
    assert code == errno.ENOSPC
    used = {place.name: sum(place.sizes().values()) for place in places}
    stage.tell(f"{len(accepted)} files of 2 MiB were accepted; accounts hold {used}")
    assert 20 <= len(accepted) < 40
    assert all(used[place.name] <= place.quota for place in places)
    (volume.folder / f"f{len(accepted)}").unlink(missing_ok=True)
    volume.wait_until_quiet()
    volume.evict()
    assert tree_of(volume.folder) == accepted
    os.rename(volume.folder / "f0", volume.folder / "renamed")
    os.unlink(volume.folder / "f1")
    assert (volume.folder / "renamed").read_bytes() == accepted["f0"]
    volume.flush()
    stage.tell("when full: reads, a rename and a delete go on; all accepted files read cold")


def _write_whole(path: Path, data: bytes) -> int:
    """Write and sync a new file; the errno, 0 if it was accepted."""
    try:
        with path.open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or errno.EIO
    return 0


@shows("AGG-9")
def test_listing_a_warm_tree_asks_no_account(stage: Stage):
    """ls -lR, find and stat of 500 files: no request at all."""
    volume = stage.volume()
    for number in range(500):
        directory = volume.folder / f"d{number % 10}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_bytes(noise(3000, number))
    volume.flush()
    volume.wait_until_quiet()
    before = volume.asked()
    for command in (["ls", "-lR"], ["find"], ["du", "-s"]):
        subprocess.run([*command, volume.folder], stdout=subprocess.DEVNULL, check=True, timeout=60)
    for path in volume.folder.rglob("*"):
        path.stat()
    after = volume.asked()
    stage.tell(f"requests before {before}, after ls -lR, find, du and stat: {after}")
    assert after == before


@shows("AGG-10")
def test_what_is_foreign_in_an_account_stays_and_counts(stage: Stage):
    """Objects that were there before: untouched, never shown, counted as used space."""
    places = [*stage.buckets(2, quota=100 * MIB), *stage.directories(1, quota=100 * MIB)]
    foreign = {"holiday.jpg": noise(10 * MIB, 1), "ab/" + "0" * 38: noise(500, 2)}
    for place in places:
        for key, data in foreign.items():
            place.write(key, data)
    volume = stage.volume(places)
    assert tree_of(volume.folder) == {}
    total, _ = _df(volume.folder)
    volume.wait_until(_counts_foreign, "what is foreign is counted")
    counted = [account["foreign_bytes"] for account in volume.status()["accounts"]]
    stage.tell(f"{10 * MIB + 500} foreign bytes in each account; counted: {counted}")
    assert counted == [10 * MIB + 500] * 3
    data = write_noise(volume.folder / "mine", 5 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    os.unlink(volume.folder / "mine")
    write_noise(volume.folder / "mine", 5 * MIB)
    volume.flush()
    volume.umount()
    volume.mount()
    assert (volume.folder / "mine").read_bytes() == data
    assert volume.audit()["complete"] == []
    for place in places:
        assert {key: place.read(key) for key in foreign} == foreign
    free = volume.status()["free_bytes"]
    stage.tell(f"df: total {total}, free now {free}: room for less than 3 x 90 MiB x 2/3")
    assert free < (100 - 10) * 2 * MIB


def _counts_foreign(status: dict) -> bool:
    return all(account.get("foreign_bytes") for account in status["accounts"])


@shows("AGG-11")
def test_an_account_that_cannot_be_used_is_refused_and_nothing_is_left(stage: Stage):
    """Bad key, missing bucket, read-only key, the same bucket twice: one line, and no trace."""
    places = [*stage.buckets(1), *stage.directories(2)]
    volume = stage.volume(places)
    bucket = places[0]
    volume.wait_until_quiet()
    before = [place.sizes() for place in places]
    volume.home.variables.update(
        WRONG="no such secret", READER=READER.access, READER_SECRET=READER.secret
    )
    spec = bucket.spec().partition("=")[2].replace(f"provider={bucket.provider}", "provider=new")
    elsewhere = spec.replace(bucket.prefix, f"{stage.path.name}/elsewhere")
    secret = "secret_key_env=AGGFS_SUPPORT_SECRET"
    access = "access_key_env=AGGFS_SUPPORT_ACCESS"
    bad = {
        "a bad key": elsewhere.replace(secret, "secret_key_env=WRONG"),
        "a read-only key": elsewhere.replace(access, "access_key_env=READER").replace(
            secret, "secret_key_env=READER_SECRET"
        ),
        "a missing bucket": elsewhere.replace(f"s3://{BUCKET}/", "s3://missing-bucket/"),
        "the same bucket under another name": spec,
        "the same bucket by another endpoint": spec.replace("127.0.0.1", "localhost"),
        "the same directory": str(places[1].path) + "?provider=other",
    }
    for what, text in bad.items():
        done = volume.home.aggfs("account", "add", f"new={text}", code=None)
        stage.tell(f"{what}: exit {done.code}: {done.err.strip()}")
        assert done.code in (exits.REFUSED, exits.BAD_CONFIG)
        assert done.err.count("\n") == 1
    volume.wait_until_quiet()
    assert [place.sizes() for place in places] == before
    assert len(volume.status()["accounts"]) == 3
    assert bucket.listing_under(f"{stage.path.name}/elsewhere") == []
