"""What sparse files promise, one promise at a time. Random sequences: see test_sparse_model."""

import ctypes
import mmap
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.sums import TABLE
from aggfs.cache.unitfile import LONG_BYTES, WRITTEN_KEPT, UnitFile
from aggfs.coding.cipher import XtsUnit
from aggfs.errors import Busy, Damaged, LocalDiskFailed
from aggfs.model import BLOCK_BYTES
from aggfs.sync.holes import Ranges

UNIT = 64 * 1024
DATA = os.urandom(3 * BLOCK_BYTES)


class State:
    """A state directory whose process can crash. `cipher` None: kept in plain."""

    def __init__(self, home, cipher):
        self.home, self.cipher = home, cipher
        self.start()

    def start(self):
        self.database = Database.open(str(self.home / "db"), tables=(TABLE,))
        self.files = SparseFiles(str(self.home / "files"), self.database, Ranges)

    def open(self, size=0, number=7, generation=1):
        return self.files.open(number, generation, size=size, cipher=self.cipher)

    def crash(self):
        """What is not committed is lost; what is in the page cache is not."""
        self.leave()
        self.start()

    def leave(self):
        self.database.abandon()

    @property
    def data_path(self):
        return self.home / "files" / "data" / "0000000000000007.1"

    def filled(self):
        """A file with clean bytes, recorded, closed and opened again."""
        file = self.open(len(DATA))
        file.fill(0, DATA)
        self.files.close(file)
        self.database.commit_now()
        return self.open(len(DATA))


@pytest.fixture(params=["encrypted", "plain"])
def state(request, tmp_path):
    return State(tmp_path, XtsUnit(bytes(range(64))) if request.param == "encrypted" else None)


@pytest.fixture
def encrypted(tmp_path):
    return State(tmp_path, XtsUnit(bytes(range(64))))


def release(file, size):
    frozen = file.freeze(size)
    for first, stop in frozen.blocks:
        frozen.read_blocks(first, stop - first)
    frozen.release()


# --- clean bytes ----------------------------------------------------------------------------------


def test_clean_bytes_are_found_again_after_a_restart(state):
    file = state.filled()
    assert file.missing(0, len(DATA)) == []
    assert file.read(0, len(DATA)) == (DATA, [])
    assert not file.is_dirty


def test_released_edits_are_clean_after_a_restart(state):
    file = state.open()
    file.write(0, DATA)
    release(file, len(DATA))
    state.database.commit_now()
    state.crash()
    file = state.open(len(DATA))
    assert not file.is_dirty
    assert file.missing(0, len(DATA)) == []
    assert file.read(0, len(DATA)) == (DATA, [])


def test_the_rows_of_a_large_file_are_put_some_at_a_time_and_are_all_there_in_the_end(state):
    file, size = state.open(), 50 * BLOCK_BYTES
    file.write(0, os.urandom(size))
    release(file, size)
    assert file.settle(), "the loop has other things to do, too"
    file.write(size - 1, b"x")  # newer than a row that is not put yet
    while file.settle():
        pass
    file.write(0, b"x")
    file.settle()
    state.database.commit_now()
    state.crash()
    again = state.open(size)
    assert list(again.dirty_ranges()) == [(0, 1), (size - 1, size)]
    assert again.missing(UNIT, size - UNIT) == []
    assert again.missing(1, UNIT) == [(1, UNIT)], "the row of an edited unit went"
    assert again.missing(size - UNIT, size - 1) == [(size - UNIT, size - 1)]
    assert again.read(UNIT, size - 2 * UNIT)[1] == []


@pytest.mark.parametrize("at", [0, UNIT + 17, len(DATA) - 1])
def test_a_clean_unit_that_rotted_becomes_a_hole_and_nothing_else_does(state, at):
    file = state.filled()
    with open(state.data_path, "r+b") as disk:
        disk.seek(at)
        byte = disk.read(1)[0]
        disk.seek(at)
        disk.write(bytes((byte ^ 1,)))
    assert file.missing(0, len(DATA)) == []
    data, holes = file.read(0, len(DATA))
    start = at - at % UNIT
    assert holes == [(start, start + UNIT)]
    assert data == DATA[:start] + bytes(UNIT) + DATA[start + UNIT :]
    file.fill(0, DATA)
    assert file.read(0, len(DATA)) == (DATA, [])


