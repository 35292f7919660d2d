"""What is particular to directories: parts, foreign files, disks that come and go."""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aggfs.errors import AlreadyThere, NotFound, QuotaFull, Refused, Unreachable
from aggfs.stores.directory import DirectoryStore, _meaning
from aggfs.stores.folder import (
    STALE_SECONDS,
    Folder,
    numbers_inodes_anew,
    rename_exclusively,
)
from aggfs.stores.threaded import Loan, LoanEnded

REPOSITORY = Path(__file__).parents[2]
PART = ".aggfs-0123456789abcdef.part"


def files_below(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def keys_of(store):
    return [each.key for each in (await store.list_page("", "")).objects]


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "account"
    root.mkdir()
    return root


@pytest.fixture
def store(root):
    return DirectoryStore(str(root))


# --- parts ------------------------------------------------------------------------------------


async def test_nothing_but_the_object_is_left_after_put_and_create(store, root):
    await store.put("ab/key", [b"x"])
    await store.create("ab/new", [b"y"])
    with pytest.raises(AlreadyThere):
        await store.create("ab/new", [b"z"])
    assert files_below(root) == ["ab/key", "ab/new"]


async def test_a_part_is_never_listed_and_has_no_key(store, root):
    await store.put("ab/key", [b"x"])
    (root / "ab" / PART).write_bytes(b"half")
    assert await keys_of(store) == ["ab/key"]
    for attempt in (store.get(f"ab/{PART}"), store.delete(f"ab/{PART}")):
        with pytest.raises(Refused):
            await attempt


async def test_stale_parts_are_removed_and_fresh_ones_and_foreign_files_stay(root):
    directory = root / "ab"
    directory.mkdir()
    long_ago = time.time() - STALE_SECONDS - 60
    for name in (PART, "foreign.part", ".aggfs-notes"):
        (directory / name).write_bytes(b"x")
        os.utime(directory / name, (long_ago, long_ago))
    fresh = directory / ".aggfs-fedcba9876543210.part"
    fresh.write_bytes(b"x")
    await DirectoryStore(str(root)).put("ab/key", [b"x"])
    assert files_below(directory) == sorted([fresh.name, ".aggfs-notes", "foreign.part", "key"])


def test_a_loan_that_ended_half_way_leaves_no_file(root):
    loan = Loan([b"bytes that may be wrong by now"])
    loan.end()
    folder = Folder(str(root))
    with pytest.raises(LoanEnded):
        folder.replace(folder.path("ab/key"), loan)
    with pytest.raises(LoanEnded):
        folder.add(folder.path("ab/key"), loan)
    assert files_below(root) == []


def test_a_writer_killed_at_any_moment_leaves_whole_objects_only(root):
    """Objects appear whole; what else is left is a part that no listing shows."""
    program = (
        "import sys\n"
        "from aggfs.stores.folder import Folder\n"
        "from aggfs.stores.threaded import Loan\n"
        "folder = Folder(sys.argv[1])\n"
        "while True:\n"
        "    for n in range(50):\n"
        "        folder.replace(folder.path(f'ab/{n}'), Loan([bytes([n]) * 300_000]))\n"
        "        print('stored', flush=True)\n"
    )
    for round_number in range(5):
        command = [sys.executable, "-c", program, str(root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as writer:
            for _ in range(1 + round_number * 7):  # it tells after each object
                assert writer.stdout.readline() == b"stored\n"
            writer.kill()
        for each in Folder(str(root)).scan("", ""):
            number = int(each.key.removeprefix("ab/"))
            assert (root / each.key).read_bytes() == bytes([number]) * 300_000


# --- without hard links -----------------------------------------------------------------------


def test_where_hard_links_are_unknown_an_exclusive_rename_does_the_same(root):
    (root / "part").write_bytes(b"new")
    rename_exclusively(str(root / "part"), str(root / "key"))
    assert files_below(root) == ["key"]
    (root / "part").write_bytes(b"newer")
    with pytest.raises(FileExistsError):
        rename_exclusively(str(root / "part"), str(root / "key"))
    assert (root / "key").read_bytes() == b"new"


# --- foreign files ----------------------------------------------------------------------------


async def test_foreign_files_are_listed_and_stay_as_they_are(store, root):
    (root / "photos" / "2024").mkdir(parents=True)
    (root / "photos" / "2024" / "a.jpg").write_bytes(b"jpeg")
    (root / "empty").mkdir()
    (root / "link").symlink_to("/")
    os.mkfifo(root / "fifo")
    await store.put("ab/key", [b"x"])
    await store.delete("ab/key")
    assert await keys_of(store) == ["photos/2024/a.jpg"]
    assert (root / "empty").is_dir()
    assert (root / "link").is_symlink()
    assert (root / "photos" / "2024" / "a.jpg").read_bytes() == b"jpeg"


async def test_what_is_no_plain_file_is_refused_at_once(store, root):
    os.mkfifo(root / "fifo")
    (root / "directory").mkdir()
    for key in ("fifo", "directory"):
        with pytest.raises(Refused):
            await store.get(key)
    with pytest.raises(Refused):
        await store.delete("directory")
    with pytest.raises(NotFound):
        await store.get("fifo/below")


async def test_names_that_are_no_text_can_be_listed_and_read(store, root):
    with open(os.fsencode(root) + b"/\xff\xfe", "wb") as file:
        file.write(b"x")
    [key] = await keys_of(store)
    assert await store.get(key) == b"x"


async def test_files_beside_directories_of_like_names_are_in_key_order(store):
    keys = ["a", "aa!", "aa/1", "aa/1.b", "aa0", "b/c/d", "b.c", "b0"]
    for key in keys:
        await store.put(key, [b"x"])
    assert await keys_of(store) == sorted(keys)
    one_by_one = DirectoryStore(store.place.removeprefix("file://"), page_objects=1)
    listed, after = [], ""
    while after is not None:
        page = await one_by_one.list_page("", after)
        listed += [each.key for each in page.objects]
        after = page.next_after
    assert listed == sorted(keys)


@pytest.mark.parametrize("key", ["", "/", "a//b", "../x", "a/../../x", "./x", "a/.", "x\0y", "/x"])
async def test_a_key_that_is_no_path_below_the_account_is_refused(store, root, key):
    with pytest.raises(Refused):
        await store.put(key, [b"x"])
    assert files_below(root.parent) == []


# --- the directory itself ---------------------------------------------------------------------


async def test_a_directory_that_is_not_there_is_unreachable_and_never_made(tmp_path):
    store = DirectoryStore(str(tmp_path / "absent"))
    for attempt in (
        store.get("ab/key"),
        store.head("ab/key"),
        store.put("ab/key", [b"x"]),
        store.create("ab/key", [b"x"]),
        store.delete("ab/key"),
        store.list_page("", ""),
        store.space(),
    ):
        with pytest.raises(Unreachable, match="is its disk mounted"):
            await attempt
    assert not (tmp_path / "absent").exists()


@pytest.fixture
def in_memory():
    """A directory whose inode number lasts, wherever the tests run."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


async def test_an_empty_mount_point_does_not_look_like_an_empty_account(in_memory):
    root = in_memory / "account"
    root.mkdir()
    store = DirectoryStore(str(root))
    await store.put("ab/key", [b"x"])
    root.rename(root.parent / "unmounted")
    root.mkdir()
    for attempt in (
        store.get("ab/key"),
        store.put("cd/other", [b"x"]),
        store.delete("ab/key"),
        store.list_page("", ""),
    ):
        with pytest.raises(Unreachable, match="another directory is there now"):
            await attempt
    assert files_below(root) == []
    root.rmdir()
    (root.parent / "unmounted").rename(root)
    assert await store.get("ab/key") == b"x"


@pytest.mark.parametrize(
    ("kind", "anew"),
    [("overlay", True), ("vfat", True), ("fuse.sshfs", True), ("ext4", False), ("nfs4", False)],
)
def test_where_inode_numbers_do_not_last_they_tell_no_directories_apart(kind, anew):
    mountinfo = (
        "22 1 8:1 / / rw,relatime shared:1 - btrfs /dev/sda1 rw\n"
        f"36 22 0:33 / /mnt rw,noatime master:1 - {kind} source rw,overlay\n"
    )
    assert numbers_inodes_anew(os.makedev(0, 33), mountinfo) is anew
    assert not numbers_inodes_anew(os.makedev(8, 1), mountinfo)
    assert not numbers_inodes_anew(os.makedev(9, 9), mountinfo)


async def test_a_directory_that_was_emptied_and_removed_below_us_is_made_again(store, root):
    await store.put("ab/key", [b"x"])
    shutil.rmtree(root / "ab")
    await store.put("ab/key", [b"y"])
    assert await store.get("ab/key") == b"y"


async def test_deleting_the_last_object_removes_its_directory(store, root):
    await store.put("ab/key", [b"x"])
    await store.delete("ab/key")
    assert list(root.iterdir()) == []


def test_writers_and_removers_of_one_directory_do_not_fail_each_other(root):
    def churn(name):
        folder = Folder(str(root))
        for _ in range(100):
            folder.replace(folder.path(f"ab/{name}"), Loan([b"x"]))
            folder.remove(folder.path(f"ab/{name}"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
    assert files_below(root) == []


# --- what errors mean -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, QuotaFull),
        (errno.EDQUOT, QuotaFull),
        (errno.EACCES, Refused),
        (errno.EROFS, Refused),
        (errno.ENAMETOOLONG, Refused),
        (errno.EIO, Unreachable),
        (errno.ESTALE, Unreachable),
        (errno.ENOTCONN, Unreachable),
        (errno.ETIMEDOUT, Unreachable),
    ],
)
def test_an_error_of_the_system_tells_whether_to_try_again(number, kind):
    error = _meaning("file:///a/key", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert str(error).startswith("file:///a/key: ")


async def test_a_name_too_long_for_the_file_system_is_refused(store):
    with pytest.raises(Refused, match="too long"):
        await store.put("ab/" + 300 * "x", [b"x"])
