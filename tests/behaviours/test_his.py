"""HIS: what was there before: versions, the trash, views of a time, clones."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from aggfs.cli import exits
from tests.support.mounting import needs_fuse
from tests.support.samples import noise
from tests.support.stage import MIB, Stage, shows
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse


@shows("HIS-1")
def test_an_old_version_of_a_file_comes_back(stage: Stage):
    """A file is overwritten by mistake: `versions` lists what it held, `restore` brings it back."""
    volume = stage.volume()
    path = volume.folder / "letter"
    first, second = noise(3 * MIB), noise(MIB)[::-1]
    path.write_bytes(first)
    volume.flush(path)
    path.write_bytes(second)
    volume.flush(path)
    listed = volume.aggfs("versions", path)
    stage.tell(listed)
    told = json.loads(volume.aggfs("versions", path, "--json"))["versions"]
    assert [one["size"] for one in told] == [len(second), len(first)]
    sent = sum(one["sent_bytes"] for one in volume.status()["accounts"])
    with path.open("rb") as reader:  # has pages of it in the kernel's memory
        assert reader.read() == second
        stage.tell(volume.aggfs("restore", path, "--version", told[1]["version"][:8]))
        reader.seek(0)
        assert reader.read() == first
    assert path.read_bytes() == first
    assert os.stat(path).st_size == len(first)
    volume.aggfs("restore", path, "--at", told[0]["time"], "--to", volume.folder / "second")
    assert (volume.folder / "second").read_bytes() == second
    volume.flush()
    moved = sum(one["sent_bytes"] for one in volume.status()["accounts"]) - sent
    stage.tell(f"two restores of {len(first) + len(second)} bytes sent {moved} bytes")
    assert moved < MIB
    assert len(json.loads(volume.aggfs("versions", path, "--json"))["versions"]) == 3


@shows("HIS-2")
def test_what_was_removed_comes_back_from_the_trash(stage: Stage):
    """`rm` and `rm -rf` by mistake: `trash` lists it, `df` counts it as free, `undelete` brings
    it back."""
    volume = stage.volume([*stage.directories(3, quota="64MiB")])
    folder = volume.folder
    tree = folder / "project"
    (tree / "deep").mkdir(parents=True)
    held = {tree / "notes": noise(5 * MIB), tree / "deep" / "figures": noise(MIB)[::-1]}
    for path, data in held.items():
        path.write_bytes(data)
    (folder / "letter").write_bytes(b"dear ")
    volume.flush()
    volume.wait_until_quiet()
    volume.wait_until(lambda now: now["used_bytes"] > 6 * MIB, "df counts what is stored")
    (folder / "letter").unlink()
    subprocess.run(["rm", "-rf", tree], check=True, timeout=60)
    (folder / "temporary").write_bytes(noise(MIB))
    (folder / "temporary").unlink()
    stage.tell(volume.aggfs("trash", "--volume", volume.name))
    told = json.loads(volume.aggfs("trash", "--volume", volume.name, "--json"))["entries"]
    places = {"/letter", "/project", "/project/deep", "/project/deep/figures", "/project/notes"}
    assert {one["path"] for one in told} == places
    volume.wait_until(lambda now: now["used_bytes"] < MIB, "df counts the trash as free")
    usage = os.statvfs(folder)
    assert (usage.f_blocks - usage.f_bfree) * usage.f_frsize < MIB
    stage.tell(volume.aggfs("undelete", folder / "letter"))
    assert (folder / "letter").read_bytes() == b"dear "
    stage.tell(volume.aggfs("undelete", tree))
    volume.evict()
    assert {path: path.read_bytes() for path in held} == held
    tree.joinpath("notes").unlink()
    volume.aggfs("undelete", tree / "notes", "--to", folder / "notes again")
    assert (folder / "notes again").read_bytes() == held[tree / "notes"]
    (folder / "notes again").unlink()
    stage.tell(volume.aggfs("trash", "empty", "--yes", "--volume", volume.name))
    volume.aggfs("undelete", folder / "notes again", code=exits.NO_ENTRY)


@shows("HIS-3")
def test_the_whole_folder_is_seen_as_it_was_at_a_time(stage: Stage):
    """`/.aggfs/at/TIME` shows every name and content of then, whatever was changed, moved and
    removed since, and on a recovered machine too; nothing in it can be changed."""
    volume = stage.volume()
    folder, kept = volume.folder, stage.path / "kept"
    (folder / "docs" / "deep").mkdir(parents=True)
    (folder / "docs" / "letter").write_bytes(noise(2 * MIB))
    (folder / "docs" / "deep" / "note").write_bytes(b"short")
    (folder / "docs" / "link").symlink_to("letter")
    (folder / "photo").write_bytes(noise(MIB)[::-1])
    volume.flush()
    subprocess.run(["cp", "-a", f"{folder}/.", kept], check=True, timeout=60)
    then = folder / ".aggfs" / "at" / f"@{time.time():.3f}"
    (folder / "docs" / "letter").write_bytes(b"overwritten")
    (folder / "docs").rename(folder / "papers")
    (folder / "photo").unlink()
    (folder / "new").write_bytes(b"not there then")
    volume.flush()
    subprocess.run(["diff", "-r", "--no-dereference", kept, then], check=True, timeout=60)
    for name in ("docs/letter", "docs/deep/note", "photo"):
        assert (then / name).stat().st_mtime_ns == (kept / name).stat().st_mtime_ns
        assert (then / name).stat().st_mode == (kept / name).stat().st_mode
    stage.tell(f"{then} is what was copied away at that time")
    assert ".aggfs" not in os.listdir(folder)
    refused = os.strerror(errno.EROFS)
    for change in (
        lambda: (then / "photo").write_bytes(b"x"),
        lambda: (then / "photo").unlink(),
        lambda: (then / "docs").rename(then / "else"),
        lambda: (then / "made").mkdir(),
        lambda: os.utime(then / "photo"),
        lambda: (folder / "new").rename(then / "new"),
    ):
        with pytest.raises(OSError, match=refused):
            change()
    stage.tell(f"every change in it: {refused}")
    shutil.copytree(then / "docs", folder / "docs", symlinks=True)
    assert (folder / "docs" / "letter").read_bytes() == (kept / "docs" / "letter").read_bytes()
    volume.umount()
    recovered = stage.recovered(volume, "second")
    again = recovered.folder / ".aggfs" / "at" / then.name
    subprocess.run(["diff", "-r", "--no-dereference", kept, again], check=True, timeout=60)
    stage.tell("and so it is on a machine that had nothing but the accounts and the words")
    hours = os.listdir(recovered.folder / ".aggfs" / "at")
    assert sorted(hours) == hours
    assert len(hours) >= 50


@shows("HIS-4")
def test_a_tree_is_cloned_without_moving_data(stage: Stage):
    """`clone` of a tree of 24 MiB sends no data; a write to either is not seen in the other; a
    kill in the middle leaves nothing half."""
    volume = stage.volume()
    volume.expect_log("")  # killed below
    folder = volume.folder
    (folder / "work" / "deep").mkdir(parents=True)
    for number in range(3):
        (folder / "work" / "deep" / f"part{number}").write_bytes(noise(8 * MIB + number))
    for number in range(200):
        (folder / "work" / f"small{number}").write_bytes(b"%d" % number)
    volume.flush()
    (folder / "missing").exists()  # the kernel remembers that it is not there
    sent = sum(one["sent_bytes"] for one in volume.status()["accounts"])
    stage.tell(volume.aggfs("clone", folder / "work", folder / "missing"))
    volume.flush()
    moved = sum(one["sent_bytes"] for one in volume.status()["accounts"]) - sent
    stage.tell(f"it sent {moved} bytes")
    assert moved < MIB
    compare = ["diff", "-r", folder / "work", folder / "missing"]
    subprocess.run(compare, check=True, timeout=60)
    with (folder / "missing" / "deep" / "part1").open("r+b") as file:
        file.seek(MIB)
        file.write(b"only in the clone")
    assert (folder / "work" / "deep" / "part1").read_bytes() == noise(8 * MIB + 1)
    volume.flush()
    volume.evict()
    assert (folder / "work" / "deep" / "part1").read_bytes() == noise(8 * MIB + 1)
    assert b"only in the clone" in (folder / "missing" / "deep" / "part1").read_bytes()
    for number in range(3):
        _clone_and_kill(volume, f"killed{number}")
        there = os.listdir(folder)
        stage.tell(f"killed while cloning: {sorted(there)}")
        assert set(there) - {"work", "missing"} <= {f"killed{number}"}
        if len(there) == 3:
            same = ["diff", "-r", folder / "work", folder / f"killed{number}"]
            subprocess.run(same, check=True, timeout=60)
            shutil.rmtree(folder / f"killed{number}")
            _sync(folder)  # else the next kill may bring it back


def _sync(folder: Path) -> None:
    """The names below it survive a kill from now on."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clone_and_kill(volume: LiveVolume, name: str) -> None:
    """Begin to clone, kill the daemon as soon as something of it can be seen, mount again."""
    folder = volume.folder

    def clone() -> None:
        with contextlib.suppress(AssertionError):  # it may be killed, or be faster
            volume.aggfs("clone", folder / "work", folder / name)

    worker = threading.Thread(target=clone)
    worker.start()
    while worker.is_alive() and set(os.listdir(folder)) <= {"work", "missing"}:
        pass
    volume.kill()
    worker.join(60)
    assert not worker.is_alive()
    volume.mount()
