"""fio: every way in which bytes go into a file and out of it, each block verified, then once more
from the accounts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

WAYS = {
    "sequential": ("--rw=write", "--bs=1M", "--ioengine=psync"),
    "random": ("--rw=randwrite", "--bs=4k", "--ioengine=psync", "--io_size=16M"),
    "mixed": ("--rw=randrw", "--bsrange=1k-128k", "--ioengine=psync", "--fsync=64"),
    "mapped": ("--rw=randwrite", "--bs=4k", "--ioengine=mmap", "--io_size=16M"),
    "direct": ("--rw=randwrite", "--bs=16k", "--ioengine=psync", "--direct=1"),
    "uring": ("--rw=randwrite", "--bs=16k", "--ioengine=io_uring", "--iodepth=16"),
    "uring-direct": ("--rw=write", "--bs=64k", "--ioengine=io_uring", "--iodepth=16", "--direct=1"),
    "libaio-direct": ("--rw=randwrite", "--bs=16k", "--ioengine=libaio", "--direct=1"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_block_is_what_was_written(place: Path, cold: Callable[[], None], way: str):
    shape = ("--name=job", "--filename=file", "--size=64M", "--randseed=7", *WAYS[way])
    checked = ("--verify=crc32c", "--verify_fatal=1", "--verify_backlog=0")

    def fio(*more: str) -> None:
        assert "err= 0" in run("fio", *shape, *checked, *more, at=place, seconds=600)

    fio("--do_verify=1")
    cold()
    fio("--verify_only=1")
