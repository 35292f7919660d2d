"""What is written is read, through every door that the kernel has."""

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse

pytestmark = needs_fuse

MIB = 1 << 20


def test_what_is_written_is_read_back(place: Path):
    data = random.Random(1).randbytes(3 * MIB + 17)
    (place / "f").write_bytes(data)
    assert (place / "f").read_bytes() == data
    assert os.stat(place / "f").st_size == len(data)


def test_random_writes_give_what_a_bytearray_gives(place: Path):
    draw = random.Random(2)
    model = bytearray(2 * MIB)
    (place / "f").write_bytes(model)
    descriptor = os.open(place / "f", os.O_RDWR)
    for _ in range(200):
        offset = draw.randrange(2 * MIB - 70000)
        data = draw.randbytes(1) * draw.randrange(1, 70000)
        os.pwrite(descriptor, data, offset)
        model[offset : offset + len(data)] = data
    os.close(descriptor)
    assert (place / "f").read_bytes() == model


def test_appended_lines_follow_each_other(place: Path):
    descriptors = [os.open(place / "f", os.O_WRONLY | os.O_APPEND | os.O_CREAT) for _ in range(4)]
    for line in range(200):
        os.write(descriptors[line % 4], b"%04d\n" % line)
    for descriptor in descriptors:
        os.close(descriptor)
    assert (place / "f").read_bytes().split() == [b"%04d" % line for line in range(200)]


def test_a_write_is_seen_through_another_descriptor(place: Path):
    writer = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    reader = os.open(place / "f", os.O_RDONLY)
    os.pwrite(writer, b"hello", 10)
    assert os.pread(reader, 5, 10) == b"hello"
    assert os.fstat(reader).st_size == 15
    os.close(writer)
    os.close(reader)


def test_opening_with_truncation_empties_the_file(place: Path):
    (place / "f").write_bytes(b"old content")
    (place / "f").write_bytes(b"new")
    assert (place / "f").read_bytes() == b"new"
    os.close(os.open(place / "f", os.O_WRONLY | os.O_TRUNC))
    assert os.stat(place / "f").st_size == 0


def test_truncation_cuts_and_extends_with_zeros(place: Path):
    (place / "f").write_bytes(b"q" * 10000)
    os.truncate(place / "f", 5000)
    assert (place / "f").read_bytes() == b"q" * 5000
    os.truncate(place / "f", 200000)
    assert (place / "f").read_bytes() == b"q" * 5000 + bytes(195000)


def test_a_write_past_the_end_leaves_a_gap_of_zeros(place: Path):
    with open(place / "f", "wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    assert (place / "f").read_bytes() == bytes(1_000_000) + b"end"


def test_a_gap_takes_no_room_and_data_does(place: Path):
    with open(place / "f", "wb") as file:
        file.truncate(64 * MIB)
    assert os.stat(place / "f").st_blocks * 512 < MIB
    (place / "g").write_bytes(random.Random(3).randbytes(MIB))
    assert os.stat(place / "g").st_blocks * 512 >= MIB


def test_a_terabyte_of_gap_costs_nothing(place: Path):
    with open(place / "f", "wb") as file:
        file.truncate(1 << 40)
        file.seek((1 << 40) - 5)
        file.write(b"tail!")
    with open(place / "f", "rb") as file:
        file.seek((1 << 40) - 5)
        assert file.read() == b"tail!"
        file.seek(1 << 39)
        assert file.read(10) == bytes(10)
    os.truncate(place / "f", 999_999_999_999_999)
    os.unlink(place / "f")


def test_beyond_the_documented_limit_a_file_is_too_large(place: Path):
    (place / "f").touch()
    with pytest.raises(OSError, match="too large") as caught:
        os.truncate(place / "f", (1 << 50) + 1)
    assert caught.value.errno == errno.EFBIG
    with open(place / "f", "wb", buffering=0) as file:
        file.seek(1 << 50)
        with pytest.raises(OSError, match="too large"):
            file.write(b"x")


def test_mapped_pages_are_written_and_seen(place: Path):
    (place / "f").write_bytes(bytes(65536))
    with open(place / "f", "r+b", buffering=0) as file, mmap.mmap(file.fileno(), 65536) as mapped:
        mapped[5000:5005] = b"MMAPd"
        mapped.flush()
        assert os.pread(file.fileno(), 5, 5000) == b"MMAPd"
        os.pwrite(file.fileno(), b"W", 4096)
        assert mapped[4096:4097] == b"W"
    assert (place / "f").read_bytes()[5000:5005] == b"MMAPd"


def test_direct_io_reads_and_writes(place: Path):
    (place / "f").write_bytes(bytes(65536))
    descriptor = os.open(place / "f", os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        page.write(b"D" * 4096)
        assert os.pwritev(descriptor, [page], 8192) == 4096
        assert os.preadv(descriptor, [page], 4096) == 4096
    os.close(descriptor)
    assert (place / "f").read_bytes()[8192:12288] == b"D" * 4096


def test_the_kernel_copies_by_itself_what_the_binding_cannot(place: Path):
    data = random.Random(4).randbytes(2 * MIB)
    (place / "a").write_bytes(data)
    source = os.open(place / "a", os.O_RDONLY)
    target = os.open(place / "b", os.O_RDWR | os.O_CREAT)
    copied = 0
    while copied < len(data):
        copied += os.copy_file_range(source, target, len(data) - copied)
    os.close(source)
    os.close(target)
    assert (place / "b").read_bytes() == data


def test_fsync_of_files_and_directories_succeeds(place: Path):
    descriptor = os.open(place / "f", os.O_RDWR | os.O_CREAT)
    os.write(descriptor, b"x")
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    os.close(descriptor)
    directory = os.open(place, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def test_locks_work_between_descriptors(place: Path):
    (place / "f").touch()
    with open(place / "f", "w") as one, open(place / "f", "w") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
