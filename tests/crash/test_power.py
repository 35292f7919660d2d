"""The power goes at any moment, and any of what was not synced is lost: see tests/support/power.py
for what that may be. `scripts/drill power` does the same for longer."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import TOP
from tests.support.mounting import needs_fuse
from tests.support.power import Disk
from tests.support.powercut import Recording, images, judge, record
from tests.support.tracing import read_moments

IMAGES = 12
FORGETFUL_IMAGES = 40

pytestmark = needs_fuse


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Two programs at work for some seconds, and the trace of the daemon that served them."""
    return record(tmp_path_factory.mktemp("power"), seed=3, turns=40)


def test_what_was_acknowledged_survives_the_loss_of_power_at_any_moment(recording: Recording):
    for image in images(recording, IMAGES, seed=5):
        number = image.number
        fault = judge(recording, image, deep=number % 6 == 0, mounted=number == IMAGES // 2)
        assert not fault, f"image {number}, {image.how}: {fault}"


@pytest.mark.parametrize("forgotten", ["/files/marks$", "/files/data/", "/staging"])
def test_a_sync_that_is_left_out_is_noticed(recording: Recording, forgotten: str):
    """The images can show faults: one is found wherever a kind of sync is taken for not done."""
    found = images(recording, FORGETFUL_IMAGES, seed=7, forgotten=forgotten)
    assert any(judge(recording, image, deep=True, mounted=False) for image in found)


def test_a_database_that_was_not_synced_is_noticed(tmp_path: Path):
    """In a process of its own: what LMDB makes of half a page may end the process."""
    options = ("--images", "20", "--turns", "20", "--forgotten", "/database/")
    command = [sys.executable, "-m", "tests.support.powercut", *options]
    ended = subprocess.run(
        command,
        cwd=TOP,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode
    assert "recorded" in ended.stdout


# --- the disk that loses its power ----------------------------------------------------------------


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


class Trace:
    """Lines as strace writes them, of one thread."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.lines: list[str] = []

    def __call__(self, text: str, result: int = 0) -> None:
        """A call: 'quoted' words are strings, <these> are paths below the root, in hexadecimal."""
        for name in ("a", "b", "d"):
            path = f"{self._root}/part/{name}" if name != "d" else f"{self._root}/part"
            text = text.replace(f"<{name}>", f"<{hexed(path)}>").replace(
                f"'/{name}'", f'"{hexed(path)}"'
            )
        self.lines.append(f"7 1.{len(self.lines):09d} {text} = {result}\n")

    def write(self, text: str, offset: int, *, number: int = 3) -> None:
        data = hexed(text)
        self(f'pwrite64({number}<a>, "{data}", {len(text)}, {offset})', len(text))


def possible(trace: Trace, root: Path, count: int = 60) -> set[frozenset[tuple[str, bytes]]]:
    """The files that may be there after the trace."""
    disk = Disk(root, ["part"])
    for moment in read_moments(trace.lines):
        disk.see(moment)
    found = set()
    for seed in range(count):
        target = root / f"image{seed}"
        target.mkdir()
        disk.write_image(target, random.Random(seed), lambda name: False)
        files = (target / "part").iterdir()
        found.add(frozenset((path.name, path.read_bytes()) for path in files))
    return found


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    """Of calls on a part with one file."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a").write_bytes(b"old")
    return Trace(tmp_path)


def test_a_write_is_lost_or_not_until_its_file_was_synced(trace: Trace, tmp_path: Path):
    trace.write("new", 0)
    assert possible(trace, tmp_path) == {frozenset({("a", b"old")}), frozenset({("a", b"new")})}


def test_a_synced_write_is_there(trace: Trace, tmp_path: Path):
    trace.write("new", 0)
    trace("fdatasync(3<a>)")
    assert possible(trace, tmp_path) == {frozenset({("a", b"new")})}


def test_a_sync_that_began_before_a_write_ended_does_not_cover_it(trace: Trace, tmp_path: Path):
    path = hexed(f"{tmp_path}/part/a")
    trace.lines.append(f"8 1.000000000 fdatasync(3<{path}> <unfinished ...>\n")
    trace.write("new", 0)
    trace.lines.append("8 1.000000009 <... fdatasync resumed>) = 0\n")
    assert frozenset({("a", b"old")}) in possible(trace, tmp_path)


def test_a_write_through_a_synchronous_descriptor_is_there(trace: Trace, tmp_path: Path):
    trace("openat(AT_FDCWD<d>, '/a', O_WRONLY|O_DSYNC)", 5)
    trace.write("new", 0, number=5)
    assert possible(trace, tmp_path) == {frozenset({("a", b"new")})}


def test_a_name_is_there_for_certain_only_when_its_directory_was_synced(
    trace: Trace, tmp_path: Path
):
    trace("rename('/a', '/b')")
    trace("fsync(3<b>)")
    assert possible(trace, tmp_path) == {frozenset({("a", b"old")}), frozenset({("b", b"old")})}


def test_a_synced_directory_keeps_its_names(trace: Trace, tmp_path: Path):
    trace("rename('/a', '/b')")
    trace("fsync(4<d>)")
    assert possible(trace, tmp_path) == {frozenset({("b", b"old")})}
