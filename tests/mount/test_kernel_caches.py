"""What changes behind the kernel is seen at once, although the kernel remembers for an hour."""

import os
from pathlib import Path

import pytest

from tests.support.mounting import ServedFolder, needs_fuse

pytestmark = needs_fuse


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
