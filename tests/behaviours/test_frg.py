"""FRG: fragments, so that no provider has a complete copy."""

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aggfs.cli import exits
from tests.support.commands import PROGRAM, TOP
from tests.support.mounting import needs_fuse
from tests.support.places import Place, dump
from tests.support.samples import corpus, noise, tree_of, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse
BLOCK = 256 * 1024
READ_SECONDS = 30.0


@shows("FRG-1")
def test_no_provider_can_rebuild_any_stripe(stage: Stage):
    """Two accounts at one provider count once; the audit rebuilds from the listings alone."""
    places = [*stage.directories(2), *stage.directories(2, provider="one provider")]
    volume = stage.volume(places, k=2, n=3)
    write_noise(volume.folder / "large", 9 * MIB)
    for number in range(30):
        write_noise(volume.folder / f"small{number}", 5000, number)
    volume.flush()
    volume.wait_until_quiet()
    answer = volume.audit()
    for provider in answer["providers"]:
        stage.tell(
            f"provider {provider['provider']}: {provider['objects']} objects,"
            f" fragments of {provider['stripes']} stripes, at most"
            f" {provider['most_fragments']} of one (k = 2)"
        )
    assert answer["complete"] == []
    assert [provider["most_fragments"] for provider in answer["providers"]] == [1, 1, 1]
    together = next(p for p in answer["providers"] if p["provider"] == "one provider")
    assert together["objects"] == sum(len(place.sizes()) for place in places[2:]) - 2  # headers


@shows("FRG-1")
def test_the_audit_finds_a_complete_copy_where_there_is_one(stage: Stage):
    """The proof of the proof: a volume that allows complete copies fails the audit."""
    places = stage.directories(3, provider="alone")
    volume = stage.volume(places, "--allow-complete-copy", "--fragments-per-provider=3")
    write_noise(volume.folder / "file", MIB)
    volume.flush()
    volume.wait_until_quiet()
    answer = volume.audit(code=exits.FOUND)
    stage.tell(f"a provider with all fragments: {answer['complete'][0]}")
    assert any("alone: stripe" in line for line in answer["complete"])


@shows("FRG-2")
@shows("OBF-4")
def test_a_dumped_account_shows_nothing_of_what_was_stored(stage: Stage):
    """No planted content, name, extension, path, link, attribute or magic number in any account."""
    volume = stage.volume()
    secrets = _plant(volume.folder)
    magics = corpus(volume.folder / "corpus-of-types")
    volume.flush()
    volume.wait_until_quiet()
    for place in volume.places:
        stolen = dump(place)
        found = [text for text in [*secrets, *magics.values()] if text in stolen]
        stage.tell(
            f"{place.name}: {len(place.sizes())} objects, {len(stolen)} bytes searched for"
            f" {len(secrets) + len(magics)} planted texts: {len(found)} found"
        )
        assert found == []
    assert volume.audit()["complete"] == []


def _plant(top: Path) -> list[bytes]:
    """Things whose every trace would be recognised; the traces."""
    folder = top / "tax-papers-of-2031"
    folder.mkdir()
    content = b"the-combination-of-the-safe-is-4711 " * 4000
    (folder / "the-combination.docx").write_bytes(content)
    (folder / "short-note.txt").write_bytes(b"meet-me-at-the-old-mill")
    os.symlink("/where/the/treasure/lies", folder / "map-of-the-island")
    os.setxattr(folder, "user.colour-of-the-label", b"ultramarine-and-gold")
    os.link(folder / "short-note.txt", folder / "second-name-of-it.txt")
    utf16 = "the-combination".encode("utf-16-le")
    texts = [
        *("tax-papers", "the-combination", "short-note", ".docx", "meet-me-at", "old-mill"),
        *("map-of-the", "/where/the", "treasure", "colour-of-the", "ultramarine", "second-name"),
        *("aggfs", "corpus-of-types", "picture.png", ".sqlite"),
    ]
    return [*(text.encode() for text in texts), utf16]


