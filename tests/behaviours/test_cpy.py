"""CPY: copies by block id, version and hole."""

import errno
import json
import mmap
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aggfs.cli import exits
from tests.support.mounting import needs_fuse
from tests.support.places import Place
from tests.support.samples import noise, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume, drop_pages

pytestmark = needs_fuse
BLOCK = 256 * 1024
CELLS = BLOCK + 3 * 200  # a block's cells and MACs are a little more than the block


def _cold(stage: Stage, places: list[Place] | None = None, *, k: int, n: int) -> LiveVolume:
    """A volume with a file of 16 MiB, of which nothing is here."""
    volume = stage.volume(places, k=k, n=n)
    write_noise(volume.folder / "file", 16 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    return volume


def _pread(path: Path, length: int, offset: int) -> bytes:
    """As a program reads that does not read on: the kernel is told not to read ahead."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)


@shows("CPY-1")
def test_a_small_read_moves_one_block(stage: Stage):
    """4 KiB out of 16 MiB: k range reads of one cell each; holes shows the rest as not here."""
    volume = _cold(stage, k=3, n=5)
    path = volume.folder / "file"
    asked, received = volume.asked(), volume.received_bytes()
    offset = 9 * MIB + 100_000
    assert _pread(path, 4096, offset) == noise(16 * MIB)[offset : offset + 4096]
    ranges = volume.asked()["get_range"] - asked["get_range"]
    moved = volume.received_bytes() - received
    holes = volume.explained("holes", path)["holes"]
    stage.tell(f"a read of 4 KiB: {ranges} range reads, {moved} bytes moved; holes now {holes}")
    assert ranges == 3
    assert BLOCK <= moved <= CELLS
    start = offset // BLOCK * BLOCK
    assert holes == [[0, start], [start + BLOCK, 16 * MIB]]


@shows("CPY-2")
def test_overlapping_reads_share_their_fetches(stage: Stage):
    """Sixteen readers of four blocks at once: each block comes once."""
    volume = _cold(stage, k=2, n=3)
    path, data = volume.folder / "file", noise(16 * MIB)
    received = volume.received_bytes()
    offsets = [5 * MIB * (number % 4) + 5000 * number for number in range(16)]
    found: dict[int, bytes] = {}

    def read(number: int) -> None:
        found[number] = _pread(path, 4096, offsets[number])

    _at_once([lambda number=number: read(number) for number in range(16)])
    for number, offset in enumerate(offsets):
        assert found[number] == data[offset : offset + 4096]
    blocks = {offset // BLOCK for offset in offsets}
    moved = volume.received_bytes() - received
    stage.tell(f"16 readers at once within {len(blocks)} blocks: {moved / BLOCK:.2f} blocks moved")
    assert moved <= len(blocks) * CELLS


@shows("CPY-2")
def test_a_hundred_readers_of_a_cold_file_bring_each_byte_once(stage: Stage):
    """A hundred descriptors read all of a file past the kernel's pages at once: it comes once."""
    volume = _cold(stage, k=2, n=3)
    path, data = volume.folder / "file", noise(16 * MIB)
    received = volume.received_bytes()
    wrong: list[int] = []

    def read(number: int) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        with mmap.mmap(-1, MIB) as memory:
            for offset in range(0, 16 * MIB, 4 * MIB):
                os.preadv(descriptor, [memory], offset)
                if memory[:] != data[offset : offset + MIB]:
                    wrong.append(number)
        os.close(descriptor)

    _at_once([lambda number=number: read(number) for number in range(100)])
    moved = volume.received_bytes() - received
    stage.tell(f"100 readers at once: {moved / MIB:.2f} MiB moved of a file of 16 MiB")
    assert not wrong
    assert moved <= 16 * MIB // BLOCK * CELLS


def _at_once(actions: list[Callable[[], None]]) -> None:
    gate = threading.Barrier(len(actions))

    def act(action: Callable[[], None]) -> None:
        gate.wait()
        action()

    threads = [threading.Thread(target=act, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


@shows("CPY-3")
def test_what_is_here_is_not_asked_for_again(stage: Stage):
    """The destination has all that is wanted: no transfer."""
    volume = _cold(stage, k=2, n=3)
    path = volume.folder / "file"
    assert path.read_bytes() == noise(16 * MIB)
    asked = _reads(volume.asked())
    assert asked
    drop_pages(path)
    assert path.read_bytes() == noise(16 * MIB)
    assert _reads(volume.asked()) == asked
    stage.tell(f"16 MiB took {asked} requests; read once more from what is here: none")


@shows("CPY-3")
def test_versions_decide_what_a_copy_brings(stage: Stage):
    """An answer older than a write is dropped; where another version has come meanwhile, its
    blocks are brought, and it is told by its number."""
    volume = _cold(stage, [*stage.buckets(2), *stage.directories(1)], k=2, n=3)
    volume.expect_log("account")
    path, old = volume.folder / "file", noise(16 * MIB)
    first = _version(path)
    with path.open("r+b") as file:
        file.write(b"newer")
    volume.flush()
    second = _version(path)
    assert second != first
    volume.wait_until_quiet()
    volume.evict()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(_pread(path, 4096, 8192)))
    command = ("restore", path, "--version", first)
    putting_back = threading.Thread(target=lambda: volume.aggfs(*command))
    asked = _reads(volume.asked())
    with volume.places[0].hanging(), volume.places[1].hanging():
        reader.start()
        volume.wait_until(lambda _: _reads(volume.asked()) > asked, "the fetch is under way")
        with path.open("r+b") as file:
            file.seek(64 * 1024)
            file.write(b"newer than what is on its way")
        putting_back.start()
    for thread in (reader, putting_back):
        thread.join(60)
        assert not thread.is_alive()
    assert found == [old[8192 : 8192 + 4096]]
    assert path.read_bytes() == old
    versions = [
        one["version"] for one in json.loads(volume.aggfs("versions", path, "--json"))["versions"]
    ]
    stage.tell(f"written while a fetch was under way, then put back: versions {versions}")
    assert versions[0] == _version(path)
    assert versions[-2:] == [second, first]
    volume.aggfs("restore", path, "--version", versions[1])
    assert path.read_bytes()[64 * 1024 :].startswith(b"newer than what is on its way")
    assert path.read_bytes()[:5] == b"newer"


def _version(path: Path) -> str:
    return os.getxattr(path, "user.aggfs.version").decode()


def _reads(asked: dict[str, int]) -> int:
    return sum(asked.get(verb, 0) for verb in ("get", "get_range"))


@shows("CPY-4")
def test_a_write_into_a_hole_that_is_being_filled_wins(stage: Stage):
    """The servers hang in mid-fetch, a write lands in the block, they go on: the write is kept."""
    volume = _cold(stage, [*stage.buckets(2), *stage.directories(1)], k=2, n=3)
    volume.expect_log("account")
    path, data = volume.folder / "file", bytearray(noise(16 * MIB))
    start = 20 * BLOCK
    found = []
    reader = threading.Thread(target=lambda: found.append(_pread(path, 4096, start + 8192)))
    with volume.places[0].hanging(), volume.places[1].hanging():
        reader.start()
        volume.wait_until(lambda _: _under_way(volume), "the fetch is under way")
        descriptor = os.open(path, os.O_WRONLY)
        assert os.pwrite(descriptor, b"the newest bytes", start + 150_000) == 16
        os.close(descriptor)
    reader.join(60)
    assert not reader.is_alive()
    data[start + 150_000 : start + 150_016] = b"the newest bytes"
    assert found == [bytes(data[start + 8192 : start + 8192 + 4096])]
    assert _pread(path, BLOCK, start) == data[start : start + BLOCK]
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    assert path.read_bytes() == data
    stage.tell("a write into a block on its way: kept, and the rest of the block filled around it")


def _under_way(volume: LiveVolume) -> bool:
    return volume.asked()["get_range"] > 0


@shows("CPY-10")
def test_a_bad_answer_leaves_the_hole_and_the_next_source_is_asked(stage: Stage):
    """Corrupt and short answers: others are asked; none left: EIO and still a hole, no bytes."""
    volume = _cold(stage, k=2, n=3)
    volume.expect_log("fragment")
    path, data = volume.folder / "file", noise(16 * MIB)
    run = volume.explained("where", path)["blocks"][1]
    offset = run["block"] * BLOCK + 3000
    objects = [(volume.place(f["account"]), f["key"]) for f in run["fragments"]]
    good = [place.read(key) for place, key in objects]
    _spoil(objects[0], good[0])
    assert _pread(path, 4096, offset) == data[offset : offset + 4096]
    stage.tell("one corrupt fragment: the read is right")
    volume.wait_until(lambda now: not now["under_replicated"], "it is made again")
    _lose_all_but_one(objects, good)
    volume.evict()
    before = volume.explained("holes", path)["holes"]
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        _pread(path, 4096, offset)
    assert volume.explained("holes", path)["holes"] == before
    stage.tell("two of three corrupt or short: EIO, and the hole is still a hole")
    for (place, key), bytes_ in zip(objects, good, strict=True):
        place.write(key, bytes_)
    assert _pread(path, 4096, offset) == data[offset : offset + 4096]
    volume.home.aggfs("where", volume.folder / "unknown", code=exits.NO_ENTRY)


def _spoil(target: tuple[Place, str], good: bytes) -> None:
    """Every cell is wrong."""
    place, key = target
    place.write(key, good[:128] + bytes(byte ^ 0x55 for byte in good[128:]))


def _lose_all_but_one(objects: list[tuple[Place, str]], good: list[bytes]) -> None:
    _spoil(objects[0], good[0])
    objects[1][0].write(objects[1][1], good[1][:500])


@shows("CPY-11")
def test_a_hole_is_not_a_gap(stage: Stage):
    """What is not here counts as data; only what is nowhere takes no room and is never fetched."""
    volume = stage.volume()
    path, copy, back = volume.folder / "sparse", stage.path / "copy", volume.folder / "back"
    path.write_bytes(noise(BLOCK))
    volume.flush()
    with path.open("r+b") as file:
        file.seek(BLOCK - 10)
        file.write(noise(2 * BLOCK))  # joins what is stored
        file.truncate(64 * BLOCK)
        file.seek(40 * BLOCK + 5)
        file.write(noise(100))
    data = path.read_bytes()
    stage.tell(f"of {len(data)} bytes {_room(path)} take room, before they are flushed")
    assert 3 * BLOCK - 10 <= _room(path) <= 4 * BLOCK
    volume.flush()
    volume.wait_until_quiet()
    here = volume.explained("holes", path)
    volume.evict()
    away = volume.explained("holes", path)
    stage.tell(f"all of it here: holes {here['holes']}, gaps {here['gaps']}; evicted: {away}")
    gaps = [[3 * BLOCK, 40 * BLOCK], [41 * BLOCK, 64 * BLOCK]]
    assert (here["holes"], here["gaps"]) == ([], gaps)
    assert (away["holes"], away["gaps"]) == ([[0, 3 * BLOCK], [40 * BLOCK, 41 * BLOCK]], gaps)
    assert _sought(path) == (0, len(data)), "the binding knows no gaps: all is data, holes as well"
    asked = _reads(volume.asked())
    assert _pread(path, BLOCK, 20 * BLOCK) == bytes(BLOCK)
    assert _reads(volume.asked()) == asked, "a gap is not fetched"
    subprocess.run(["cp", "--sparse=always", path, copy], check=True, timeout=60)
    subprocess.run(["cp", "--sparse=always", copy, back], check=True, timeout=60)
    assert copy.read_bytes() == back.read_bytes() == data
    stage.tell(f"cp --sparse from an evicted file: {_room(copy)} bytes; back: {_room(back)}")
    assert _room(copy) <= 4 * BLOCK
    assert _room(back) <= 4 * BLOCK
    assert volume.explained("holes", path)["holes"] == []


@shows("CPY-11")
def test_holes_at_every_edge(stage: Stage):
    """Of no length, side by side, over the end of a file, cut away: told, read, never too much."""
    volume = stage.volume()
    path, empty = volume.folder / "file", volume.folder / "empty"
    empty.touch()
    data = write_noise(path, 4 * BLOCK + 1000)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    asked = _reads(volume.asked())
    assert _local(volume, empty) == {"size": 0, "holes": [], "gaps": [], "dirty": []}
    assert _pread(empty, 4096, 0) == b""
    assert _pread(path, 4096, len(data)) == b""
    assert _reads(volume.asked()) == asked, "there was nothing to fetch"
    seen = [_holes(volume, path)]
    for block in (1, 2):
        assert _pread(path, 4096, block * BLOCK) == data[block * BLOCK :][:4096]
        seen.append(_holes(volume, path))
    stage.tell(f"a block is filled, and the one beside it: {seen}")
    end = len(data)
    assert seen == [[[0, end]], [[0, BLOCK], [2 * BLOCK, end]], [[0, BLOCK], [3 * BLOCK, end]]]
    assert _pread(path, 4096, end - 500) == data[-500:]
    assert _holes(volume, path) == [[0, BLOCK], [3 * BLOCK, 4 * BLOCK]]
    volume.evict()
    assert _holes(volume, path) == [[0, end]], "side by side, they are one"
    cut = 2 * BLOCK + 7
    os.truncate(path, cut)
    shorter = _local(volume, path)
    os.truncate(path, 6 * BLOCK)
    longer = _local(volume, path)
    stage.tell(f"cut at {cut}: {shorter}; grown again: {longer}")
    assert shorter["holes"] == longer["holes"] == [[0, 2 * BLOCK]], "the block of the cut has come"
    assert (shorter["gaps"], longer["gaps"]) == ([], [[cut, 6 * BLOCK]])
    asked = _reads(volume.asked())
    assert _pread(path, BLOCK, 4 * BLOCK) == bytes(BLOCK)
    assert _reads(volume.asked()) == asked, "what was cut away is a gap now"
    assert path.read_bytes() == data[:cut] + bytes(6 * BLOCK - cut)
    assert _holes(volume, path) == []
    empty.write_bytes(b"a few bytes, in the entry itself")
    volume.flush()
    os.truncate(empty, 2 * BLOCK)
    assert _local(volume, empty)["gaps"] == [[32, 2 * BLOCK]]


def _room(path: Path) -> int:
    return path.stat().st_blocks * 512


def _sought(path: Path) -> tuple[int, int]:
    """Where the data of a file begins, and where its first hole is, as `lseek` says."""
    with path.open("rb") as file:
        return os.lseek(file.fileno(), 0, os.SEEK_DATA), os.lseek(file.fileno(), 0, os.SEEK_HOLE)


def _holes(volume: LiveVolume, path: Path) -> list[list[int]]:
    return list(_local(volume, path)["holes"])


def _local(volume: LiveVolume, path: Path) -> dict[str, Any]:
    """What `aggfs holes` says, without starting a command."""
    return volume.ask("holes", path=f"/{path.name}")
