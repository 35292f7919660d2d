"""Clean and whole: collection, and the check of everything with everything else."""

import json
from typing import Any

from tests.support.mounting import needs_fuse
from tests.support.samples import write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse


def told(volume: LiveVolume, command: str, *options: str, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(volume.aggfs(command, volume.name, "--json", *options, code=code)))


def listed_bytes(volume: LiveVolume) -> int:
    return sum(sum(place.sizes().values()) for place in volume.places)


@shows("COLLECT")
def test_what_was_deleted_leaves_the_accounts(stage: Stage):
    """A file is deleted for good: `aggfs gc` gives its room in the accounts back, to the byte."""
    volume = stage.volume(mount=("collect_after_seconds=0",))
    kept = write_noise(volume.folder / "kept", 3 * MIB, 1)
    volume.flush()
    volume.wait_until_quiet()
    write_noise(volume.folder / "doomed", 6 * MIB, 2)
    volume.flush()
    volume.wait_until_quiet()
    (volume.folder / "doomed").unlink()
    volume.flush()
    found = told(volume, "gc", "--dry-run")
    assert found["found_stripes"] == 0  # the trash has it
    volume.aggfs("trash", "empty", "--yes", "--volume", volume.name)
    volume.flush()
    before = listed_bytes(volume)
    found = told(volume, "gc", "--dry-run")
    stage.tell(f"{before} bytes in the accounts; `gc --dry-run`: {found['found_stripes']} stripes")
    assert found["found_bytes"] > 6 * MIB
    assert listed_bytes(volume) == before
    found = told(volume, "gc")
    assert found["deleted_bytes"] > 6 * MIB
    stage.tell(f"gc: {found['deleted_objects']} objects, {found['deleted_bytes']} bytes deleted")
    volume.wait_until_quiet()
    ledger = sum(account["used_bytes"] for account in volume.status()["accounts"])
    stage.tell(f"the ledger says {ledger} bytes, the listings {listed_bytes(volume)}")
    assert ledger == listed_bytes(volume)
    volume.evict()
    assert (volume.folder / "kept").read_bytes() == kept


@shows("CHECK")
def test_everything_is_checked_mounted_and_unmounted(stage: Stage):
    """`aggfs check` finds nothing wrong; an object that is lost is found, told and made again."""
    volume = stage.volume()
    for number in range(10):
        write_noise(volume.folder / f"file{number}", 50_000, number)
    (volume.folder / "directory").mkdir()
    volume.flush()
    volume.wait_until_quiet()
    answer = told(volume, "check")
    assert answer["findings"] == []
    assert answer["scrub"]["fault_count"] == 0
    victim = volume.places[0]
    key = max(victim.sizes(), key=lambda one: victim.sizes()[one])
    good = victim.read(key)
    victim.delete(key)
    answer = told(volume, "check", code=1)
    stage.tell(f"one object deleted: {answer['scrub']['faults']}")
    assert answer["scrub"]["fault_count"] == 1
    volume.umount()
    answer = told(volume, "check", "--repair")
    stage.tell(f"unmounted, --repair: {answer['scrub']['repaired_bytes']} bytes put")
    assert answer["scrub"]["repaired_fragments"] == 1
    assert victim.read(key) == good
    assert told(volume, "check")["scrub"]["fault_count"] == 0