@shows("FRG-3")
def test_one_provider_killed_stops_nothing_and_is_caught_up_with(stage: Stage):
    """One S3 server killed: reads identical, writes accepted; back again, all is full by itself."""
    volume = stage.volume([*stage.buckets(2), *stage.directories(1)])
    before = write_noise(volume.folder / "before", 6 * MIB, 1)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    victim = volume.places[0]
    victim.fail()
    try:
        longest = _timed(lambda: _assert_reads(volume.folder / "before", before))
        during = noise(6 * MIB, 2)
        longest = max(longest, _timed(lambda: (volume.folder / "during").write_bytes(during)))
        longest = max(longest, _timed(volume.flush))
        status = volume.status()
        stage.tell(
            f"{victim.name} killed: longest operation {longest:.1f} s,"
            f" {status['under_replicated']} stripes under-replicated"
        )
        assert longest < READ_SECONDS
        assert status["under_replicated"] > 0
        assert not next(a for a in status["accounts"] if a["name"] == victim.name)["healthy"]
    finally:
        victim.heal()
    seconds = volume.wait_until(lambda now: not now["under_replicated"], "all is full again")
    stage.tell(f"{victim.name} back: 0 under-replicated after {seconds:.1f} s")
    volume.wait_until_quiet()
    volume.evict()
    volume.places[1].fail()
    try:
        _assert_reads(volume.folder / "before", before)
        _assert_reads(volume.folder / "during", during)
    finally:
        volume.places[1].heal()
    assert volume.explained("why", volume.folder / "during")["any"] == 1


@shows("FRG-3")
def test_a_provider_that_hangs_delays_no_operation_past_its_deadline(stage: Stage):
    """A server that takes requests and answers none is as good as a dead one."""
    volume = stage.volume([*stage.buckets(2), *stage.directories(1)])
    volume.expect_log("account")
    before = write_noise(volume.folder / "before", 4 * MIB, 1)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    with volume.places[0].hanging():
        read = _timed(lambda: _assert_reads(volume.folder / "before", before))
        write = _timed(lambda: write_noise(volume.folder / "during", 4 * MIB, 2))
        listed = _timed(lambda: os.listdir(volume.folder))
        stage.tell(f"hanging: read {read:.1f} s, write {write:.1f} s, listing {listed:.2f} s")
        assert max(read, write, listed) < READ_SECONDS
        flushed = _timed(volume.flush)
        stage.tell(f"hanging: flush to the write quorum {flushed:.1f} s")
        assert flushed < READ_SECONDS
    volume.wait_until_quiet()
    _assert_reads(volume.folder / "during", noise(4 * MIB, 2))


@shows("FRG-4")
def test_with_n_minus_k_dead_all_is_readable_and_with_one_more_nothing_is_wrong(stage: Stage):
    """3-of-5: any two dead, every byte comes; three dead: EIO in time, what is cached stays."""
    volume = stage.volume(k=3, n=5)
    data = {f"f{number}": noise(2 * MIB + number, number) for number in range(3)}
    for name, content in data.items():
        (volume.folder / name).write_bytes(content)
    volume.flush()
    volume.wait_until_quiet()
    for first in range(5):
        dead = [volume.places[first], volume.places[(first + 2) % 5]]
        volume.evict()
        _fail(dead)
        for name, content in data.items():
            _assert_reads(volume.folder / name, content)
        _heal(dead)
    stage.tell("each of 5 pairs of providers dead in turn: all files read, byte for byte")
    volume.evict()
    _assert_reads(volume.folder / "f0", data["f0"])
    _fail(volume.places[:3])
    seconds = _timed(lambda: _assert_unreadable(volume.folder / "f1"))
    stage.tell(f"three of five dead: EIO after {seconds:.2f} s")
    assert seconds < READ_SECONDS
    _assert_reads(volume.folder / "f0", data["f0"])
    stage.tell("three of five dead: the cached file still reads")
    _heal(volume.places[:3])
    _assert_reads(volume.folder / "f1", data["f1"])