def test_an_edit_beside_rotten_bytes_does_not_make_them_good(state):
    file = state.filled()
    with open(state.data_path, "r+b") as disk:
        disk.seek(100)
        disk.write(b"rot")
    file.load(0, UNIT)
    file.write(5000, b"edit")
    assert file.missing(0, UNIT) == [(0, 5000), (5004, UNIT)]


def test_the_recorded_unit_is_forgotten_when_it_is_edited(state):
    file = state.filled()
    file.load(0, len(DATA))
    file.write(10, b"x")
    file.settle()
    assert file._rows.block(0)[0] == (0, 0)
    assert file._rows.block(0)[1][0] == UNIT


def test_a_write_that_was_never_marked_costs_a_fetch_only(state):
    # The commit that forgets the unit's row is lost: the checksum tells.
    file = state.filled()
    file.load(0, 10)
    file.write(10, b"edited")
    state.crash()
    file = state.open(len(DATA))
    assert list(file.dirty_ranges()) == [(10, 16)]
    assert file.missing(0, UNIT) == [(0, 10), (16, UNIT)]
    assert file.read(0, 16)[0][10:] == b"edited"


def test_a_fill_leaves_edits_alone(state):
    file = state.open()
    file.write(100, b"mine")
    file.fill(0, DATA[:UNIT])
    assert file.read(0, UNIT)[0] == DATA[:100] + b"mine" + DATA[104:UNIT]
    assert list(file.dirty_ranges()) == [(100, 104)]


def test_gaps_are_zeros_once_they_are_asked_for(state):
    file = state.open()
    file.write(300_000, b"end")
    file.zero_ranges(file.missing(0, 300_003))
    data, holes = file.read(0, 300_003)
    assert (data, holes) == (bytes(300_000) + b"end", [])
    assert file.dirty_bytes == 3


def test_many_rows_are_loaded_page_by_page(state):
    size = 300 * BLOCK_BYTES
    file = state.open(size)
    for block in range(0, 300, 2):
        file.fill(block * BLOCK_BYTES, DATA[:100])
    state.files.close(file)
    file = state.open(size)
    missing = file.missing(0, size)
    assert missing[0] == (100, 2 * BLOCK_BYTES)
    assert len(missing) == 150


# --- edits and crashes ----------------------------------------------------------------------------


def test_edits_survive_a_crash_without_any_sync(state):
    file = state.open()
    file.write(0, DATA[:1000])
    file.write(5000, DATA[:UNIT])
    state.crash()
    file = state.open(5000 + UNIT)
    assert list(file.dirty_ranges()) == [(0, 1000), (5000, 5000 + UNIT)]
    assert file.read(0, 1000)[0] == DATA[:1000]
    assert file.read(5000, UNIT)[0] == DATA[:UNIT]


def test_an_edit_after_a_release_stays_marked_though_the_release_is_committed_later(state):
    file = state.open()
    file.write(0, b"first edit")
    release(file, 10)
    file.write(0, b"second one")
    state.database.commit_now()
    state.crash()
    file = state.open(10)
    assert list(file.dirty_ranges()) == [(0, 10)]
    assert file.read(0, 10)[0] == b"second one"


def test_a_release_that_was_not_committed_is_undone_by_a_crash(state):
    file = state.open()
    file.write(0, DATA)
    release(file, len(DATA))
    assert not file.is_dirty
    state.crash()
    file = state.open(len(DATA))
    assert file.dirty_bytes == len(DATA)
    assert file.read(0, len(DATA))[0] == DATA


