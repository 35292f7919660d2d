"""Files past the page cache hold the same bytes, whatever the file system can do."""

import os
import random
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.disk import (
    ALIGNMENT,
    WORTH_BYTES,
    AlignedBuffers,
    aligned_memory,
    read_at,
    read_part,
    write_at,
    write_pieces,
    write_whole,
)
from aggfs.stores.threaded import Loan, LoanEnded

PARTS = [(0, WORTH_BYTES), (4097, WORTH_BYTES + 5), (1 << 19, 1 << 19), (300_001, 1 << 21)]
SIZES = [0, 1, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES + 1, 70_000, 1 << 20, 1_400_003]


class Misaligned(AlignedBuffers):
    """Memory that a disk does not take directly: the kernel says EINVAL."""

    @contextmanager
    def borrow(self, size_bytes):
        with super().borrow(size_bytes + ALIGNMENT) as view, view[3:] as shifted:
            yield shifted


@contextmanager
def new_file(directory):
    path = os.path.join(directory, "file")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        os.unlink(path)


@pytest.fixture(params=["disk", "memory"])
def directory(request, tmp_path):
    """A file system with O_DIRECT, and one that (before Linux 6.6) has none."""
    if request.param == "memory" and os.path.isdir("/dev/shm"):  # noqa: S108 - tmpfs is meant
        path = f"/dev/shm/aggfs-test-{os.getpid()}"  # noqa: S108
        os.mkdir(path)
        yield path
        os.rmdir(path)
    else:
        yield str(tmp_path)


@pytest.mark.parametrize("buffers", [AlignedBuffers(), Misaligned()])
@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read(directory, size, buffers):
    data = random.Random(size).randbytes(size)
    pieces = [data[:100], memoryview(data)[100:5000], bytearray(data[5000:])]
    with new_file(directory) as descriptor:
        write_whole(descriptor, pieces, buffers=buffers)
        with open(os.path.join(directory, "file"), "rb") as file:
            assert file.read() == data
            assert read_part(file.fileno(), 0, size + 10) == data
    with new_file(directory) as descriptor:
        write_pieces(descriptor, pieces)
        os.fsync(descriptor)
        assert read_part(descriptor, 0, size, buffers=buffers) == data
        for start, length in PARTS:
            found = read_part(descriptor, start, length, buffers=buffers)
            assert found == data[start : start + length]


def test_a_longer_file_is_cut_to_what_is_written(directory):
    for size in SIZES:
        with new_file(directory) as descriptor:
            os.pwrite(descriptor, bytes(2 << 20), 0)
            write_whole(descriptor, [b"x" * size])
            with open(os.path.join(directory, "file"), "rb") as file:
                assert file.read() == b"x" * size


@pytest.mark.parametrize("shift", [0, 1, 4096])
@pytest.mark.parametrize("size", SIZES)
def test_bytes_in_the_middle_are_written_and_no_others(directory, size, shift):
    memory = memoryview(aligned_memory(size + 16))
    memory[shift % 3 : shift % 3 + size] = data = random.Random(size).randbytes(size)
    with new_file(directory) as descriptor:
        before = b"b" * (size + 3 * ALIGNMENT)
        os.pwrite(descriptor, before, 0)
        write_at(descriptor, memory[shift % 3 : shift % 3 + size], ALIGNMENT + shift)
        at = ALIGNMENT + shift
        expected = before[:at] + data + before[at + size :]
        assert os.pread(descriptor, 4 << 20, 0) == expected
        with open(os.path.join(directory, "file"), "rb") as file:
            assert file.read() == expected


def aligned(size_bytes):
    return memoryview(aligned_memory(size_bytes))


@pytest.mark.parametrize("new_memory", [aligned, lambda size: aligned(size + 3)[3:]])
def test_what_others_wrote_is_read_past_the_page_cache_or_not_at_all(directory, new_memory):
    data = random.Random(1).randbytes(1_400_003)
    with new_file(directory) as descriptor:
        os.pwrite(descriptor, data, 0)  # not synced
        for start, length in [*PARTS, (0, len(data)), (len(data) - 5, 5)]:
            found = read_at(descriptor, start, length, new_memory)
            whole = data[start : start + length]
            assert found is None or found == whole
            if new_memory is aligned and not directory.startswith("/dev/shm"):  # noqa: S108
                assert (found is None) == (len(whole) < length)
        os.pwrite(descriptor, b"newer", 300_001)
        assert os.pread(descriptor, len(data), 0)[300_000:300_010] == (
            data[300_000:300_001] + b"newer" + data[300_006:300_010]
        )
        found = read_at(descriptor, 300_001, 1 << 19, new_memory)
        assert found is None or found[:6] == b"newer" + data[300_006:300_007]


def test_a_loan_that_ended_is_noticed_on_either_way(tmp_path):
    for size in (10, 1 << 20):
        loan = Loan([bytes(size)])
        loan.end()
        with new_file(str(tmp_path)) as descriptor, pytest.raises(LoanEnded):
            write_whole(descriptor, loan.pieces, taken=loan.keep)


def test_memory_is_used_again_and_only_so_much_is_kept():
    buffers = AlignedBuffers(keep=2)
    with buffers.borrow(10), buffers.borrow(20), buffers.borrow(3 << 20):
        pass
    assert len(buffers._idle) == 2
    with buffers.borrow(4 << 20) as view:
        assert len(view) >= 4 << 20
    assert len(buffers._idle) == 2


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(0, 50), st.integers(0, 2000))
def test_pieces_of_any_size_are_written_in_order(pieces, start, length):
    data = b"".join(pieces)
    descriptor = os.memfd_create("test")
    try:
        write_pieces(descriptor, pieces)
        assert read_part(descriptor, 0, 5000) == data
        assert read_part(descriptor, start, length) == data[start : start + length]
    finally:
        os.close(descriptor)