@shows("FRG-4")
def test_when_too_many_hang_a_read_ends_with_an_error_in_time(stage: Stage):
    """Two of three servers hang: EIO within 30 s, then all is well again."""
    volume = stage.volume([*stage.buckets(2), *stage.directories(1)])
    volume.expect_log("account")
    data = write_noise(volume.folder / "f", 2 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    with volume.places[0].hanging(), volume.places[1].hanging():
        seconds = _timed(lambda: _assert_unreadable(volume.folder / "f"))
    stage.tell(f"two of three hang: EIO after {seconds:.1f} s")
    assert seconds < READ_SECONDS
    _assert_reads(volume.folder / "f", data)


# --- damage ---------------------------------------------------------------------------------------


def _flip_a_bit(volume: LiveVolume, place: Place, key: str) -> None:
    data = bytearray(place.read(key))
    data[random.Random(key).randrange(200, len(data) // 2)] ^= 0x10
    place.write(key, bytes(data))


def _truncate(volume: LiveVolume, place: Place, key: str) -> None:
    place.write(key, place.read(key)[: place.sizes()[key] // 3])


def _swap(volume: LiveVolume, place: Place, key: str) -> None:
    """Another fragment of the same account, of the same size, lies under this name."""
    size = place.sizes()[key]
    other = next(name for name, length in place.sizes().items() if length == size and name != key)
    place.write(key, place.read(other))


def _put_back_an_older_version(volume: LiveVolume, place: Place, key: str) -> None:
    place.write(key, place.read(_fragment(volume, "older", place)))


def _lose(volume: LiveVolume, place: Place, key: str) -> None:
    place.delete(key)


DAMAGES = [_flip_a_bit, _truncate, _swap, _put_back_an_older_version, _lose]


def _fragment(volume: LiveVolume, name: str, place: Place) -> str:
    """The object of the file's first stripe on this account."""
    run = volume.explained("where", volume.folder / name)["blocks"][0]
    return next(f["key"] for f in run["fragments"] if f["account"] == place.name)


@shows("FRG-6")
def test_damaged_fragments_are_noticed_and_rewritten(stage: Stage):
    """Bit flip, truncation, swap, older version, loss: read right, logged, made whole again."""
    volume = stage.volume()
    volume.expect_log("fragment")
    path = volume.folder / "file"
    for damage in DAMAGES:  # what is bad again soon after it was made again has to wait
        write_noise(path, 4 * MIB, f"older, {damage.__name__}")
        volume.flush()
        older = {one.name: one.read(_fragment(volume, "file", one)) for one in volume.places}
        data = write_noise(path, 4 * MIB, f"newer, {damage.__name__}")
        volume.flush()
        volume.wait_until_quiet()
        for victim in volume.places:
            key = _fragment(volume, "file", victim)
            good = victim.read(key)
            logged = len(volume.log())
            if damage is _put_back_an_older_version:
                victim.write(key, older[victim.name])
            else:
                damage(volume, victim, key)
            assert key not in victim.sizes() or victim.read(key) != good
            _read_until_noticed(volume, path, data, logged)
            assert victim.name in volume.log()[logged:]
            _wait_until_holds(volume, victim, key, good)
        stage.tell(
            f"{damage.__name__.strip('_').replace('_', ' ')} at each of {len(volume.places)}"
            " accounts: read right, logged, rewritten byte for byte"
        )
    assert volume.explained("why", path)["at_risk"] == 0


def _wait_until_holds(volume: LiveVolume, place: Place, key: str, data: bytes) -> None:
    def holds(_: object) -> bool:
        return key in place.sizes() and place.read(key) == data

    volume.wait_until(holds, "the fragment is rewritten")


def _read_until_noticed(volume: LiveVolume, path: Path, data: bytes, logged: int) -> None:
    """The best accounts are asked, and now and then the others: at last the damaged one."""
    for _ in range(200):
        volume.evict()
        _assert_reads(path, data)
        if "fragment" in volume.log()[logged:]:
            return
    raise AssertionError("nothing was noticed")


# --- crashes --------------------------------------------------------------------------------------


@shows("FRG-9")
def test_a_daemon_killed_in_a_flush_leaves_whole_versions(stage: Stage):
    """After each kill: here every file is the new version, in the accounts old or new, whole."""
    volume = stage.volume()
    draw = random.Random(9)
    content = {f"f{number}": noise(draw.randrange(1, MIB), number) for number in range(12)}
    _write_durably(volume.folder, content)
    volume.flush()
    seen = {"old": 0, "new": 0}
    for round_ in range(3):
        older = content
        content = {name: noise(draw.randrange(1, MIB), (name, round_)) for name in content}
        _write_durably(volume.folder, content)
        flush = _flush_in_background(volume)
        time.sleep(draw.uniform(0, 0.3))
        volume.kill()
        flush.wait(60)
        copy = _copy_of_accounts(stage, volume, round_)
        for name, data in tree_of(copy.folder).items():
            assert data in (older[name], content[name]), f"{name} is torn in the accounts"
            seen["new" if data == content[name] else "old"] += 1
        copy.close()
        volume.mount()
        assert tree_of(volume.folder) == content
        volume.flush()
    stage.tell(
        "3 kills during a flush: remounted, every file the new version; recovered from the"
        f" accounts as they were: {seen['new']} new, {seen['old']} old, 0 torn"
    )


def _write_durably(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)


def _flush_in_background(volume: LiveVolume) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "flush", "--volume", volume.name],
        env=volume.home.environment(),
        cwd=TOP,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _copy_of_accounts(stage: Stage, volume: LiveVolume, number: int) -> LiveVolume:
    """The volume as someone else recovers it from the accounts as they are at this moment."""
    places = stage.directories(len(volume.places))
    for new, old in zip(places, volume.places, strict=True):
        shutil.copytree(old.path, new.path, dirs_exist_ok=True)
        new.name, new.provider = old.name, old.provider
    return stage.recovered(volume, f"copy{number}", places)


# --- copies ---------------------------------------------------------------------------------------


REFUSED_COPIES = [  # k, n, providers, options
    (2, 3, 3, []),
    (2, 2, 2, []),
    (2, 4, 3, []),
    (2, 4, 4, ["--fragments-per-provider=2"]),
]


@shows("FRG-5")
def test_copies_serve_and_repair_without_decoding(stage: Stage):
    """2-of-4 in copies: whichever provider is dead, all is readable; what one has lost is copied
    from the one that has the same, half of what it takes in code; nobody has a complete copy."""
    volume = _filled(stage, "copies")
    wholes = {name: (volume.folder / name).read_bytes() for name in os.listdir(volume.folder)}
    why = volume.explained("why", volume.folder / "large")
    stage.tell(f"why: any {why['any']} of 4 providers may fail, {why['lost']} stripes lost")
    assert (why["any"], why["at_risk"], why["lost"]) == (1, 0, 0)
    assert "each in 2 copies" in volume.aggfs("status", volume.name)
    for victim in volume.places:
        volume.evict()
        victim.fail()
        try:
            longest = max(
                _timed(lambda name=name: _assert_reads(volume.folder / name, wholes[name]))
                for name in wholes
            )
        finally:
            victim.heal()
        stage.tell(f"{victim.name} dead: {len(wholes)} files as written, cold, {longest:.1f} s")
        assert longest < READ_SECONDS
    volume.wait_until(lambda now: all(a["healthy"] for a in now["accounts"]), "all answer")
    volume.wait_until_quiet()
    assert volume.audit()["complete"] == []
    taken = _repaired(stage, volume)
    other = _filled(stage, "parity")
    assert _repaired(stage, other) == 2 * taken == 2
    copy = stage.recovered(volume, "elsewhere", volume.places[1:])
    assert {name: (copy.folder / name).read_bytes() for name in wholes} == wholes


def _filled(stage: Stage, code: str) -> LiveVolume:
    places = [*stage.buckets(2), *stage.directories(2)]
    volume = stage.volume(places, f"--code={code}", k=2, n=4)
    write_noise(volume.folder / "large", 9 * MIB)
    for number in range(10):
        write_noise(volume.folder / f"small{number}", 5000, number)
    volume.flush()
    volume.wait_until_quiet()
    return volume


def _repaired(stage: Stage, volume: LiveVolume) -> int:
    """One account loses its fragments of a file; how many objects are read for each that comes
    back, the same bytes under the same name."""
    where = volume.explained("where", volume.folder / "large")
    victim = volume.places[0]
    keys = {
        fragment["key"]
        for run in where["blocks"]
        for fragment in run["fragments"]
        if fragment["account"] == victim.name
    }
    before = {key: victim.read(key) for key in keys}
    for key in keys:
        victim.delete(key)
    gets, received = volume.asked().get("get", 0), volume.received_bytes()
    volume.aggfs("scrub", volume.name, "--repair")
    gets, received = volume.asked().get("get", 0) - gets, volume.received_bytes() - received
    assert {key: victim.read(key) for key in keys} == before
    size = sum(map(len, before.values()))
    code = volume.status()["code"]
    stage.tell(
        f"2-of-4, {code}: {len(keys)} lost fragments of {size} bytes made again of {gets}"
        f" others, {received} bytes"
    )
    assert received == size * gets // len(keys)
    return gets // len(keys)


@shows("FRG-5")
def test_copies_that_would_not_be_safe_are_refused(stage: Stage):
    """Refused at init with one line: no whole copies, or two that one provider could hold."""
    for k, n, providers, options in REFUSED_COPIES:
        _assert_refused(stage, k, n, providers, ["--code=copies", *options])


# --- refusals and edges ---------------------------------------------------------------------------


COMPLETE = [  # k, n, providers, options: each would let a provider rebuild, or loses no provider
    (1, 3, 3, []),
    (2, 2, 2, []),
    (2, 3, 2, []),
    (3, 5, 4, []),
    (2, 3, 3, ["--fragments-per-provider=2"]),
]


@shows("FRG-10")
def test_a_volume_that_would_give_a_complete_copy_is_refused(stage: Stage):
    """Refused at init with one line, and nothing is written anywhere."""
    for k, n, providers, options in COMPLETE:
        _assert_refused(stage, k, n, providers, options)


def _assert_refused(stage: Stage, k: int, n: int, providers: int, options: list[str]) -> None:
    places = stage.directories(providers)
    home = stage.unmounted(places).home
    specs = [f"--account={place.spec()}" for place in places]
    arguments = ["init", "refused", *specs, f"--k={k}", f"--n={n}", *options]
    refused = home.aggfs(*arguments, code=exits.BAD_CONFIG)
    stage.tell(f"k={k} n={n}, {providers} providers: {refused.err.strip()}")
    assert refused.err.count("\n") == 1
    assert [place.sizes() for place in places] == [{}] * providers


@shows("FRG-10")
def test_a_complete_copy_that_was_allowed_is_shown_for_ever(stage: Stage):
    """status says it after a remount, and on a machine that recovered the volume."""
    volume = stage.volume(stage.directories(2), "--allow-complete-copy", k=1, n=2)
    write_noise(volume.folder / "f", MIB)
    volume.flush()
    volume.umount()
    volume.mount()
    other = stage.recovered(volume, "other")
    for one in (volume, other):
        warnings = one.status()["warnings"]
        stage.tell(f"{one.name}: {warnings[0]}")
        assert any("complete copy" in warning for warning in warnings)


@shows("FRG-11")
def test_files_of_every_edge_size_come_back(stage: Stage):
    """0, 1, k-1, k, around a block and a stripe, sparse, and 300 tiny files; cold, remounted."""
    volume = stage.volume(k=3, n=5)
    sizes = {0, 1, 2, 3, 1023, 1024, 1025, BLOCK - 1, BLOCK, BLOCK + 1}
    sizes |= {16 * BLOCK - 1, 16 * BLOCK, 16 * BLOCK + 1}
    for size in sizes:
        write_noise(volume.folder / f"size{size}", size, size)
    _write_sparse(volume.folder / "sparse")
    (volume.folder / "tiny").mkdir()
    for number in range(300):
        write_noise(volume.folder / "tiny" / str(number), number % 7, number)
    before = tree_of(volume.folder)
    volume.flush()
    volume.wait_until_quiet()
    volume.evict()
    assert tree_of(volume.folder) == before
    volume.umount()
    volume.mount()
    assert tree_of(volume.folder) == before
    assert os.stat(volume.folder / "sparse").st_blocks * 512 < 4 * BLOCK
    objects = sum(len(place.sizes()) for place in volume.places)
    stage.tell(f"{len(before)} files and folders, {objects} objects: all as written, cold")


def _write_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.seek(20 * MIB + 17)
        file.write(b"an island")
        file.truncate(40 * MIB)


# --- small steps ----------------------------------------------------------------------------------


def _timed(act) -> float:
    began = time.monotonic()
    act()
    return time.monotonic() - began


def _assert_reads(path: Path, data: bytes) -> None:
    assert path.read_bytes() == data, f"{path.name} is not what was written"


def _assert_unreadable(path: Path) -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        path.read_bytes()


def _fail(places: list[Place]) -> None:
    for place in places:
        place.fail()


def _heal(places: list[Place]) -> None:
    for place in places:
        place.heal()
