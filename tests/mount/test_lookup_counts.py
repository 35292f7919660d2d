"""What the kernel gave back is forgotten, exactly; what it still holds is kept."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from aggfs.mount.handles import KnownInodes
from tests.support.mounting import ServedFolder, needs_fuse

STEPS = ("looked_up", "opened", "unlinked")


@needs_fuse
def test_an_unlinked_file_is_dropped_when_its_last_user_leaves(folder: ServedFolder):
    top = Path(folder.path)
    before = folder.ask("inodes")
    descriptors = []
    for index in range(50):
        descriptors.append(os.open(top / str(index), os.O_RDWR | os.O_CREAT))
        os.write(descriptors[-1], b"content")
        os.unlink(top / str(index))
    assert folder.ask("inodes") == {"count": before["count"] + 50, "contents": 50}
    for descriptor in descriptors:
        assert os.pread(descriptor, 7, 0) == b"content"
        os.close(descriptor)
    assert folder.comes_to_say("inodes", before)


@needs_fuse
def test_directories_and_replaced_files_are_dropped_too(folder: ServedFolder):
    top = Path(folder.path)
    before = folder.ask("inodes")
    for _ in range(20):
        (top / "d").mkdir()
        (top / "d").rmdir()
        (top / "a").write_bytes(b"1")
        (top / "b").write_bytes(b"2")
        os.rename(top / "a", top / "b")
        os.unlink(top / "b")
    assert folder.comes_to_say("inodes", before)


@needs_fuse
def test_all_lookups_come_back(folder: ServedFolder):
    top = Path(folder.path)
    for index in range(300):
        (top / f"{index}").write_bytes(b"x")
    (top / "d").mkdir()
    for _ in range(3):
        assert len(list(os.walk(top))) == 2
        os.stat(top / "5")
    assert folder.ask("kernel")["lookups"] >= 300
    for index in range(300):
        os.unlink(top / f"{index}")
    (top / "d").rmdir()
    assert folder.comes_to_say("kernel", {"lookups": 0, "opened": 0, "faults": 0})


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(STEPS)), max_size=30), st.randoms())
def test_an_inode_is_dropped_once_nobody_holds_it_and_never_before(steps, order):
    dropped: list[int] = []
    known = KnownInodes(dropped.append)
    undo = []
    unlinked = set()
    for number, step in steps:
        if number in dropped:
            continue
        getattr(known, step)(number)
        if step == "unlinked":
            unlinked.add(number)
        else:
            undo.append((number, step))
    order.shuffle(undo)
    while undo:
        number, step = undo.pop()
        assert number not in dropped
        if step == "looked_up":
            known.forgotten(number, 1)
        else:
            known.released(number)
        held = {left for left, _ in undo}
        assert set(dropped) == unlinked - held
    assert sorted(dropped) == sorted(unlinked)
    assert (known.lookup_count, known.open_count) == (0, 0)
