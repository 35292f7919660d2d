"""OBF: nothing that lies in an account tells what it is."""

import json
import shutil
import subprocess
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.formats.fragment import Suite
from aggfs.formats.sizes import FRAGMENT_HEADER_BYTES, size_class
from aggfs.model import Layout
from tests.support.mounting import needs_fuse
from tests.support.places import Place
from tests.support.samples import corpus, noise, tree_of, write_noise
from tests.support.stage import MIB, Stage, shows
from tests.support.stripes import fragments_of, keys_of_test_volume, sealed_stripe
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse
HEADER_BYTES = 512
RUN_BYTES = 4
# `file` takes 1 in 500 random files for something, whatever their first byte.
CHANCE = 3
FIRST_SECONDS = 20


def _types(paths: list[Path]) -> list[str]:
    """What `file` says of each."""
    if not shutil.which("file"):
        raise AssertionError("the program `file` is needed: apt-get install file")
    done = subprocess.run(
        ["file", "--brief", "--files-from", "-"],
        input="\n".join(map(str, paths)).encode(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.decode(errors="replace").splitlines()


def _objects(stage: Stage, places: list[Place], name: str) -> list[Path]:
    """Every stored object as a file."""
    directory = stage.path / name
    directory.mkdir()
    found = []
    for place in places:
        for key in place.sizes():
            path = directory / f"{place.name}-{key.replace('/', '-')}"
            path.write_bytes(place.read(key))
            found.append(path)
    return found


def _assert_data(stage: Stage, paths: list[Path], what: str) -> None:
    said = Counter(_types(paths))
    other = {kind: count for kind, count in said.items() if kind != "data"}
    stage.tell(f"{what}: `file` says data for {said['data']} of {len(paths)}; other: {other}")
    assert sum(other.values()) <= CHANCE
    for kind in other:
        known = (
            "PNG",
            "JPEG",
            "PDF",
            "Zip",
            "Audio",
            "SQLite",
            "Word",
            "ELF",
            "OpenPGP",
            "ASCII",
            "Unicode text",
            "ISO-8859",
        )
        assert not any(word in kind for word in known)


@shows("OBF-1")
def test_file_says_data_for_every_stored_object(stage: Stage):
    """png, jpg, pdf, zip, mp3, sqlite, docx, elf stored: the type of no object shows."""
    volume = stage.volume(k=2, n=3)
    corpus(volume.folder / "corpus")
    originals = sorted((volume.folder / "corpus").iterdir())
    for path, kind in zip(originals, _types(originals), strict=True):
        stage.tell(f"stored: {path.name}: {kind[:60]}")
        assert kind != "data"
        volume.flush(path)  # a stripe for each
    volume.flush()
    volume.wait_until_quiet()
    _assert_data(stage, _objects(stage, volume.places, "objects"), "all accounts")


@shows("OBF-1")
def test_unencrypted_fragments_show_no_type_and_no_run_of_a_header(stage: Stage):
    """The test profile without cipher, layout interleave: no 4 bytes of a header together."""
    keys = keys_of_test_volume(suite=Suite.NONE)
    directory = stage.path / "plain"
    names = sorted(corpus(directory))
    paths = []
    for k, n in ((2, 3), (3, 5)):
        for name in names:
            data = (directory / name).read_bytes()[: 256 * 1024]
            sid = noise(24, (name, k))
            for index, fragment in _unencrypted(keys, sid, data, k, n).items():
                path = stage.path / f"{k}-{index}-{name}.fragment"
                path.write_bytes(fragment)
                paths.append(path)
            longest = _longest_run(keys, sid, k, n)
            assert longest < RUN_BYTES
    _assert_data(stage, paths, "without cipher")
    stage.tell(f"no run of {RUN_BYTES} bytes of a first {HEADER_BYTES} in any of {len(paths)}")


def _unencrypted(keys: VolumeKeys, sid: bytes, data: bytes, k: int, n: int) -> dict[int, bytes]:
    sealed = sealed_stripe(keys, [data], sid=sid)
    return fragments_of(keys, sealed, k=k, n=n, layout=Layout.INTERLEAVE)


def _longest_run(keys: VolumeKeys, sid: bytes, k: int, n: int) -> int:
    """How many bytes of a header follow each other in a fragment as they do in the file: two
    blocks whose bytes are the halves of their own places are laid out alike, and tell."""
    low = bytes(place % 256 for place in range(HEADER_BYTES))
    high = bytes(place // 256 for place in range(HEADER_BYTES))
    rest = bytes([255]) * (8192 - HEADER_BYTES)
    lows = _unencrypted(keys, sid, low + rest, k, n)
    highs = _unencrypted(keys, sid, high + rest, k, n)
    longest = 0
    for index in range(k):  # the others are sums of these
        places = [256 * a + b for a, b in zip(highs[index], lows[index], strict=True)]
        length = 1
        for before, after in pairwise(places[FRAGMENT_HEADER_BYTES:]):
            length = length + 1 if after == before + 1 < HEADER_BYTES else 1
            longest = max(longest, length)
    return longest


@shows("OBF-2")
def test_the_same_content_twice_gives_unrelated_fragments(stage: Stage):
    """Two files and two versions with one content: no 16 bytes in common, in no common order."""
    volume = stage.volume(k=2, n=4)
    data = noise(3 * MIB)
    names = ["one", "two", "two"]
    stripes = []
    for name in names:
        (volume.folder / name).write_bytes(b"")
        (volume.folder / name).write_bytes(data)
        volume.flush()
        run = volume.explained("where", volume.folder / name)["blocks"][0]
        stripes.append(run)
    volume.wait_until_quiet()
    assert len({run["sid"] for run in stripes}) == 3
    pieces: dict[bytes, int] = {}
    for number, run in enumerate(stripes):
        for fragment in run["fragments"]:
            found = volume.place(fragment["account"]).read(fragment["key"])
            for at in range(0, len(found) - 15, 16):
                earlier = pieces.setdefault(found[at : at + 16], number)
                assert earlier == number, "two stripes share 16 bytes"
    orders = {tuple(f["account"] for f in run["fragments"]) for run in stripes}
    keys = {fragment["key"] for run in stripes for fragment in run["fragments"]}
    stage.tell(f"3 stripes of equal content: {len(pieces)} pieces of 16 bytes, none in common")
    stage.tell(f"{len(keys)} names for {4 * 3} fragments; {len(orders)} orders of accounts")
    assert len(keys) == 12
    _assert_orders_vary(volume)


def _assert_orders_vary(volume: LiveVolume) -> None:
    write_noise(volume.folder / "long", 40 * MIB)
    volume.flush()
    runs = volume.explained("where", volume.folder / "long")["blocks"]
    orders = {tuple(fragment["account"] for fragment in run["fragments"]) for run in runs}
    assert len(orders) > len(runs) // 2


@shows("OBF-3")
def test_names_sizes_and_headers_of_objects_tell_nothing(stage: Stage):
    """Opaque names that differ per account, one content type, no metadata, few sizes; packing."""
    places = stage.buckets(3)
    volume = stage.volume(places, k=2, n=3)
    (volume.folder / "many").mkdir()
    for number in range(300):
        write_noise(volume.folder / "many" / f"letter{number}.txt", 4096, number)
    volume.flush()
    write_noise(volume.folder / "film.mp4", 9 * MIB)
    volume.flush()
    volume.wait_until_quiet()
    sizes: set[int] = set()
    names: list[str] = []
    heads = set()
    for place in places:
        for key, size in place.sizes().items():
            head = place.head(key)
            heads.add((head["ContentType"], json.dumps(head["Metadata"]), head.get("CacheControl")))
            names.append(key)
            sizes.add(size)
            assert size_class(size) == size
    stage.tell(f"{len(names)} objects of 300 small files and a large one, {len(sizes)} sizes")
    stage.tell(f"content type, metadata, cache control of all of them: {heads}")
    assert len(heads) == 1
    assert heads.pop()[1] == "{}"
    assert len(set(names)) == len(names)
    assert {(len(name), name[2]) for name in names} == {(41, "/")}
    assert set("".join(names)) <= set("0123456789abcdef/")
    assert len(names) < 60


@shows("OBF-4")
def test_metadata_obeys_the_same_rules_as_data(stage: Stage):
    """A tree of nothing but names: no name in any account, `file` says data, no complete copy."""
    volume = stage.volume(k=2, n=3)
    for number in range(200):
        directory = volume.folder / f"department-{number % 20}" / f"project-orion-{number}"
        directory.mkdir(parents=True)
        (directory / "minutes.odt").symlink_to("../../secret-archive/minutes.odt")
    volume.flush()
    volume.wait_until_quiet()
    paths = _objects(stage, volume.places, "objects")
    texts = [b"department", b"project", b"orion", b"minutes", b"odt\0", b"secret", b"archive"]
    for path in paths:
        stolen = path.read_bytes()
        assert [text for text in texts if text in stolen] == []
    stage.tell(f"{len(paths)} objects hold 220 folders and 200 links: no name in any of them")
    _assert_data(stage, paths, "journals, heads and headers")
    answer = volume.audit()
    assert answer["complete"] == []
    assert all(provider["most_fragments"] == 1 for provider in answer["providers"])


@shows("OBF-6")
def test_everything_comes_back_from_the_accounts_and_the_words(stage: Stage):
    """All local state deleted, one account dead: recover, and the same tree, cold."""
    volume = stage.volume([*stage.buckets(1), *stage.directories(2)], k=2, n=3)
    corpus(volume.folder / "corpus")
    write_noise(volume.folder / "large", 7 * MIB)
    for number in range(50):
        write_noise(volume.folder / f"small{number}", 100 * number, number)
    (volume.folder / "link").symlink_to("large")
    before = tree_of(volume.folder)
    volume.umount()
    volume.lose_local_state()
    volume.places[0].fail()
    try:
        volume.expect_log("account")
        volume.recover(volume.words)
        volume.mount()
        assert tree_of(volume.folder) == before
        volume.umount("--now")
    finally:
        volume.places[0].heal()
    stage.tell(f"{len(before)} names and all content back from two of three accounts and words")


@shows("OBF-7")
def test_a_wrong_passphrase_fails_at_once_and_changes_nothing(stage: Stage):
    """recover with wrong secrets: exit 4 in time, every object as it was, no local trace."""
    volume = stage.volume()
    write_noise(volume.folder / "file", MIB)
    volume.umount()
    before = [{key: place.read(key) for key in place.sizes()} for place in volume.places]
    volume.lose_local_state()
    wrong = volume.home.path / "wrong"
    specs = [f"--account={place.spec()}" for place in volume.places]
    for option, text in (
        ("--passphrase-file", "not the passphrase\n"),
        ("--words-file", "abandon " * 23 + "art\n"),
    ):
        wrong.write_text(text)
        began = time.monotonic()
        arguments = ["recover", volume.name, *specs, option, wrong]
        done = volume.home.aggfs(*arguments, code=exits.WRONG_KEY)
        seconds = time.monotonic() - began
        stage.tell(f"{option}: exit {done.code} after {seconds:.1f} s: {done.err.strip()}")
        assert seconds < FIRST_SECONDS
    after = [{key: place.read(key) for key in place.sizes()} for place in volume.places]
    assert after == before
    assert not volume.state.exists()
    volume.recover(volume.words)
    volume.mount()
    assert (volume.folder / "file").read_bytes() == noise(MIB)


@shows("OBF-8")
def test_the_smallest_files_are_split_too(stage: Stage):
    """Files of 1 to k bytes: what holds them is coded like all else; k-1 accounts give nothing."""
    volume = stage.volume(k=3, n=5)
    for size in range(1, 4):
        for number in range(10):
            write_noise(volume.folder / f"{size}-{number}", size, (size, number))
    before = tree_of(volume.folder)
    volume.flush()
    volume.wait_until_quiet()
    answer = volume.audit()
    stage.tell(f"fragments of one thing at one provider: {_most(answer)} (k = 3)")
    assert _most(answer) == 1
    assert answer["complete"] == []
    volume.umount()
    volume.lose_local_state()
    specs = [f"--account={place.spec()}" for place in volume.places[:2]]
    words = volume.home.path / "words"
    words.write_text(volume.words)
    done = volume.home.aggfs("recover", volume.name, *specs, "--words-file", words, code=None)
    stage.tell(f"two of five accounts and the words: exit {done.code}: {done.err.strip()}")
    assert done.code != exits.DONE
    assert not volume.state.exists()
    volume.places = volume.places[1:4]
    volume.recover(volume.words)
    volume.mount()
    assert tree_of(volume.folder) == before
    stage.tell("three of five accounts and the words: all files of 1 to 3 bytes")
    volume.umount("--now")


def _most(answer: dict) -> int:
    return max(int(provider["most_fragments"]) for provider in answer["providers"])


def test_the_filler_of_a_short_block_reaches_every_fragment():
    keys = keys_of_test_volume()
    for size in range(1, 9):
        sealed = sealed_stripe(keys, [noise(size)])
        made = fragments_of(keys, sealed, k=4, n=6)
        start, length = codec.cell_range(sealed.sealed_bytes, 4, 0)
        cells = {fragment[start : start + length] for fragment in made.values()}
        assert len(cells) == 6
        assert all(len(cell) == length and len(set(cell)) > 8 for cell in cells)


@pytest.mark.parametrize("kind", ["png", "jpg", "pdf", "zip", "mp3", "sqlite", "docx", "elf"])
def test_the_corpus_has_every_type(tmp_path: Path, kind: str):
    corpus(tmp_path)
    (path,) = tmp_path.glob(f"*.{kind}")
    assert _types([path]) != ["data"]
