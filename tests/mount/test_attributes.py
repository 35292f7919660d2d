"""Attributes, who may change them, and what changes with them."""

import os
import stat
import time
from pathlib import Path

import pytest

from aggfs.assemble.world import kernel_ns
from tests.support.mounting import needs_fuse

pytestmark = needs_fuse

SETUID_AND_SETGID = 0o6755
PLAIN = 0o755
SHARED_DIRECTORY = 0o2775
IS_ROOT = os.geteuid() == 0


def wait_for_a_tick() -> None:
    """Until what is done gets another time than what was done before."""
    before = kernel_ns()
    while kernel_ns() == before:
        pass


def permissions(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.mark.parametrize("mode", [0o000, 0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o7777])
def test_chmod_sets_every_bit(place: Path, mode: int):
    (place / "f").touch()
    os.chmod(place / "f", mode)
    assert permissions(place / "f") == mode
    os.chmod(place, 0o700)


def test_the_umask_is_applied_once(place: Path):
    before = os.umask(0o027)
    try:
        os.close(os.open(place / "f", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkdir(place / "d", 0o777)
    finally:
        os.umask(before)
    assert (permissions(place / "f"), permissions(place / "d")) == (0o640, 0o750)


def test_times_have_nanoseconds_and_reach_far(place: Path):
    (place / "f").touch()
    os.utime(place / "f", ns=(1111111111_123456789, 1222222222_987654321))
    shown = os.stat(place / "f")
    assert (shown.st_atime_ns, shown.st_mtime_ns) == (1111111111_123456789, 1222222222_987654321)
    for moment in (-86400 * 3650 * 10**9 - 1, 0, 4102444800 * 10**9, 13569465600 * 10**9 + 7):
        os.utime(place / "f", ns=(moment, moment))
        assert os.stat(place / "f").st_mtime_ns == moment


def test_chmod_moves_ctime_and_leaves_mtime(place: Path):
    (place / "f").touch()
    os.utime(place / "f", (1e9, 1e9))
    before = os.stat(place / "f").st_ctime_ns
    wait_for_a_tick()
    os.chmod(place / "f", 0o600)
    shown = os.stat(place / "f")
    assert shown.st_ctime_ns > before
    assert shown.st_mtime == 1e9


def test_what_is_done_later_never_looks_older(place: Path):
    """Whether the daemon stamps it (a write, a new name) or the kernel does (touch)."""
    path, newest = place / "f", 0
    for number in range(100):
        path.write_bytes(b"%d" % number)
        written = os.stat(path).st_mtime_ns
        os.utime(path)
        touched = os.stat(path).st_mtime_ns
        os.mkdir(place / str(number))
        made = os.stat(place / str(number)).st_mtime_ns
        assert newest <= written <= touched <= made, number
        newest = made


def test_a_write_moves_mtime_and_ctime(place: Path):
    (place / "f").touch()
    os.utime(place / "f", (1e9, 1e9))
    (place / "f").write_bytes(b"1")
    shown = os.stat(place / "f")
    assert shown.st_mtime > 1e9 + 9
    assert abs(shown.st_mtime - time.time()) < 60


def test_a_name_more_or_less_moves_the_times_of_its_directory(place: Path):
    (place / "d").mkdir()
    for change in (lambda: (place / "d" / "f").touch(), lambda: os.unlink(place / "d" / "f")):
        os.utime(place / "d", (1e9, 1e9))
        change()
        assert os.stat(place / "d").st_mtime > 1e9 + 9


def test_link_and_unlink_move_the_ctime_of_the_file(place: Path):
    (place / "f").touch()
    for change in (
        lambda: os.link(place / "f", place / "g"),
        lambda: os.unlink(place / "g"),
        lambda: os.rename(place / "f", place / "h"),
    ):
        before = os.stat(place / "h" if (place / "h").exists() else place / "f").st_ctime_ns
        wait_for_a_tick()
        change()
        after = os.stat(place / "h" if (place / "h").exists() else place / "f").st_ctime_ns
        assert after > before


def test_root_gives_files_away_and_nobody_else_does(place: Path):
    (place / "f").touch()
    os.symlink("f", place / "l")
    if not IS_ROOT:
        with pytest.raises(PermissionError):
            os.chown(place / "f", 1234, -1)
        return
    os.chown(place / "f", 1234, 5678)
    os.chown(place / "f", -1, 99)
    assert (os.stat(place / "f").st_uid, os.stat(place / "f").st_gid) == (1234, 99)
    os.lchown(place / "l", 7, 8)
    assert (os.lstat(place / "l").st_uid, os.lstat(place / "l").st_gid) == (7, 8)


def test_chown_takes_setuid_and_setgid_away(place: Path):
    (place / "f").touch()
    os.chmod(place / "f", SETUID_AND_SETGID)
    os.chown(place / "f", os.geteuid(), os.getegid())
    assert permissions(place / "f") == PLAIN


def test_a_truncation_keeps_the_mode(place: Path):
    (place / "f").write_bytes(b"1")
    os.chmod(place / "f", PLAIN)
    os.truncate(place / "f", 0)
    assert permissions(place / "f") == PLAIN


def test_a_setgid_directory_gives_its_group(place: Path):
    (place / "d").mkdir()
    if IS_ROOT:
        os.chown(place / "d", 0, 4321)
    group = os.stat(place / "d").st_gid
    os.chmod(place / "d", SHARED_DIRECTORY)
    (place / "d" / "f").touch()
    (place / "d" / "below").mkdir()
    assert os.stat(place / "d" / "f").st_gid == group
    assert os.stat(place / "d" / "below").st_gid == group
    assert permissions(place / "d" / "below") & stat.S_ISGID


def test_statvfs_is_sane(place: Path):
    shown = os.statvfs(place)
    assert shown.f_namemax == 255
    assert shown.f_bsize > 0
    assert 0 < shown.f_bavail <= shown.f_bfree <= shown.f_blocks
    assert 0 < shown.f_favail <= shown.f_files


def test_an_inode_number_is_the_same_in_stat_and_in_a_listing(place: Path):
    (place / "f").touch()
    (place / "d").mkdir()
    for entry in os.scandir(place):
        assert entry.inode() == os.stat(entry.path).st_ino
        assert entry.is_dir(follow_symlinks=False) == (entry.name == "d")