def test_eviction_never_takes_bytes_whose_release_is_not_committed(state):
    file = state.open()
    file.write(0, DATA)
    release(file, len(DATA))
    file.punch(file.evict(0, len(DATA)))
    state.crash()
    file = state.open(len(DATA))
    assert file.read(0, len(DATA)) == (DATA, [])
    assert file.dirty_bytes == len(DATA)


def test_evicted_bytes_give_their_space_back(state):
    file = state.filled()
    file.write(100, b"edit")
    before = state.data_path.stat().st_blocks
    freed = file.punch(file.evict(0, len(DATA)))
    assert freed > 2 * BLOCK_BYTES
    assert state.data_path.stat().st_blocks < before
    assert file.missing(0, len(DATA)) == [(0, 100), (104, len(DATA))]
    assert file.read(100, 4)[0] == b"edit"


def test_eviction_punches_nothing_that_was_written_meanwhile(state):
    file = state.filled()
    gone = file.evict(0, len(DATA))
    file.write(0, DATA[:10_000])
    file.fill(UNIT, DATA[UNIT : 2 * UNIT])
    file.punch(gone)
    assert file.read(0, 10_000)[0] == DATA[:10_000]
    assert file.read(UNIT, UNIT) == (DATA[UNIT : 2 * UNIT], [])


def test_eviction_punches_nothing_of_a_file_that_was_closed_and_opened_again(state):
    file = state.filled()
    gone = file.evict(0, len(DATA))
    state.files.close(file)
    again = state.open(len(DATA))
    again.fill(0, DATA)
    assert file.punch(gone) == 0
    assert again.read(0, len(DATA)) == (DATA, [])


def test_an_append_whose_size_was_never_committed_is_dropped(state):
    file = state.open()
    file.write(0, DATA[:2000])
    state.crash()
    file = state.open(size=500)
    assert list(file.dirty_ranges()) == [(0, 500)]
    state.crash()
    file = state.open(size=2000)
    assert list(file.dirty_ranges()) == [(0, 500)]
    assert file.missing(0, 2000) == [(500, 2000)]


def test_a_mark_whose_bytes_never_reached_the_disk_is_dropped(state):
    """A loss of power: the mark was written back in time, some of the bytes were not."""
    file = state.open()
    file.write(0, DATA[:BLOCK_BYTES])
    file._raw.punch(UNIT, UNIT + 8192)
    state.crash()
    file = state.open(BLOCK_BYTES)
    data, holes = file.read(0, BLOCK_BYTES)
    assert holes == [(UNIT, UNIT + 8192)]
    assert data[:UNIT] == DATA[:UNIT]
    assert data[UNIT + 8192 :] == DATA[UNIT + 8192 : BLOCK_BYTES]
    assert not file.dirty_ranges().overlaps(UNIT, UNIT + 8192)


def test_groups_that_never_reached_the_disk_are_found_within_a_page(encrypted):
    file = encrypted.open()
    file.write(0, DATA[:4096])
    with open(encrypted.data_path, "r+b") as disk:
        disk.seek(1008)
        disk.write(bytes(1000))
    encrypted.crash()
    file = encrypted.open(4096)
    file.prove_dirty()
    assert list(file.dirty_ranges()) == [(0, 1008), (2000, 4096)]


class Overtaken(UnitFile):
    """`then` is called once, after the first read of the disk."""

    then = None

    def raw(self, start, end, memory=None):
        found = super().raw(start, end, memory)
        then, self.then = self.then, None
        if then:
            then()
        return found


def test_a_reader_who_took_lost_bytes_for_there_reads_again_what_was_filled_meanwhile(encrypted):
    """Else the zeros that he saw on the disk would go through the cipher: noise."""
    file = encrypted.open()
    file.write(0, DATA[:BLOCK_BYTES])
    file._raw.punch(UNIT, UNIT + 8192)
    encrypted.crash()
    raw = Overtaken.open(encrypted.data_path, encrypted.cipher)
    file = encrypted.files.open_as(7, 1, raw, size=BLOCK_BYTES)

    def lose_and_fill():
        file.prove_dirty()
        file.zero_ranges(file.missing(0, BLOCK_BYTES))

    raw.then = lambda: elsewhere(lose_and_fill)
    data, holes = file.read(0, BLOCK_BYTES)
    assert holes == []
    assert data == DATA[:UNIT] + bytes(8192) + DATA[UNIT + 8192 : BLOCK_BYTES]


