"""A real volume behind the mount: what stays when the daemon stops, is killed, or starts anew."""

import contextlib
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import ServedFolder, needs_fuse, served

pytestmark = needs_fuse

VOLUME = "tests.support.volume_mount"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[ServedFolder]:
    """A real volume's mount of this test alone."""
    with served(VOLUME, tmp_path) as folder:
        yield folder
    assert folder.unexpected_log() == []


def replace(path: Path, data: bytes) -> None:
    """What editors do: write beside it, sync, rename over it."""
    with open(path.with_suffix(".tmp"), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path.with_suffix(".tmp"), path)


def tree_of(top: Path) -> dict[str, object]:
    """Everything that a program can see of a tree."""
    found: dict[str, object] = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(directory) / name
            shown = path.lstat()
            kept = (shown.st_mode, shown.st_uid, shown.st_nlink, shown.st_mtime_ns, shown.st_rdev)
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in _xattrs(path)}
            found[str(path.relative_to(top))] = (kept, shown.st_ino, xattrs, _content(path))
    return found


def _xattrs(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


def _content(path: Path) -> object:
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes() if path.is_file() else None


def make_one_of_each(top: Path) -> None:
    draw = random.Random(5)
    (top / "d" / "deep").mkdir(parents=True)
    (top / "d" / "empty").touch()
    (top / "d" / "small").write_bytes(b"small")
    (top / "d" / "deep" / "large").write_bytes(draw.randbytes(3_000_001))
    with open(top / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    os.link(top / "d" / "small", top / "second name")
    os.symlink("d/small", top / "link")
    os.mkfifo(top / "fifo")
    os.setxattr(top / "d" / "small", "user.colour", b"blue")
    os.chmod(top / "d" / "small", 0o640)
    os.utime(top / "d" / "empty", ns=(-1, 123456789_987654321))


@pytest.mark.parametrize("flushed", [False, True])
def test_a_remounted_volume_shows_the_same_tree(tmp_path: Path, flushed: bool):
    with served(VOLUME, tmp_path) as folder:
        make_one_of_each(Path(folder.path))
        before = tree_of(Path(folder.path))
        if flushed:
            folder.ask("flush")
        assert folder.stop() == 0
    with served(VOLUME, tmp_path) as again:
        assert tree_of(Path(again.path)) == before
        assert again.unexpected_log() == []


def test_what_was_fsynced_survives_a_kill(tmp_path: Path):
    draw = random.Random(6)
    contents = {f"f{index}": draw.randbytes(draw.randrange(1, 200_000)) for index in range(20)}
    with served(VOLUME, tmp_path) as folder:
        for name, data in contents.items():
            replace(Path(folder.path) / name, data)
        with sqlite3.connect(Path(folder.path) / "db") as database:
            database.execute("pragma journal_mode=wal")
            database.execute("pragma synchronous=full")
            database.execute("create table t (i integer)")
            database.executemany("insert into t values (?)", [(i,) for i in range(500)])
            database.commit()
        descriptor = os.open(folder.path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        folder.process.kill()
        folder.process.wait(60)
        database.close()
    with served(VOLUME, tmp_path) as again:
        for name, data in contents.items():
            assert (Path(again.path) / name).read_bytes() == data
        with sqlite3.connect(Path(again.path) / "db") as database:
            assert database.execute("pragma integrity_check").fetchone() == ("ok",)
            assert database.execute("select count(*) from t").fetchone() == (500,)
        database.close()
        assert again.unexpected_log() == []


def test_a_file_that_replaces_another_while_it_is_open_is_whole_after_a_kill(tmp_path: Path):
    old, new = b"old" * 10_000, b"newer" * 10_000
    with served(VOLUME, tmp_path) as folder:
        path = Path(folder.path) / "f"
        replace(path, old)
        directory = os.open(folder.path, os.O_RDONLY)
        writer = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT)
        os.write(writer, new)
        os.rename(path.with_suffix(".new"), path)
        os.fsync(directory)
        folder.process.kill()
        folder.process.wait(60)
        for descriptor in (writer, directory):
            with contextlib.suppress(OSError):  # there is nobody to tell
                os.close(descriptor)
    with served(VOLUME, tmp_path) as again:
        assert (Path(again.path) / "f").read_bytes() == new
        assert again.unexpected_log() == []


def test_a_file_replaced_twice_before_it_is_published_is_published_once(volume: ServedFolder):
    path = Path(volume.path) / "f"
    replace(path, b"published")
    volume.ask("flush")
    for round_ in range(20):
        replace(path, b"%d" % round_ * 1000)
    volume.ask("flush")
    assert path.read_bytes() == b"19" * 1000
    assert os.getxattr(path, "user.aggfs.state") in (b"full", b"stored")
    assert volume.process.poll() is None


def test_an_unlinked_open_file_is_gone_after_a_kill(tmp_path: Path):
    with served(VOLUME, tmp_path) as folder:
        path = Path(folder.path) / "f"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.write(descriptor, b"x" * 100_000)
        os.fsync(descriptor)
        os.unlink(path)
        os.fsync(descriptor)
        folder.process.kill()
        folder.process.wait(60)
        with pytest.raises(OSError, match=r"aborted|not connected"):
            os.fsync(descriptor)
        with pytest.raises(OSError, match=r"aborted|not connected"):
            os.close(descriptor)
    with served(VOLUME, tmp_path) as again:
        assert os.listdir(again.path) == []
        again.ask("flush")
        assert again.unexpected_log() == []
