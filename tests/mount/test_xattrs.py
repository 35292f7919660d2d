"""Extended attributes: of users, of the system, and what aggfs says of a file."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def file(place: Path) -> Path:
    (place / "f").touch()
    return place / "f"


def test_an_attribute_is_set_read_listed_and_removed(file: Path):
    os.setxattr(file, "user.a", b"\0\xff1")
    assert os.getxattr(file, "user.a") == b"\0\xff1"
    assert os.listxattr(file) == ["user.a"]
    os.removexattr(file, "user.a")
    assert os.listxattr(file) == []
    with pytest.raises(OSError, match="No data"):
        os.getxattr(file, "user.a")
    with pytest.raises(OSError, match="No data"):
        os.removexattr(file, "user.a")


def test_create_and_replace_do_what_they_say(file: Path):
    with pytest.raises(OSError, match="No data"):
        os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(FileExistsError):
        os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"


def test_values_may_be_empty_and_long(file: Path):
    os.setxattr(file, "user.empty", b"")
    os.setxattr(file, "user.long", b"v" * 4000)
    assert os.getxattr(file, "user.empty") == b""
    assert os.getxattr(file, "user.long") == b"v" * 4000
    os.setxattr(file, "user." + "n" * 250, b"1")
    assert len(os.listxattr(file)) == 3


def test_directories_and_symlinks_take_what_the_kernel_lets_them(place: Path):
    os.setxattr(place, "user.d", b"1")
    assert os.listxattr(place) == ["user.d"]
    if os.geteuid() == 0:
        os.symlink("x", place / "l")
        os.setxattr(place / "l", "trusted.t", b"1", follow_symlinks=False)
        assert os.getxattr(place / "l", "trusted.t", follow_symlinks=False) == b"1"
        os.setxattr(place, "security.s", b"1")


def test_posix_acls_are_refused_clearly(file: Path):
    for attempt in (
        lambda: os.setxattr(file, "system.posix_acl_access", b"\2\0\0\0"),
        lambda: os.getxattr(file, "system.posix_acl_access"),
    ):
        with pytest.raises(OSError, match="not supported") as caught:
            attempt()
        assert caught.value.errno == errno.EOPNOTSUPP


def test_what_aggfs_says_is_read_only_and_not_listed(file: Path):
    assert os.getxattr(file, "user.aggfs.state") in (b"local", b"dirty", b"staged", b"full")
    assert os.listxattr(file) == []
    for attempt in (
        lambda: os.setxattr(file, "user.aggfs.state", b"stored"),
        lambda: os.removexattr(file, "user.aggfs.state"),
    ):
        with pytest.raises(PermissionError):
            attempt()
    with pytest.raises(OSError, match="No data"):
        os.getxattr(file, "user.aggfs.absent")


def test_a_copy_with_all_attributes_works(file: Path):
    os.setxattr(file, "user.a", b"1")
    shutil.copy2(file, file.with_name("g"))
    assert os.getxattr(file.with_name("g"), "user.a") == b"1"


def test_what_fsync_waits_for_is_set_and_nothing_else_of_ours(place: Path):
    file = place / "file"
    file.touch()
    os.setxattr(file, "user.aggfs.fsync", b"cloud")
    assert os.getxattr(file, "user.aggfs.fsync") == b"cloud"
    with pytest.raises(OSError, match="Invalid"):
        os.setxattr(file, "user.aggfs.fsync", b"sometimes")
    with pytest.raises(PermissionError):
        os.setxattr(file, "user.aggfs.version", b"cloud")
    assert os.getxattr(file, "user.aggfs.fsync") == b"cloud"
    file.write_bytes(b"precious" * 10_000)
    with file.open("r+b") as opened:
        os.fsync(opened.fileno())
        # "local" is all that a volume without accounts can say
        assert os.getxattr(file, "user.aggfs.state") in (b"stored", b"full", b"local")
    os.removexattr(file, "user.aggfs.fsync")
    with pytest.raises(OSError, match="No data"):
        os.getxattr(file, "user.aggfs.fsync")
