"""Names: finding, making, linking, moving and removing them."""

import ctypes
import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse
from tests.support.renaming import AT_FDCWD, EXCHANGE, NOREPLACE, WHITEOUT, renameat2

pytestmark = needs_fuse


def test_a_name_that_was_looked_up_in_vain_appears_when_it_is_made(place: Path):
    assert not (place / "a").exists()
    (place / "a").write_bytes(b"now")
    assert (place / "a").read_bytes() == b"now"


def test_names_are_bytes(place: Path):
    for name in (b"bad\xff\xfe", b"new\nline", "é".encode(), "e\u0301".encode(), b"...", b"-rf"):
        path = os.fsencode(place) + b"/" + name
        with open(path, "wb") as file:
            file.write(name)
        assert name in os.listdir(os.fsencode(place))
        with open(path, "rb") as file:
            assert file.read() == name


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, Path.touch, lambda p: os.symlink("x", p)])
def test_a_name_has_at_most_255_bytes(place: Path, make):
    make(place / ("n" * 255))
    assert os.listdir(place) == ["n" * 255]
    with pytest.raises(OSError, match="too long") as caught:
        make(place / ("n" * 256))
    assert caught.value.errno == errno.ENAMETOOLONG


def test_a_name_of_256_bytes_is_too_long_to_be_looked_up_or_moved_to(place: Path):
    (place / "a").touch()
    for attempt in (
        lambda: os.stat(place / ("n" * 256)),
        lambda: os.rename(place / "a", place / ("n" * 256)),
        lambda: os.link(place / "a", place / ("n" * 256)),
    ):
        with pytest.raises(OSError, match="too long"):
            attempt()


def test_a_fifo_a_socket_and_a_device_are_what_they_are(place: Path):
    os.mkfifo(place / "fifo")
    assert stat.S_ISFIFO(os.stat(place / "fifo").st_mode)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(place, os.O_PATH)  # the path may be too long for an address
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    assert stat.S_ISSOCK(os.stat(place / "socket").st_mode)
    if os.geteuid() == 0:
        os.mknod(place / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        assert os.stat(place / "device").st_rdev == os.makedev(1, 3)


def test_a_symlink_keeps_its_target_and_its_size(place: Path):
    os.symlink("nowhere", place / "dangling")
    assert os.readlink(place / "dangling") == "nowhere"
    assert os.lstat(place / "dangling").st_size == 7
    os.symlink("x" * 4000, place / "long")
    assert len(os.readlink(place / "long")) == 4000


def test_a_second_name_shows_the_same_inode_and_its_count(place: Path):
    (place / "a").write_bytes(b"1")
    os.link(place / "a", place / "b")
    assert os.stat(place / "a").st_nlink == 2
    assert os.stat(place / "a").st_ino == os.stat(place / "b").st_ino
    (place / "a").write_bytes(b"22")
    assert (place / "b").read_bytes() == b"22"
    os.unlink(place / "a")
    assert (place / "b").read_bytes() == b"22"
    assert os.stat(place / "b").st_nlink == 1


def test_a_directory_cannot_have_a_second_name(place: Path):
    (place / "d").mkdir()
    with pytest.raises(PermissionError):
        os.link(place / "d", place / "e")


def test_a_directory_counts_the_directories_in_it(place: Path):
    for index in range(5):
        (place / str(index)).mkdir()
    (place / "file").touch()
    assert os.stat(place).st_nlink == 7
    (place / "0").rmdir()
    assert os.stat(place).st_nlink == 6


def test_an_unlinked_file_lives_on_for_who_has_it_open(place: Path):
    with open(place / "f", "w+b") as file:
        file.write(b"abc" * 1000)
        file.flush()
        os.unlink(place / "f")
        file.write(b"more")
        file.flush()
        file.seek(0)
        assert file.read() == b"abc" * 1000 + b"more"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert os.listdir(place) == []
        os.close(os.dup(file.fileno()))
        file.seek(0)
        assert len(file.read()) == 3004


def test_an_unlinked_open_file_takes_attributes_and_xattrs(place: Path):
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.unlink(place / "f")
    os.fchmod(descriptor, 0o600)
    os.ftruncate(descriptor, 5)
    os.setxattr(descriptor, "user.x", b"y")
    assert os.getxattr(descriptor, "user.x") == b"y"
    assert os.fstat(descriptor).st_size == 5
    os.close(descriptor)


def test_a_removed_directory_that_is_open_is_empty_and_takes_no_names(place: Path):
    (place / "d").mkdir()
    descriptor = os.open(place / "d", os.O_RDONLY)
    (place / "d").rmdir()
    assert os.listdir(descriptor) == []
    with pytest.raises(FileNotFoundError):
        os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor)
    os.close(descriptor)