def elsewhere(function):
    """In a thread of its own, and wait for that."""
    worker = threading.Thread(target=function)
    worker.start()
    worker.join()


def test_zeros_that_were_written_in_plain_are_kept(tmp_path):
    state = State(tmp_path, None)
    file = state.open()
    file.write(0, bytes(100_000))
    state.crash()
    assert list(state.open(100_000).dirty_ranges()) == [(0, 100_000)]


# --- freezing -------------------------------------------------------------------------------------


def test_a_frozen_file_is_read_as_it_was_while_it_is_edited(state):
    file = state.open()
    file.write(0, DATA)
    frozen = file.freeze(len(DATA))
    file.write(0, b"newer")
    file.write(BLOCK_BYTES - 2, b"across")
    first = frozen.read_blocks(0, 1)[0]
    file.write(10, b"later")
    assert bytes(first) == DATA[:BLOCK_BYTES]
    rest = frozen.read_blocks(1, 2)
    assert b"".join(rest) == DATA[BLOCK_BYTES:]
    frozen.release()
    dirty = [(0, 5), (10, 15), (BLOCK_BYTES - 2, BLOCK_BYTES + 4)]
    assert list(file.dirty_ranges()) == dirty
    assert file.read(0, 15)[0] == b"newer" + DATA[5:10] + b"later"


def test_a_frozen_block_that_is_partly_here_is_completed_with_what_was_there(state):
    file = state.open(BLOCK_BYTES)
    file.write(0, b"edit")
    frozen = file.freeze(BLOCK_BYTES)
    assert frozen.missing() == [(4, BLOCK_BYTES)]
    with pytest.raises(Damaged):
        frozen.read_blocks(0, 1)[0]
    file.write(UNIT, b"newer")  # onto a hole: the frozen block wants what the accounts have
    assert frozen.missing() == [(4, BLOCK_BYTES)]
    file.fill(4, DATA[4:BLOCK_BYTES])
    assert frozen.missing() == []
    assert bytes(frozen.read_blocks(0, 1)[0]) == b"edit" + DATA[4:BLOCK_BYTES]
    assert file.read(UNIT, 5)[0] == b"newer"


def test_only_what_is_done_is_released(state):
    file = state.open()
    file.write(0, DATA)
    frozen = file.freeze(len(DATA))
    for block in range(3):
        frozen.read_blocks(block, 1)[0]
    frozen.release([(1, 2)])
    assert list(file.dirty_ranges()) == [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, 3 * BLOCK_BYTES)]


def test_a_thawed_file_is_as_dirty_as_before_and_can_be_frozen_again(state):
    file = state.open()
    file.write(0, DATA)
    frozen = file.freeze(len(DATA))
    with pytest.raises(Busy):
        file.freeze(len(DATA))
    frozen.read_blocks(0, 1)[0]
    frozen.thaw()
    frozen.thaw()
    assert file.dirty_bytes == len(DATA)
    again = file.freeze(len(DATA))
    assert b"".join(again.read_blocks(0, 3)) == DATA


def test_a_generation_that_was_given_up_can_be_read_out_to_the_end(state):
    file = state.open()
    file.write(0, DATA)
    frozen = file.freeze(len(DATA))
    state.files.remove(file)
    state.database.commit_now()
    state.files.purge()
    assert not state.data_path.exists()
    assert b"".join(frozen.read_blocks(0, 3)) == DATA
    frozen.release()
    state.database.commit_now()
    with pytest.raises(Busy):
        file.write(0, b"x")


