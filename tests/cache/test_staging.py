"""Staging: what `put` returned for is there after every stop, and nothing under a wrong name."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.cache.staging import FREE_SLOTS, Staging
from aggfs.errors import Damaged


def name(number):
    return number.to_bytes(24)


def test_what_is_put_is_read_until_it_is_released(tmp_path):
    staging = Staging(tmp_path)
    staging.put(name(1), [b"head", bytearray(b"body"), memoryview(b"tail")])
    assert staging.read(name(1)) == b"headbodytail"
    assert name(1) in staging
    assert staging.size_bytes == 12
    staging.release(name(1))
    staging.release(name(1))
    assert name(1) not in staging
    assert staging.size_bytes == 0
    with pytest.raises(Damaged):
        staging.read(name(1))


def test_what_is_staged_is_found_after_a_restart_and_the_rest_is_cleared(tmp_path):
    staging = Staging(tmp_path)
    for number in range(5):
        staging.put(name(number), [b"x" * number])
    staging.release(name(2))
    staging = Staging(tmp_path)
    assert sorted(staging.names()) == [name(number) for number in (0, 1, 3, 4)]
    assert staging.size_bytes == 8
    assert staging.read(name(4)) == b"xxxx"
    assert len(os.listdir(tmp_path)) == 4


def test_slots_are_overwritten_in_place_and_their_number_is_bounded(tmp_path):
    staging = Staging(tmp_path)
    for number in range(100):
        staging.put(name(number), [bytes(1000)])
        if number >= 3:
            staging.release(name(number - 3))
    assert len(os.listdir(tmp_path)) <= 3 + FREE_SLOTS
    inodes = {entry.inode() for entry in os.scandir(tmp_path)}
    for number in range(97, 100):
        staging.release(name(number))
    for number in range(100, 103):
        staging.put(name(number), [bytes(1000)])
    assert {entry.inode() for entry in os.scandir(tmp_path)} <= inodes


def test_a_slot_is_not_overwritten_before_its_release_is_on_the_disk(tmp_path):
    staging = Staging(tmp_path)
    staging.put(name(1), [b"first"])
    inode = os.stat(staging._path(name(1))).st_ino
    staging.release(name(1))
    staging.put(name(2), [b"second"])  # its directory sync makes the release durable
    assert os.stat(staging._path(name(2))).st_ino != inode
    staging.put(name(3), [b"third"])
    assert os.stat(staging._path(name(3))).st_ino == inode


def test_small_things_do_not_cut_the_slots_of_large_ones(tmp_path):
    staging = Staging(tmp_path)
    for number, size in enumerate((100_000, 10)):
        staging.put(name(number), [bytes(size)])
    large = os.stat(staging._path(name(0))).st_ino
    staging.release(name(0))
    staging.release(name(1))
    staging.put(name(2), [b"sync"])
    staging.put(name(3), [bytes(12)])
    staging.put(name(4), [bytes(90_000)])
    assert os.stat(staging._path(name(4))).st_ino == large


@given(pieces=st.lists(st.binary(max_size=9), max_size=50), size=st.integers(0, 3000))
def test_a_shorter_thing_leaves_nothing_of_a_longer_one(tmp_path_factory, pieces, size):
    staging = Staging(tmp_path_factory.mktemp("staging"))
    for number in range(3):
        staging.put(name(number), [b"z" * size])
        staging.release(name(number))
    staging.put(name(9), pieces)
    assert staging.read(name(9)) == b"".join(pieces)


def test_more_pieces_than_one_call_takes_are_written(tmp_path):
    staging = Staging(tmp_path)
    pieces = [bytes((number % 256,)) * 3 for number in range(5000)]
    staging.put(name(1), pieces)
    assert staging.read(name(1)) == b"".join(pieces)


def test_threads_may_put_at_the_same_time(tmp_path):
    staging = Staging(tmp_path)

    def work(base):
        for number in range(base, base + 30):
            staging.put(name(number), [number.to_bytes(4) * 500])
            if number % 3:
                staging.release(name(number))

    workers = [threading.Thread(target=work, args=(base,)) for base in (0, 100, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(staging.names()) == 30
    assert all(
        staging.read(one) == int.from_bytes(one).to_bytes(4) * 500 for one in staging.names()
    )
    assert staging.size_bytes == 30 * 2000


FULL = """
import resource, sys
from pathlib import Path
from aggfs.cache.staging import Staging
from aggfs.errors import LocalDiskFailed

staging = Staging(Path(sys.argv[1]))
staging.put(b"good", [bytes(1000)])
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, -1))
try:
    staging.put(b"large", [bytes(100_000)])
except LocalDiskFailed:
    print("refused", b"large" in staging, staging.size_bytes)
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
staging.put(b"large", [bytes(100_000)])
print(len(staging.read(b"large")))
"""


def test_a_put_that_the_disk_refused_leaves_nothing(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split("\n") == ["refused False 1000", "100000", ""], done.stderr
    assert len(Staging(tmp_path).names()) == 2