def test_only_an_empty_directory_is_removed(place: Path):
    (place / "d").mkdir()
    (place / "d" / "f").touch()
    with pytest.raises(OSError, match="not empty"):
        (place / "d").rmdir()
    (place / "d" / "f").unlink()
    (place / "d").rmdir()
    assert os.listdir(place) == []


def test_unlink_and_rmdir_refuse_the_other_kind(place: Path):
    (place / "d").mkdir()
    (place / "f").touch()
    with pytest.raises(IsADirectoryError):
        os.unlink(place / "d")
    with pytest.raises(NotADirectoryError):
        os.rmdir(place / "f")


def test_a_rename_over_an_open_file_leaves_the_old_content_to_its_reader(place: Path):
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    with open(place / "old", "rb") as reader:
        os.rename(place / "new", place / "old")
        assert reader.read() == b"old"
        assert os.fstat(reader.fileno()).st_nlink == 0
    assert (place / "old").read_bytes() == b"new"
    assert os.listdir(place) == ["old"]


def test_a_renamed_file_keeps_its_number_and_its_writer(place: Path):
    with open(place / "a", "wb") as writer:
        before = os.stat(place / "a").st_ino
        writer.write(b"1")
        writer.flush()
        os.rename(place / "a", place / "b")
        writer.write(b"2")
    assert os.stat(place / "b").st_ino == before
    assert (place / "b").read_bytes() == b"12"


def test_a_rename_onto_another_name_of_the_same_file_changes_nothing(place: Path):
    (place / "a").write_bytes(b"1")
    os.link(place / "a", place / "b")
    os.rename(place / "a", place / "b")
    assert sorted(os.listdir(place)) == ["a", "b"]
    assert os.stat(place / "a").st_nlink == 2


def test_a_directory_replaces_an_empty_one_only(place: Path):
    for name in ("a", "b", "c"):
        (place / name).mkdir()
    os.rename(place / "a", place / "b")
    (place / "b" / "f").touch()
    with pytest.raises(OSError, match="not empty"):
        os.rename(place / "c", place / "b")


def test_a_rename_does_not_mix_kinds(place: Path):
    (place / "d").mkdir()
    (place / "f").touch()
    with pytest.raises(NotADirectoryError):
        os.rename(place / "d", place / "f")
    with pytest.raises(IsADirectoryError):
        os.rename(place / "f", place / "d")


def test_a_directory_does_not_move_into_itself(place: Path):
    (place / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="Invalid argument"):
        os.rename(place / "a", place / "a" / "b" / "c")


def test_a_directory_is_renamed_with_a_file_open_in_it(place: Path):
    (place / "d").mkdir()
    with open(place / "d" / "f", "wb") as writer:
        os.rename(place / "d", place / "e")
        writer.write(b"z")
    assert (place / "e" / "f").read_bytes() == b"z"


def test_dot_dot_follows_a_move(place: Path):
    (place / "a" / "b").mkdir(parents=True)
    (place / "c").mkdir()
    os.rename(place / "a" / "b", place / "c" / "b")
    assert os.stat(place / "c" / "b" / "..").st_ino == os.stat(place / "c").st_ino


def test_noreplace_does_not_replace(place: Path):
    (place / "a").write_bytes(b"A")
    (place / "b").write_bytes(b"B")
    with pytest.raises(FileExistsError):
        renameat2(place / "a", place / "b", NOREPLACE)
    renameat2(place / "a", place / "c", NOREPLACE)
    assert (place / "c").read_bytes() == b"A"


def test_exchange_swaps_files_and_directories_at_once(place: Path):
    (place / "a").write_bytes(b"A")
    (place / "d").mkdir()
    (place / "d" / "inside").touch()
    renameat2(place / "a", place / "d", EXCHANGE)
    assert (place / "d").read_bytes() == b"A"
    assert os.listdir(place / "a") == ["inside"]
    with pytest.raises(FileNotFoundError):
        renameat2(place / "a", place / "absent", EXCHANGE)


def test_whiteout_is_refused(place: Path):
    (place / "a").touch()
    with pytest.raises(OSError, match="Invalid argument"):
        renameat2(place / "a", place / "b", WHITEOUT)
    assert os.listdir(place) == ["a"]


def test_exclusive_creation_has_one_winner(place: Path):
    os.close(os.open(place / "f", os.O_CREAT | os.O_EXCL))
    with pytest.raises(FileExistsError):
        os.open(place / "f", os.O_CREAT | os.O_EXCL)


def test_a_file_is_found_again_by_its_handle(place: Path):
    libc = ctypes.CDLL(None, use_errno=True)
    (place / "f").touch()
    handle = ctypes.create_string_buffer(136)
    handle[0:4] = (128).to_bytes(4, "little")
    mount = ctypes.c_int()
    path = os.fsencode(place / "f")
    assert libc.name_to_handle_at(AT_FDCWD, path, handle, ctypes.byref(mount), 0) == 0
