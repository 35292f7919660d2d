"""After a start the local database is brought into memory."""

import os

from aggfs.cache.database import Database


def is_in_memory(descriptor: int, size: int) -> bool:
    """Whether all of a file can be read without its disk."""
    try:
        return (
            sum(
                os.preadv(descriptor, [bytearray(4096)], at, os.RWF_NOWAIT)
                for at in range(0, size, 4096)
            )
            == size
        )
    except BlockingIOError:
        return False


def test_after_a_start_reads_need_not_wait_for_the_disk(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    for number in range(20_000):
        database.table("t").put(b"%d" % number, b"value" * 20)
    database.commit_now()
    database.abandon()
    with open(tmp_path / "data.mdb", "rb") as file:
        size = os.fstat(file.fileno()).st_size
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        database = Database.open(str(tmp_path), tables=("t",))
        database.warm()
        assert is_in_memory(file.fileno(), size)
        database.abandon()
