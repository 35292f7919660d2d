"""Where a folder may be mounted, told in one line where it may not."""

import os
from pathlib import Path

import pytest

from aggfs.daemon.mountpoint import Mounted, mounted_at, parse_mountinfo, prepare
from aggfs.errors import MountRefused

LINES = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
42 27 0:39 / /home/a\040b/c\134d rw,nosuid shared:1 master:2 - fuse.aggfs aggfs:my\040volume rw
nonsense
43 27 0:40 / /mnt rw
"""


def test_mountinfo_is_read_with_its_escapes():
    mounts = parse_mountinfo(LINES)
    assert [mount.path for mount in mounts] == ["/", "/home/a b/c\\d"]
    assert mounts[1] == Mounted("/home/a b/c\\d", "0:39", "fuse.aggfs", "aggfs:my volume")


def test_the_root_is_mounted():
    assert mounted_at("/") is not None
    assert mounted_at("/absent") is None


def test_an_empty_directory_is_fine_and_comes_back_resolved(tmp_path: Path):
    (tmp_path / "real").mkdir()
    os.symlink("real", tmp_path / "link")
    assert prepare(str(tmp_path / "link")) == str((tmp_path / "real").resolve())
    assert prepare(str(tmp_path / "real") + "/") == str((tmp_path / "real").resolve())


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path):
    (tmp_path / "precious").touch()
    with pytest.raises(MountRefused, match="not empty"):
        prepare(str(tmp_path))


def test_what_is_absent_or_no_directory_is_refused(tmp_path: Path):
    with pytest.raises(MountRefused, match="does not exist"):
        prepare(str(tmp_path / "absent"))
    (tmp_path / "file").touch()
    with pytest.raises(MountRefused, match="no directory"):
        prepare(str(tmp_path / "file"))
