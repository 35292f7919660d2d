"""AGG: accounts that come and go, and levels that even out."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aggfs.cli import exits
from aggfs.engine.arrivals import LATE_SECONDS
from aggfs.engine.moves.movement import SETTLE_SECONDS
from tests.support.mounting import needs_fuse
from tests.support.places import DirectoryPlace, Place
from tests.support.samples import tree_of, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse


def levels(volume: LiveVolume) -> dict[str, float]:
    """How full each account is, in percent."""
    return {one["name"]: round(100 * one["level"], 1) for one in volume.status()["accounts"]}


def fragments_by_account(volume: LiveVolume, path: Path) -> dict[str, int]:
    """How many fragments of a file each account has."""
    found: dict[str, int] = {}
    for run in volume.explained("where", path)["blocks"]:
        for fragment in run["fragments"]:
            found[fragment["account"]] = found.get(fragment["account"], 0) + 1
    return found


def listed_sizes(place: Place) -> Iterator[int]:
    """What a listing shows: not what a killed writer left of a file that never got its name."""
    return (size for key, size in place.sizes().items() if not key.endswith(".part"))


def assert_ledger_is_exact(stage: Stage, volume: LiveVolume) -> None:
    """No fragment lost, no orphan: what lies there is what the ledger says, to the byte. What a
    killed daemon had begun to put counts until it cannot arrive any more."""
    volume.flush()
    volume.wait_until_quiet()
    began = time.monotonic()
    while True:
        known = {one["name"]: one["used_bytes"] for one in volume.status()["accounts"]}
        listed = {place.name: sum(listed_sizes(place)) for place in volume.places}
        exact = {name: listed[name] for name in known} == known
        if exact or time.monotonic() - began >= LATE_SECONDS + SETTLE_SECONDS + 30:
            break
        time.sleep(1)
    stage.tell(f"ledger {known}; listed {listed}")
    assert exact


@shows("AGG-4")
def test_accounts_of_unequal_size_are_filled_to_equal_percentages(stage: Stage):
    """Quotas of 1:1:2:2:5:5, 2-of-3, filled to 60 %: levels within 5 points; who cannot be filled
    is named."""
    quotas = (32, 32, 64, 64, 160, 160)
    volume = stage.volume([one for quota in quotas for one in one_directory(stage, quota)])
    files = int(0.6 * volume.status()["total_bytes"]) // MIB
    for number in range(files):  # each a stripe of its own: a small account takes small steps
        write_noise(volume.folder / f"f{number}", MIB, number)
        volume.ask("flush")
    found = levels(volume)
    stage.tell(f"{files} files of 1 MiB; levels in percent: {found}")
    assert max(found.values()) - min(found.values()) <= 5
    uneven = stage.buckets(3)
    for place, quota in zip(uneven, (16, 16, 200), strict=True):
        place.quota = quota * MIB
    warnings = stage.volume(uneven).status()["warnings"]
    named = [text for text in warnings if "cannot be filled" in text]
    stage.tell(f"quotas of 16:16:200: {named}")
    assert [uneven[2].name in text for text in named] == [True]


def one_directory(stage: Stage, quota_mib: int) -> list[DirectoryPlace]:
    return stage.directories(1, quota=quota_mib * MIB)


@contextmanager
def a_reader(volume: LiveVolume, data: dict[str, bytes]) -> Iterator[list[str]]:
    """Someone who reads all files again and again, cold each time; what he found wrong."""
    wrong: list[str] = []
    rounds = [0]
    enough = threading.Event()

    def read() -> None:
        while not enough.is_set():
            try:
                volume.evict()
                wrong.extend(
                    name for name in data if (volume.folder / name).read_bytes() != data[name]
                )
            except OSError as error:
                wrong.append(os.strerror(error.errno or 0))
                return
            rounds[0] += 1

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield wrong
    finally:
        enough.set()
        thread.join()
    assert rounds[0] > 0


@shows("AGG-5")
def test_an_account_is_added_and_filled_while_files_are_read(stage: Stage):
    """A fourth account joins: new stripes use it, rebalancing evens out, killed on the way; every
    read is right, nothing is lost and nothing left over."""
    volume = stage.volume(stage.directories(3, quota=80 * MIB), k=2, n=3)
    data = {f"f{n}": write_noise(volume.folder / f"f{n}", 6 * MIB, n) for n in range(10)}
    volume.flush()
    volume.wait_until_quiet()
    (new,) = stage.directories(1, quota=80 * MIB)
    volume.aggfs("account", "add", new.spec(), "--volume", volume.name)
    volume.places.append(new)
    data["new"] = write_noise(volume.folder / "new", 6 * MIB, 99)
    volume.flush()
    used = fragments_by_account(volume, volume.folder / "new")
    stage.tell(f"fragments of a file written after that: {used}")
    assert used[new.name] == max(used.values())
    before = levels(volume)
    stage.tell(volume.aggfs("rebalance", volume.name, "--dry-run").strip().replace("\n", "; "))
    with a_reader(volume, data) as wrong:
        volume.ask("rebalance", rate=8 * MIB)
        volume.wait_until(lambda now: now["movement"]["moved_bytes"] > 4 * MIB, "it moves")
    assert wrong == []
    volume.kill()
    volume.mount()
    row = volume.status()["movement"]
    stage.tell(f"killed; after the mount: {row['moved_bytes']} bytes moved, {row['state']}")
    with a_reader(volume, data) as wrong:
        volume.wait_until(lambda now: now["movement"]["state"] == "done", "it is done")
    assert wrong == []
    after = levels(volume)
    stage.tell(f"levels before {before}, after {after}")
    assert max(after.values()) - min(after.values()) <= 5
    assert volume.audit()["complete"] == []
    assert_ledger_is_exact(stage, volume)
    volume.evict()
    assert tree_of(volume.folder) == data


@shows("AGG-6")
def test_an_account_is_emptied_removed_and_switched_off(stage: Stage):
    """After `account remove` the server is switched off: all is there, in full. Refused where the
    rest cannot hold it, or would not be spread any more."""
    places = [*stage.buckets(1), *stage.directories(3, quota=60 * MIB)]
    volume = stage.volume(places, k=2, n=3)
    data = {f"f{n}": write_noise(volume.folder / f"f{n}", 4 * MIB, n) for n in range(6)}
    volume.flush()
    volume.wait_until_quiet()
    leaving = volume.places[0]
    stage.tell(volume.aggfs("account", "remove", leaving.name, "--dry-run").strip())
    with a_reader(volume, data) as wrong:
        stage.tell(volume.aggfs("account", "remove", leaving.name).strip())
    assert wrong == []
    assert leaving.sizes() == {}
    leaving.fail()
    try:
        volume.places.pop(0)
        volume.evict()
        assert tree_of(volume.folder) == data
        data["after"] = write_noise(volume.folder / "after", 3 * MIB, 50)
        volume.flush()
        volume.wait_until_quiet()
        status = volume.status()
        stage.tell(f"the server is off: stripes {status['stripes']}, warnings {status['warnings']}")
        assert status["stripes"]["stored"] == status["stripes"]["staged"] == 0
        assert_ledger_is_exact(stage, volume)
        volume.umount()
        volume.mount()
        assert tree_of(volume.folder) == data
        other = stage.recovered(volume, "again")
        assert tree_of(other.folder) == data
        stage.tell("a machine that knows only the three others and the words has all files")
    finally:
        leaving.heal()
    refuse(stage, volume, volume.places[0].name, "3 providers are needed, there are 2")


def refuse(stage: Stage, volume: LiveVolume, name: str, why: str) -> None:
    done = volume.home.aggfs("account", "remove", name, code=None)
    stage.tell(f"exit {done.code}: {done.err.strip()}")
    assert done.code in (exits.BAD_CONFIG, exits.NO_SPACE)
    assert why in done.err


@shows("AGG-6")
def test_an_account_whose_fragments_fit_nowhere_is_not_removed(stage: Stage):
    """Refused with the numbers, and nothing is changed."""
    places = [*stage.directories(3, quota=24 * MIB), *stage.directories(1, quota=5 * MIB)]
    volume = stage.volume(places, k=2, n=3)
    data = {f"f{n}": write_noise(volume.folder / f"f{n}", 4 * MIB, n) for n in range(6)}
    volume.flush()
    volume.wait_until_quiet()
    before = [place.sizes() for place in places]
    refuse(stage, volume, places[0].name, "bytes too few")
    assert [place.sizes() for place in places] == before
    assert tree_of(volume.folder) == data


@shows("AGG-6")
def test_an_account_is_replaced_by_another(stage: Stage):
    """What the old one held goes to the new one; the old one is empty and forgotten."""
    volume = stage.volume(stage.directories(4), k=2, n=3)
    data = {f"f{n}": write_noise(volume.folder / f"f{n}", 4 * MIB, n) for n in range(6)}
    volume.flush()
    volume.wait_until_quiet()
    old = volume.places[1]
    (new,) = stage.directories(1)
    stage.tell(volume.aggfs("account", "replace", old.name, new.spec()).strip())
    volume.places[1] = new
    assert old.sizes() == {}
    assert_ledger_is_exact(stage, volume)
    volume.umount()
    volume.mount()
    assert [one["name"] for one in volume.status()["accounts"]] == sorted(
        (place.name for place in volume.places), key=lambda name: (name == new.name, name)
    )
    assert tree_of(volume.folder) == data


@shows("AGG-8")
def test_a_large_file_stays_storable_until_there_is_no_room_for_it(stage: Stage):
    """Small files fill unequal accounts: a file of 24 MiB finds room until the whole has none."""
    quotas = (24, 24, 40, 64)
    volume = stage.volume([one for quota in quotas for one in one_directory(stage, quota)])
    large, data = 24 * MIB, {}
    enough = large * 16 // 15 + 2 * MIB  # a sixteenth is kept for padding, and some for journals
    while room_for_data(volume) > enough:
        name = f"small{len(data)}"
        data[name] = write_noise(volume.folder / name, 300_000, len(data))
        volume.ask("flush")
    room = room_for_data(volume)
    stage.tell(f"{len(data)} small files; room for {room / MIB:.1f} MiB; levels {levels(volume)}")
    data["large"] = write_noise(volume.folder / "large", large, 999)
    volume.flush()
    volume.wait_until_quiet()
    stage.tell(f"a file of {large // MIB} MiB is stored; levels {levels(volume)}")
    volume.evict()
    assert tree_of(volume.folder) == data


def room_for_data(volume: LiveVolume) -> int:
    """The largest T with sum of min(free, T/2) >= 3T/2, by halving: what 2-of-3 can still store."""
    free = [one["capacity_bytes"] - one["used_bytes"] for one in volume.status()["accounts"]]
    low, high = 0, sum(free)
    while low < high:
        middle = (low + high + 1) // 2
        if 2 * sum(min(one, middle / 2) for one in free) >= 3 * middle:
            low = middle
        else:
            high = middle - 1
    return low
