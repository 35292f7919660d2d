"""CPY-5, CPY-9: copies that resume, and copies that let readers go first."""

import os
import time
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.samples import noise, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse
STRIPE_BYTES = 4 * MIB
FILE_BYTES = 96 * MIB
RATE_BYTES = 48 * MIB


def _cold(stage: Stage, *mount: str, size_bytes: int) -> LiveVolume:
    """A volume with a file and a small one, of which nothing is here."""
    volume = stage.volume(mount=mount)
    write_noise(volume.folder / "file", size_bytes)
    write_noise(volume.folder / "small", MIB, "small")
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    return volume


def _missing_bytes(volume: LiveVolume) -> int:
    holes = volume.explained("holes", volume.folder / "file")["holes"]
    return sum(end - start for start, end in holes)


@shows("CPY-5")
def test_a_killed_pin_fetches_only_what_is_missing(stage: Stage):
    """kill -9 in the middle of a pin: it goes on by itself, and fetches the remaining holes."""
    volume = _cold(stage, f"background_rate={RATE_BYTES}", size_bytes=FILE_BYTES)
    start = volume.received_bytes()
    volume.aggfs("pin", "--no-wait", volume.folder / "file")
    volume.wait_until(
        lambda _: volume.received_bytes() - start >= FILE_BYTES // 3, "a third of it came"
    )
    before = volume.received_bytes() - start
    volume.kill()
    volume.mount(f"background_rate={RATE_BYTES}")
    volume.wait_until(lambda _: not _missing_bytes(volume), "the rest came by itself")
    after = volume.received_bytes()
    stage.tell(
        f"of {FILE_BYTES / MIB:.0f} MiB {before / MIB:.1f} came before the kill and"
        f" {after / MIB:.1f} after it: {(before + after) / MIB:.1f} in all"
    )
    assert before >= FILE_BYTES // 3
    assert before + after <= FILE_BYTES * 1.01 + 2 * STRIPE_BYTES  # two are under way at a time
    before = volume.received_bytes()
    assert (volume.folder / "file").read_bytes() == noise(FILE_BYTES)
    assert volume.received_bytes() == before
    stage.tell("then the whole file reads, and nothing more is fetched")


@shows("CPY-9")
def test_a_reader_overtakes_a_pin_that_keeps_to_its_rate(stage: Stage):
    """A pin at 8 MiB/s: small cold reads beside it take no turn, and it takes no more than that."""
    rate = 8 * MIB
    volume = _cold(stage, f"background_rate={rate}", size_bytes=32 * MIB)
    began, start = time.monotonic(), volume.received_bytes()
    volume.aggfs("pin", "--no-wait", volume.folder / "file")
    slowest = 0.0
    path = volume.folder / "small"
    for _ in range(10):
        volume.aggfs("evict", path)
        slowest = max(slowest, _timed_read(path))
    missing = _missing_bytes(volume)
    volume.wait_until(lambda _: not _missing_bytes(volume), "the pin has come")
    seconds = time.monotonic() - began
    moved = volume.received_bytes() - start
    stage.tell(
        f"10 cold reads beside a pin, the slowest {slowest * 1000:.0f} ms, {missing >> 20} MiB of"
        f" the pin still missing; {moved / MIB:.0f} MiB came in {seconds:.1f} s"
    )
    assert missing, "the pin was there all the time"
    assert seconds >= 32 * MIB / rate - 1 - 2 * STRIPE_BYTES / rate


def _timed_read(path: Path) -> float:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.monotonic()
        data = os.read(descriptor, MIB)
        seconds = time.monotonic() - began
    finally:
        os.close(descriptor)
    assert data == noise(MIB, "small")[: len(data)]
    return seconds
