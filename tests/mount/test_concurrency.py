"""Many programs at once: on one file, on one directory."""

import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import many
from tests.support.mounting import ServedFolder, needs_fuse, served
from tests.support.samples import write_noise
from tests.support.volumes import drop_pages

pytestmark = needs_fuse

VOLUME = "tests.support.volume_mount"
PROGRAMS = 4
MIB = 1 << 20


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ServedFolder]:
    """A real volume's mount of this test alone."""
    with served(VOLUME, tmp_path) as folder:
        yield folder
    assert folder.unexpected_log() == []


def make_cold(volume: ServedFolder, path: Path) -> None:
    """Nothing of the file is here any more."""
    volume.ask("flush")
    volume.ask("evict")
    drop_pages(path)


def test_appended_lines_of_many_programs_are_never_torn(place: Path):
    path = place / "log"
    path.touch()
    with many.at_once(many.append, *((path, number) for number in range(PROGRAMS))):
        pass
    expected = Counter(
        many.line(number, turn) for number in range(PROGRAMS) for turn in range(many.LINES)
    )
    assert Counter(path.read_bytes().splitlines(keepends=True)) == expected


@pytest.mark.parametrize("kind", many.LOCKS)
def test_a_lock_lets_one_program_in_at_a_time(place: Path, kind: str):
    path = place / "count"
    path.write_bytes(b"000000")
    with many.at_once(many.count, *[(path, kind)] * PROGRAMS):
        pass
    assert int(path.read_bytes()) == PROGRAMS * many.TURNS


@pytest.fixture
def holders() -> Iterator[ExitStack]:
    """Programs that end with the test."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", many.LOCKS)
def test_a_lock_ends_with_the_program_that_holds_it(place: Path, holders: ExitStack, kind: str):
    path = place / "f"
    path.touch()
    holder = many.holding(holders, path, kind)
    with open(path, "r+b") as file:
        with pytest.raises(BlockingIOError):
            many.LOCKS[kind](file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait(many.SECONDS)
        many.LOCKS[kind](file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("kind", many.LOCKS)
def test_locks_are_gone_with_the_daemon(tmp_path: Path, holders: ExitStack, kind: str):
    with served(VOLUME, tmp_path) as folder:
        path = Path(folder.path) / "f"
        with open(path, "wb") as file:
            os.fsync(file)
        many.holding(holders, path, kind)
        folder.process.kill()
        folder.process.wait()
    with served(VOLUME, tmp_path) as again, open(Path(again.path) / "f", "r+b") as file:
        many.LOCKS[kind](file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_stays_is_listed_once_while_programs_make_and_remove(place: Path):
    stays = {f"stays-{number:04}" for number in range(2000)}
    for name in stays:
        os.mknod(place / name, 0o600)
    with many.at_once(many.come_and_go, *((place, number) for number in range(PROGRAMS))):
        for _ in range(15):
            names = os.listdir(place)
            assert len(names) == len(set(names))
            assert stays <= set(names)
    assert set(os.listdir(place)) == stays


def test_programs_that_map_a_file_leave_each_others_bytes(volume: ServedFolder):
    path = Path(volume.path) / "mapped"
    write_noise(path, MIB)
    make_cold(volume, path)
    programs = [(path, number, PROGRAMS) for number in range(PROGRAMS)]
    with many.at_once(many.write_map, *programs):
        pass
    pattern = b"".join(b"%c" % (97 + number) * many.SLOT_BYTES for number in range(PROGRAMS))
    expected = pattern * (MIB // len(pattern))
    assert path.read_bytes() == expected
    make_cold(volume, path)
    assert path.read_bytes() == expected


def test_holes_are_filled_around_what_programs_write(volume: ServedFolder):
    path = Path(volume.path) / "cold"
    expected = bytearray(write_noise(path, 8 * MIB))
    for start in range(0, len(expected), many.PIECE_BYTES):
        letter = 97 + start // many.PIECE_BYTES % PROGRAMS
        expected[start : start + many.WRITTEN_BYTES] = bytes([letter]) * many.WRITTEN_BYTES
    make_cold(volume, path)
    programs = [(path, number, PROGRAMS) for number in range(PROGRAMS)]
    with many.at_once(many.write_pieces, *programs):
        assert len(path.read_bytes()) == 8 * MIB
    assert path.read_bytes() == expected
    make_cold(volume, path)
    assert path.read_bytes() == expected
