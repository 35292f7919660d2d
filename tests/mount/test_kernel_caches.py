"""What changes behind the kernel is seen at once, although the kernel remembers for an hour; what
did not change is not asked for again."""

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounting import ServedFolder, needs_fuse, served

pytestmark = needs_fuse

VOLUME = "tests.support.volume_mount"
OLD, NEW = random.Random(1).randbytes(90_000), b"the new content" * 5_000


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFolder]:
    """A real volume's mount; each test has names of its own."""
    with served(VOLUME, tmp_path_factory.mktemp("volume")) as folder:
        yield folder
    assert folder.unexpected_log() == []


def two_versions(volume: ServedFolder, name: str) -> tuple[Path, str]:
    """A file that holds NEW, and the version of it that held OLD."""
    path = Path(volume.path) / name
    path.write_bytes(OLD)
    volume.ask("flush")
    path.write_bytes(NEW)
    volume.ask("flush")
    versions: Any = volume.ask("versions", path=f"/{name}")["versions"]
    return path, next(one["version"] for one in versions if one["size"] == len(OLD))


def received_bytes(volume: ServedFolder) -> int:
    """How much came from the accounts since the start."""
    accounts: Any = volume.ask("status")["accounts"]
    return sum(account["received_bytes"] for account in accounts)


def test_content_that_changed_behind_the_kernel_is_read(folder: ServedFolder):
    path = Path(folder.path) / "f"
    path.write_bytes(b"before")
    with open(path, "rb", buffering=0) as reader:
        assert reader.read() == b"before"
        folder.ask("write behind the kernel", name="f", text="changed")
        assert os.stat(path).st_size == 7
        assert os.pread(reader.fileno(), 100, 0) == b"changed"


def test_a_name_that_moved_behind_the_kernel_is_found(folder: ServedFolder):
    top = Path(folder.path)
    (top / "old").write_bytes(b"x")
    assert not (top / "new").exists()
    folder.ask("rename behind the kernel", old="old", new="new")
    assert (top / "new").read_bytes() == b"x"
    with pytest.raises(FileNotFoundError):
        os.stat(top / "old")


def test_a_restored_content_is_seen_by_everybody_who_has_the_file_open_or_mapped(
    volume: ServedFolder,
):
    path, version = two_versions(volume, "seen")
    other = path.with_name("other name")
    os.link(path, other)
    with open(path, "rb", buffering=0) as reader:
        with mmap.mmap(reader.fileno(), len(NEW), prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == reader.read() == NEW
            before = os.stat(path)
            volume.ask("restore", path="/seen", version=version)
            assert mapped[: len(NEW)] == OLD[: len(NEW)]
        assert os.fstat(reader.fileno()).st_size == os.stat(other).st_size == len(OLD)
        assert os.stat(path).st_mtime_ns < before.st_mtime_ns, "it is that of the old content"
        assert os.pread(reader.fileno(), len(OLD) + 1, 0) == other.read_bytes() == OLD


def test_what_was_written_to_mapped_pages_is_a_version_before_another_is_restored(
    volume: ServedFolder,
):
    path, version = two_versions(volume, "mapped")
    with open(path, "r+b") as writer, mmap.mmap(writer.fileno(), len(NEW)) as mapped:
        mapped[:7] = b"in page"
        volume.ask("restore", path="/mapped", version=version)
        assert path.read_bytes() == OLD
        mapped[:7] = b"goes on"
        mapped.flush()
        assert path.read_bytes() == b"goes on" + OLD[7:]
    versions: Any = volume.ask("versions", path="/mapped")["versions"]
    edited = [one["version"] for one in versions if one["size"] == len(NEW)]
    for version in edited:
        volume.ask("restore", path="/mapped", version=version, to=f"/{version}")
    found = {path.with_name(version).read_bytes() for version in edited}
    assert found == {NEW, b"in page" + NEW[7:]}


def test_names_that_were_looked_for_in_vain_are_there_once_commands_made_them(
    volume: ServedFolder,
):
    top = Path(volume.path)
    _, version = two_versions(volume, "vain")
    (top / "tree").mkdir()
    (top / "tree" / "leaf").write_bytes(OLD)
    for name in ("as it was", "clone", "clone/leaf"):
        assert not (top / name).exists()
    links = os.stat(top).st_nlink
    volume.ask("restore", path="/vain", version=version, to="/as it was")
    volume.ask("clone", path="/tree", to="/clone")
    assert (top / "as it was").read_bytes() == (top / "clone" / "leaf").read_bytes() == OLD
    assert os.stat(top).st_nlink == links + 1


def test_what_is_undeleted_is_there_for_those_too_who_know_that_it_is_gone(volume: ServedFolder):
    top = Path(volume.path)
    (top / "d" / "e").mkdir(parents=True)
    (top / "d" / "e" / "f").write_bytes(OLD)
    volume.ask("flush")
    with open(top / "d" / "e" / "f", "rb", buffering=0) as reader:
        assert reader.read(10) == OLD[:10]
        (top / "d" / "e" / "f").unlink()
        assert os.fstat(reader.fileno()).st_nlink == 0
        assert not (top / "d" / "e" / "f").exists()
        volume.ask("undelete", path="/d/e/f")
        assert (top / "d" / "e" / "f").read_bytes() == OLD
        assert os.fstat(reader.fileno()).st_nlink == 1
        (top / "d" / "e" / "f").unlink()
    (top / "d" / "e").rmdir()
    (top / "d").rmdir()
    assert not (top / "d").exists()
    volume.ask("undelete", path="/d/e/f")
    assert (top / "d" / "e" / "f").read_bytes() == OLD
    assert "d" in os.listdir(top)


def test_pages_of_a_content_that_is_the_same_stay_whatever_becomes_of_its_local_copy(
    volume: ServedFolder,
):
    path = Path(volume.path) / "same"
    path.write_bytes(OLD)
    volume.ask("flush")
    assert path.read_bytes() == OLD
    before = received_bytes(volume)
    volume.ask("evict")
    for _ in range(2):  # each opens it anew
        assert path.read_bytes() == OLD
    assert received_bytes(volume) - before < len(OLD) // 2
    with open(path, "rb") as reader:
        os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert reader.read() == OLD
    assert received_bytes(volume) - before >= len(OLD), "so much would have come"