def test_a_frozen_block_is_read_whole_while_another_thread_edits_it(state):
    file = state.open()

    def edit():
        for number in range(30):
            file.write(number * 20_000, b"another thread's edit" * 50)

    for _ in range(20):
        file.write(0, DATA)
        frozen = file.freeze(len(DATA))
        worker = threading.Thread(target=edit)
        worker.start()
        found = b"".join(bytes(frozen.read_blocks(block, 1)[0]) for block in range(3))
        worker.join()
        assert found == DATA
        frozen.thaw()


@pytest.mark.parametrize("size", [UNIT, LONG_BYTES])
def test_a_reader_never_sees_a_torn_group(encrypted, size):
    """Beside edits of whole ranges, each group of 16 bytes is old or new."""
    file = encrypted.open()
    old, new = b"o" * size, b"n" * size
    file.write(0, old)
    stop = threading.Event()

    def edit():
        while not stop.is_set():
            file.write(0, new)
            file.write(0, old)

    worker = threading.Thread(target=edit)
    worker.start()
    try:
        for _ in range(300):
            assert set(bytes(file.read(0, size)[0])) <= set(b"on")
    finally:
        stop.set()
        worker.join()


def test_a_long_read_takes_what_was_just_written(state):
    file = state.open()
    data = bytes(range(256)) * (LONG_BYTES // 256 + 5)
    file.write(0, data)
    assert file.read_cached(3, LONG_BYTES) == data[3 : LONG_BYTES + 3]
    assert file.read(3, LONG_BYTES) == (data[3 : LONG_BYTES + 3], [])
    for number in range(2 * WRITTEN_KEPT):  # and nobody remembers that the first was
        file.write(2 * LONG_BYTES + 5000 * number, b"elsewhere")
    assert file.read_cached(3, LONG_BYTES) is None
    file.write(100_000, b"newer")  # not on the disk yet, which is read now
    assert file.read(99_999, LONG_BYTES - 99_999)[0][:7] == (
        data[99_999:100_000] + b"newer" + data[100_005:100_006]
    )
    assert file.read(0, LONG_BYTES)[0][99_999:100_006] == b"\x9fnewer\xa5"


def test_a_long_read_leaves_no_second_copy_in_the_page_cache(state):
    """The kernel keeps what the mount asked for; it is not to keep the local copy as well."""
    file = state.filled()
    file.load(0, len(DATA))
    descriptor = os.open(state.data_path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    before = resident(descriptor, len(DATA))  # on a disk none; a tmpfs has no other place
    assert file.read(0, len(DATA)) == (DATA, [])
    after = resident(descriptor, len(DATA))
    os.close(descriptor)
    assert after == before


def resident(descriptor, size):
    """How many pages of a file the page cache has."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        pages = (ctypes.c_ubyte * (size // 4096))()
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0
    return sum(page & 1 for page in pages)


class Interrupting:
    """A cipher during whose first decryption something else happens."""

    def __init__(self, action):
        self.cipher, self.action = XtsUnit(bytes(64)[:63] + b"x"), action

    def encrypt_into(self, offset, data, out):
        self.cipher.encrypt_into(offset, data, out)

    def decrypt_into(self, offset, data, out):
        action, self.action = self.action, None
        self.cipher.decrypt_into(offset, data, out)
        if action is not None:
            action()


def test_a_read_that_an_edit_overtook_is_done_again(tmp_path):
    cipher = Interrupting(lambda: file.write(0, b"new" * 1000))
    file = State(tmp_path, cipher).open()
    file.write(0, b"old" * 1000)
    assert file.read(0, 3000) == (b"new" * 1000, [])
    cipher.action = lambda: file.write(0, b"odd" * 1000)
    assert file.read_cached(0, 3000) is None


# --- cuts, removals -------------------------------------------------------------------------------


def test_what_was_cut_off_does_not_come_back_when_the_file_grows(state):
    file = state.filled()
    file.cut(1000)
    file.write(len(DATA) - 5, b"after")
    assert file.missing(0, len(DATA)) == [(1000, len(DATA) - 5)]
    state.files.close(file)
    state.database.commit_now()
    state.crash()
    file = state.open(len(DATA))
    missing = file.missing(0, len(DATA))
    assert missing[-1][1] == len(DATA) - 5
    assert missing[0][0] <= 1000


class Interrupted:
    """A lock before whose third use something else happens."""

    def __init__(self, lock, action):
        self._lock, self._action, self._count = lock, action, 0

    def __enter__(self):
        self._count += 1
        if self._count == 3:
            self._action()
        self._lock.acquire()

    def __exit__(self, *exception):
        self._lock.release()


def test_a_hole_that_is_filled_while_it_is_read_is_a_hole_of_that_read(state):
    file = state.open()
    file.write(0, b"x" * 96)
    file.write(4992, b"x" * 96)
    worker = threading.Thread(target=file.fill, args=(96, bytes(4896)))
    file._lock = Interrupted(file._lock, lambda: (worker.start(), worker.join()))
    data, holes = file.read(0, 5088)
    assert data == b"x" * 96 + bytes(4896) + b"x" * 96
    assert holes == [(96, 4992)]
    assert file.read(0, 5088) == (data, [])


def test_an_edit_within_a_group_keeps_nothing_of_what_was_cut_off_behind_it(state):
    file = state.open()
    file.write(0, b"x" * 32)
    file.cut(21)
    file.write(20, b"y")
    assert not any(file._raw.decrypt(16, file._raw.raw(16, 32), 21, 32))


def test_a_cut_that_a_crash_prevented_is_made_good_when_the_file_is_opened(state):
    state.filled().write(2 * BLOCK_BYTES, b"edit")
    state.crash()
    file = state.open(size=1000)
    assert not file.is_dirty
    file.write(len(DATA) - 1, b"x")
    assert file.missing(UNIT, len(DATA)) == [(UNIT, len(DATA) - 1)]


def test_a_removed_file_is_deleted_once_that_is_committed(state):
    file = state.filled()
    file.write(0, b"edit")
    state.files.remove(file)
    state.files.purge()
    assert state.data_path.exists()
    state.database.commit_now()
    state.files.purge()
    assert list(state.files.all()) == []
    while state.files.sweep(limit=1):
        pass
    assert state.database.table(TABLE).scan(b"") == []


def test_all_files_and_the_dirty_ones_are_listed(state):
    state.open(number=3)
    state.open(number=5, generation=2).write(0, b"x")
    state.crash()
    assert list(state.files.all()) == [(3, 1), (5, 2)]
    assert state.files.dirty() == [(5, 2)]


def test_a_closed_file_whose_marks_wait_for_a_commit_is_given_out_again(state):
    file = state.open()
    file.write(0, DATA)
    release(file, len(DATA))
    state.files.close(file)
    assert state.open(len(DATA)) is file
    state.files.close(file)
    state.database.commit_now()
    again = state.open(len(DATA))
    assert again is not file
    assert not again.is_dirty


# --- the disk -------------------------------------------------------------------------------------


def test_what_is_to_go_stays_until_that_is_committed(state):
    """Should the machine die before, the file is there still, and must have its bytes."""
    file = state.open()
    file.write(0, DATA)
    file.sync()
    state.database.commit_now()
    state.files.remove(file)
    with pytest.raises(Busy):
        state.open()
    state.files.purge()
    assert state.data_path.exists()
    state.crash()
    assert state.open(len(DATA)).read(0, len(DATA)) == (DATA, [])


def test_what_was_cut_off_does_not_come_back_where_the_cut_was_lost(state):
    """The smaller size is durable, the cut of the file is not; then it is made longer again."""
    file = state.open()
    file.write(0, DATA)
    file.sync()
    state.database.commit_now()
    before = state.data_path.read_bytes()
    file.cut(100)
    release(file, 100)
    state.database.commit_now()
    state.leave()
    state.data_path.write_bytes(before)
    state.start()
    file = state.open(100)
    assert state.data_path.stat().st_size < 200
    assert file.syncing.cut, "an edit over it waits until that is on the disk"


def test_a_cut_is_to_be_synced_before_the_next_edit(state):
    file = state.open()
    file.write(0, DATA)
    file.sync()
    file.cut(100)
    assert file.syncing.pending
    assert file.syncing.cut
    file.sync()
    assert not file.syncing.cut


@pytest.mark.parametrize("crashed", [False, True])
def test_what_was_not_synced_when_it_was_closed_is_to_be_synced_still(state, crashed):
    """Its bytes may be clean by then: an edit over them that a loss of power takes back, but for
    its mark, would show what was there before them."""
    file = state.open()
    assert not file.syncing.pending
    file.write(0, DATA)
    release(file, len(DATA))
    state.database.commit_now()
    state.files.close(file)
    if crashed:
        state.crash()
    file = state.open(len(DATA))
    assert file.syncing.pending
    file.sync()
    state.files.close(file)
    assert not state.open(len(DATA)).syncing.pending


def test_after_a_failed_sync_no_sync_succeeds(state, tmp_path):
    file = state.open()
    file.write(0, b"x")

    def fail():
        raise OSError(5, "broken")

    file.syncing._sync_names = fail
    with pytest.raises(LocalDiskFailed):
        file.sync()
    file.syncing._sync_names = lambda: None
    with pytest.raises(LocalDiskFailed):
        file.sync()


def test_reads_go_on_after_the_database_failed(state):
    file = state.filled()
    state.database.give_up("the disk is gone")
    file.fill(0, DATA)
    file.settle()
    assert file.read(0, len(DATA)) == (DATA, [])
    state.files.close(file)


def test_damaged_rows_cost_fetches_and_never_wrong_bytes(state):
    file = state.filled()
    table = state.database.table(TABLE)
    rows = table.scan(b"")
    state.files.close(file)
    state.database.commit_now()
    damaged = rows[1][0]
    with state.database._environment.begin(write=True) as transaction:
        handle = state.database._environment.open_db(TABLE.encode(), transaction)
        transaction.put(damaged, b"\1noise", db=handle)
        transaction.put(b"T" + damaged[1:13], b"\1noise", db=handle)
    state.crash()
    file = state.open(len(DATA))
    assert file.missing(0, len(DATA)) == [(0, len(DATA))]
    file.fill(0, DATA)
    state.files.close(file)
    file = state.open(len(DATA))
    assert file.read(0, len(DATA))[1] == [(0, len(DATA))]
    assert file.missing(0, len(DATA)) == []
    assert file.read(0, len(DATA)) == (DATA, [])


def test_a_damaged_last_row_hides_no_other(state):
    file = state.filled()
    last = state.database.table(TABLE).scan(b"")[-1][0]
    state.files.close(file)
    with state.database._environment.begin(write=True) as transaction:
        handle = state.database._environment.open_db(TABLE.encode(), transaction)
        transaction.put(last, b"\1noise", db=handle)
    state.crash()
    file = state.open(len(DATA))
    assert file.missing(0, len(DATA)) == [(2 * BLOCK_BYTES, len(DATA))]
    assert file.read(0, 2 * BLOCK_BYTES) == (DATA[: 2 * BLOCK_BYTES], [])


FULL = """
import os, resource, sys
from pathlib import Path
from aggfs.errors import LocalDiskFailed
from tests.cache.test_sparse import DATA, State
from aggfs.coding.cipher import XtsUnit

state = State(Path(sys.argv[1]), XtsUnit(bytes(range(64))))
file = state.open()
file.write(0, b"a" * 100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, -1))
try:
    file.write(90_000, b"b" * 100_000)
except LocalDiskFailed:
    print("refused")
data, holes = file.read(0, 200_000)
assert holes == [(100_000, 200_000)]
assert data[:90_000] == b"a" * 90_000
assert set(bytes(data[90_000:100_000])) <= set(b"ab")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
file.write(90_000, b"c" * 100_000)
assert file.read(0, 190_000)[0] == b"a" * 90_000 + b"c" * 100_000
print("went on")
"""


def test_a_write_that_the_disk_cut_short_leaves_no_noise(tmp_path):
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split("\n") == ["refused", "went on", ""], done.stderr


def test_memory_does_not_grow_with_a_file(encrypted):
    file = encrypted.open()
    for at in range(200):
        file.write(at * len(DATA), DATA)
        file.settle()
    assert len(file.dirty_ranges()) == 1
    assert file._presence.changed == {}
    assert len(file._sidecar.marked) == 1
    assert file._sidecar._region_end == 64


def test_a_sparse_file_of_a_tebibyte_is_no_work(state):
    size = 1 << 40
    file = state.open()
    file.write(size - 10, b"the end...")
    assert file.missing(0, size) == [(0, size - 10)]
    frozen = file.freeze(size)
    assert list(frozen.blocks) == [(size // BLOCK_BYTES - 1, size // BLOCK_BYTES)]
    frozen.thaw()
    file.cut(1 << 39)
    assert not file.is_dirty
    state.crash()
    assert state.open(1 << 39).missing(0, 1 << 39) == [(0, 1 << 39)]


CRASH = """
import os, random, sys
from pathlib import Path
from aggfs.coding.cipher import XtsUnit
from tests.cache.test_sparse import State

state = State(Path(sys.argv[1]), XtsUnit(bytes(range(64))))
seed, releases = int(sys.argv[2]), sys.argv[3] == "True"
chance = random.Random(seed)
known = Path(sys.argv[4]).read_bytes()
accounts = [bytearray(known[n * 1_000_000 : (n + 1) * 1_000_000]) for n in range(8)]
for step in range(1_000_000):
    number = chance.randrange(8)
    size = 1_000_000
    file = state.open(size, number=number)
    for _ in range(chance.randrange(4)):
        offset = chance.randrange(size - 70_000)
        length = chance.choice((5, 100, 4096, 70_000))
        os.write(1, b"%d %d %d %d\\n" % (number, offset, length, step))
        data = bytes((step % 251 + 1,)) * length
        file.write(offset, data)
        accounts[number][offset : offset + length] = data
        os.write(1, b"done\\n")
    if chance.random() < 0.3:
        file.sync()
    if releases and chance.random() < 0.2:
        frozen = file.freeze(size)
        for start, end in frozen.missing():  # as if fetched
            file.fill(start, accounts[number][start:end])
        for first, stop in frozen.blocks:
            frozen.read_blocks(first, stop - first)
        frozen.release()
    if chance.random() < 0.5:
        state.database.commit_now()
    state.files.close(file)
"""


@pytest.mark.parametrize("releases", [False, True])
def test_a_kill_at_any_moment_loses_no_finished_write(tmp_path, releases):
    contents = [bytearray(1_000_000) for _ in range(8)]
    for seed, lines in enumerate((40, 201, 350)):
        known = tmp_path / "known"
        known.write_bytes(b"".join(contents))
        process = subprocess.Popen(
            [sys.executable, "-c", CRASH, tmp_path, str(seed), str(releases), known],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        log = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        log += process.stdout.read().split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        under_way = None
        for line in log:
            if line.strip() != b"done":
                number, offset, length, step = map(int, line.split())
                under_way = (number, offset, length)
                new = bytes((step % 251 + 1,)) * length
                continue
            contents[number][offset : offset + length] = new
            under_way = None
        state = State(tmp_path, XtsUnit(bytes(range(64))))
        for number, content in enumerate(contents):
            file = state.open(len(content), number=number)
            if under_way is not None and under_way[0] == number:
                _, start, length = under_way  # it may be there in part
                file.load(start, start + length)
                content[start : start + length] = file.read(start, length)[0]
            check(file, content, releases)
            state.files.close(file)
        state.leave()


def check(file, content, releases):
    """What is there is what was written. Only clean bytes may have become holes, which are those
    that were released."""
    size = len(content)
    file.load(0, size)
    data, holes = file.read(0, size)
    shown = bytearray(content)
    for start, end in holes:
        assert releases or not any(content[start:end])
        shown[start:end] = bytes(end - start)
    assert data == shown
