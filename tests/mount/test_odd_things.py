"""What programs do rarely: edges of files, very many names, what never reaches us."""

import ctypes
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.model import BLOCK_BYTES
from tests.mount.conftest import VOLUME
from tests.support.mounting import ServedFolder, needs_fuse, served
from tests.support.samples import noise, write_noise
from tests.support.volumes import drop_pages

pytestmark = needs_fuse

LINKS = 10_000
REALTIME_COARSE = 5  # by which the kernel stamps files
HUGE = 999_999_999_999_999
SECTOR_BYTES = 512
EDGES = sorted(
    {0, 1, 1023, 1024, 1025, 4095, 4096, 4097}
    | {blocks * BLOCK_BYTES + more for blocks in (1, 2, 3) for more in (-1, 0, 1)}
)
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE = 1, 2, 16, 8


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFolder]:
    """A real volume, mounted for this module."""
    with served(VOLUME, tmp_path_factory.mktemp("odd")) as folder:
        yield folder
    assert folder.unexpected_log() == []


def fallocate(path: Path, mode: int) -> int:
    """The errno, 0 if it went well."""
    libc = ctypes.CDLL(None, use_errno=True)
    offsets = ctypes.c_int64(0), ctypes.c_int64(4096)
    with open(path, "r+b") as file:
        failed = libc.fallocate64(file.fileno(), mode, *offsets)
    return ctypes.get_errno() if failed else 0


# --- contents -------------------------------------------------------------------------------------


def assert_all_there(top: Path) -> None:
    """Contents and sizes, and none that takes less room than its bytes: `tar --sparse` believes
    that."""
    for size in EDGES:
        path = top / str(size)
        assert path.read_bytes() == noise(size, size)
        assert path.stat().st_size == size
        assert path.stat().st_blocks * SECTOR_BYTES >= size


def test_files_of_every_edge_size_are_whole_wherever_they_are(volume: ServedFolder):
    top = Path(volume.path) / "edges"
    top.mkdir()
    for size in EDGES:
        write_noise(top / str(size), size, size)
    assert_all_there(top)
    volume.ask("flush")
    assert_all_there(top)
    volume.ask("evict")
    for path in top.iterdir():
        drop_pages(path)
    assert all(path.stat().st_blocks * SECTOR_BYTES >= int(path.name) for path in top.iterdir())
    assert_all_there(top)


@pytest.mark.parametrize("size", [BLOCK_BYTES, 2 * BLOCK_BYTES, 3 * BLOCK_BYTES])
def test_a_cut_at_every_edge_keeps_what_is_before_it(volume: ServedFolder, size: int):
    path = Path(volume.path) / f"cut{size}"
    for edge in (size - 1, size, size + 1):
        data = write_noise(path, size + 5000)
        volume.ask("flush")
        volume.ask("evict")
        drop_pages(path)
        os.truncate(path, edge)
        os.truncate(path, edge + 3)
        assert path.read_bytes() == data[:edge] + bytes(3)
        volume.ask("flush")
        volume.ask("evict")
        drop_pages(path)
        assert path.read_bytes() == data[:edge] + bytes(3)


def test_a_huge_gap_costs_no_request_and_no_object(volume: ServedFolder):
    path = Path(volume.path) / "huge"
    write_noise(path, 3 * BLOCK_BYTES)
    volume.ask("flush")
    before = objects_in_accounts(volume)
    os.truncate(path, HUGE)
    volume.ask("flush")
    with open(path, "r+b") as file:
        file.seek(HUGE // 2)
        assert file.read(10) == bytes(10)
    assert path.stat().st_size == HUGE
    assert path.stat().st_blocks * SECTOR_BYTES == 3 * BLOCK_BYTES
    os.unlink(path)
    volume.ask("flush")
    # The journal alone: what was told of the new size and of the removal.
    assert objects_in_accounts(volume) - before <= 2 * 3 * 2


def test_zeros_written_into_a_gap_fill_no_account(volume: ServedFolder):
    path = Path(volume.path) / "zeros"
    write_noise(path, BLOCK_BYTES)
    volume.ask("flush")
    before = objects_in_accounts(volume)
    with open(path, "ab") as file:
        file.write(bytes(20 * BLOCK_BYTES))
    data = path.read_bytes()
    volume.ask("flush")
    assert path.stat().st_blocks * SECTOR_BYTES == BLOCK_BYTES
    assert objects_in_accounts(volume) - before <= 2 * 3  # a segment, and what it needs: no stripe
    volume.ask("evict")
    drop_pages(path)
    assert path.read_bytes() == data


def objects_in_accounts(volume: ServedFolder) -> int:
    """How many there are."""
    accounts = Path(volume.state_directory).parent.glob("account*")
    return sum(len(files) for account in accounts for _, _, files in os.walk(account))


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE, ZERO_RANGE, COLLAPSE_RANGE])
def test_fallocate_is_refused_in_every_mode(place: Path, mode: int):
    (place / "f").write_bytes(bytes(8192))
    assert fallocate(place / "f", mode) == errno.EOPNOTSUPP


# --- names ----------------------------------------------------------------------------------------


def test_a_file_has_ten_thousand_names(volume: ServedFolder):
    top = Path(volume.path) / "names"
    top.mkdir()
    (top / "0").write_bytes(b"one content")
    for number in range(1, LINKS):
        os.link(top / "0", top / str(number))
    assert os.stat(top / "0").st_nlink == LINKS
    assert len({entry.inode() for entry in os.scandir(top)}) == 1
    assert (top / str(LINKS - 1)).read_bytes() == b"one content"
    volume.ask("flush")
    for number in range(1, LINKS):
        os.unlink(top / str(number))
    assert os.stat(top / "0").st_nlink == 1


def test_a_directory_that_is_open_goes_along_when_it_is_renamed(place: Path):
    (place / "a").mkdir()
    (place / "b").mkdir()
    (place / "full").mkdir()
    (place / "full" / "f").touch()
    descriptor = os.open(place / "a", os.O_RDONLY)
    os.rename(place / "a", place / "b")
    with pytest.raises(OSError, match="not empty"):
        os.rename(place / "b", place / "full")
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    assert os.listdir(descriptor) == os.listdir(place / "b") == ["new"]
    os.close(descriptor)


# --- times ----------------------------------------------------------------------------------------


def test_all_times_come_from_one_clock(volume: ServedFolder):
    """What is done later shows no earlier time, whoever notes it: we or the kernel."""
    place = Path(volume.path)
    (place / "f").touch()
    steps = [
        lambda: (place / "f").write_bytes(b"content"),
        lambda: os.utime(place / "f"),
        lambda: os.chmod(place / "f", 0o600),
        lambda: os.setxattr(place / "f", "user.a", b"1"),
        lambda: os.link(place / "f", place / "g"),
        lambda: os.truncate(place / "f", 3),
        lambda: os.unlink(place / "g"),
    ]
    latest = time.clock_gettime_ns(REALTIME_COARSE)
    for step in steps * 20:
        step()
        status = os.stat(place / "f")
        assert status.st_ctime_ns >= latest
        assert status.st_mtime_ns <= status.st_ctime_ns
        latest = status.st_ctime_ns
    assert latest <= time.time_ns()
