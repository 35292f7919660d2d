"""FRG-8, CPY-7: what an account has lost is found by looking, and only that is made again."""

import json
from typing import Any

from tests.support.mounting import needs_fuse
from tests.support.places import Place
from tests.support.samples import write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse


def scrub(volume: LiveVolume, *options: str, code: int = 0) -> dict[str, Any]:
    return dict(json.loads(volume.aggfs("scrub", volume.name, "--json", *options, code=code)))


def contents(place: Place) -> dict[str, bytes]:
    return {key: place.read(key) for key in place.sizes()}


@shows("FRG-8")
def test_a_wiped_bucket_is_rebuilt_to_full_redundancy(stage: Stage):
    """One S3 bucket loses every object; `aggfs scrub --repair` brings back what was there."""
    volume = stage.volume([*stage.buckets(2), *stage.directories(1)])
    whole = write_noise(volume.folder / "large", 9 * MIB)
    small = [write_noise(volume.folder / f"small{number}", 5000, number) for number in range(20)]
    volume.flush()
    volume.wait_until_quiet()
    victim = volume.places[0]
    before = contents(victim)
    for key in before:
        victim.delete(key)
    found = scrub(volume, code=1)
    stage.tell(
        f"{victim.name} wiped of {len(before)} objects: scrub misses {found['fault_count']}"
        f" fragments and {found['records'][victim.name]} objects of journal and header"
    )
    assert found["fault_count"] > 0
    found = scrub(volume, "--repair")
    stage.tell(
        f"repair: {found['repaired_fragments']} fragments, {found['repaired_records']} others,"
        f" {found['repaired_bytes']} bytes moved"
    )
    assert found["repaired_bytes"] > 0
    volume.wait_until_quiet()
    after = contents(victim)
    same = sum(after.get(key) == data for key, data in before.items())
    stage.tell(f"{same} of {len(before)} objects are the same bytes under the same name again")
    assert found["repaired_fragments"] <= same
    assert scrub(volume, "--full")["fault_count"] == 0
    volume.evict()
    volume.places[2].fail()  # the rebuilt one is needed now
    try:
        assert (volume.folder / "large").read_bytes() == whole
        read = [(volume.folder / f"small{number}").read_bytes() for number in range(20)]
        assert read == small
    finally:
        volume.places[2].heal()


@shows("CPY-7")
def test_a_partly_filled_account_gets_only_what_is_missing_or_stale(stage: Stage):
    """Some objects are gone, some are older bytes, the others good: only the bad are put again."""
    volume = stage.volume()
    for number in range(6):
        write_noise(volume.folder / f"file{number}", 5 * MIB, number)
        volume.flush()
    volume.wait_until_quiet()
    victim = volume.places[1]
    good = contents(victim)
    large = sorted(key for key, data in good.items() if len(data) > MIB)
    gone, stale = large[:2], large[2:4]
    for key in gone:
        victim.delete(key)
    for key in stale:
        victim.write(key, good[large[4]])  # another fragment: right size, wrong bytes
    puts = volume.asked().get("put", 0)
    found = scrub(volume, "--full", "--repair")
    sent = volume.asked().get("put", 0) - puts
    stage.tell(
        f"{len(large)} fragments at {victim.name}, {len(gone)} deleted, {len(stale)} replaced:"
        f" {found['fault_count']} faults, {sent} puts, {found['repaired_bytes']} bytes"
    )
    assert sent == found["repaired_fragments"] == len(gone) + len(stale)
    assert found["repaired_bytes"] == sum(len(good[key]) for key in gone + stale)
    assert contents(victim) == good
