"""The local database: what is read is what was put, whatever is committed meanwhile."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zlib

import lmdb
import pytest
import trio
import trio.testing
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aggfs.cache.database import GENERATION_BYTES, Database
from aggfs.errors import Busy, Damaged, LocalDiskFailed, UnknownVersion

keys = st.sampled_from([bytes(key) for key in (b"a", b"aa", b"ab", b"b", b"\xff", b"\xff\xff")])
prefixes = st.sampled_from([b"", b"a", b"aa", b"b", b"\xff", b"c"])


class DatabaseIsADictionary(RuleBasedStateMachine):
    """The three layers against one dictionary. Committing is cut in two, as the writer does."""

    @initialize()
    def begin(self):
        self.home = tempfile.TemporaryDirectory()
        self.model: dict[bytes, bytes] = {}
        self.saved: dict[bytes, bytes] = {}
        self.taken = None
        self.reopen()

    def reopen(self):
        self.database = Database.open(self.home.name, tables=("t", "other"))
        self.table = self.database.table("t")

    @rule(key=keys, value=st.binary(max_size=9))
    def put(self, key, value):
        self.table.put(key, value)
        self.model[key] = value

    @rule(key=keys)
    def delete(self, key):
        self.table.delete(key)
        self.model.pop(key, None)

    @rule()
    def the_committer_takes_a_generation(self):
        if self.taken is None:
            self.taken = self.database._take()
            self.saved = dict(self.model)

    @rule()
    def the_writer_writes(self):
        if self.taken is not None:
            self.database._write(*self.taken)

    @rule()
    def the_commit_is_settled(self):
        if self.taken is not None:
            self.database._write(*self.taken)
            self.database._settle(self.taken[0])
            self.taken = None

    @rule(key=keys)
    def get(self, key):
        assert self.table.get(key) == self.model.get(key)
        assert self.database.table("other").get(key) is None

    @rule(prefix=prefixes, after=st.none() | keys, limit=st.none() | st.integers(0, 3))
    def scan(self, prefix, after, limit):
        found = sorted(
            (key, value)
            for key, value in self.model.items()
            if key.startswith(prefix) and (after is None or key > after)
        )
        assert self.table.scan(prefix, after, limit=limit) == found[:limit]

    @rule(prefix=prefixes, at_most=st.none() | keys)
    def last(self, prefix, at_most):
        found = [
            (key, value)
            for key, value in self.model.items()
            if key.startswith(prefix) and (at_most is None or key <= at_most)
        ]
        assert self.table.last(prefix, at_most) == (max(found) if found else None)

    @rule()
    def power_fails(self):
        self.abandon()
        self.reopen()
        if self.taken is not None:
            # The transaction is there wholly or not at all.
            rows = dict(self.table.scan(b""))
            assert rows in (self.saved, self.before)
            self.saved, self.taken = rows, None
            self.model = dict(rows)
        else:
            self.model = dict(self.saved)
        assert dict(self.table.scan(b"")) == self.model

    @invariant()
    def remember(self):
        if getattr(self, "taken", None) is None:
            self.before = dict(getattr(self, "saved", {}))

    def abandon(self):
        self.database.abandon()

    def teardown(self):
        if hasattr(self, "database"):
            self.abandon()
            self.home.cleanup()


DatabaseIsADictionary.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
TestDatabaseIsADictionary = DatabaseIsADictionary.TestCase


def rows(path):
    database = Database.open(str(path), tables=("t",))
    found = dict(database.table("t").scan(b""))
    database.abandon()
    return found


async def test_what_durable_acknowledged_is_there_after_a_reopen(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        table = database.table("t")
        for number in range(50):
            table.put(b"%d" % number, b"x" * number)
            await database.durable()
        table.put(b"unacknowledged", b"")
        nursery.cancel_scope.cancel()
    await database.close()
    found = Database.open(str(tmp_path), tables=("t",))
    assert len(found.table("t").scan(b"")) == 51
    await found.close()


async def test_a_change_is_committed_by_itself_after_a_moment(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        done = trio.Event()
        database.table("t").put(b"k", b"v")
        database.after_commit(done.set)
        with trio.fail_after(5):
            await done.wait()
        assert database._environment.stat()["entries"] == 1
        nursery.cancel_scope.cancel()
    await database.close()


async def test_durable_commits_by_itself_when_no_committer_runs(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    database.table("t").put(b"k", b"v")
    await database.durable()
    await database.durable()
    await database.close()
    assert rows(tmp_path) == {b"k": b"v"}


def test_a_tool_commits_in_its_own_thread(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    database.table("t").put(b"k", b"v")
    database.commit_now()
    database.abandon()
    assert rows(tmp_path) == {b"k": b"v"}


async def test_reads_see_a_batch_while_it_is_being_committed(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    table = database.table("t")
    gate, writing = threading.Event(), threading.Event()

    def hold():
        writing.set()
        gate.wait(10)

    table.put(b"first", b"1")
    database.before_commit("gate", hold)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        nursery.start_soon(database.durable)
        await trio.to_thread.run_sync(writing.wait)
        table.put(b"second", b"2")
        table.delete(b"first")
        assert table.scan(b"") == [(b"second", b"2")]
        table.put(b"first", b"3")
        gate.set()
        await database.durable()
        assert table.scan(b"") == [(b"first", b"3"), (b"second", b"2")]
        nursery.cancel_scope.cancel()
    await database.close()


async def test_actions_before_a_commit_run_first_and_once_and_those_after_it_last(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    seen = []
    for _ in range(3):
        database.before_commit("file 7", lambda: seen.append("synced"))
    database.table("t").put(b"k", b"v")
    database.after_commit(lambda: seen.append(database._environment.stat()["entries"]))
    await database.durable()
    assert seen == ["synced", 1]
    database.table("t").put(b"k", b"w")
    await database.durable()
    assert seen == ["synced", 1]
    await database.close()


async def test_a_second_opener_is_told_that_it_is_busy(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    with pytest.raises(Busy):
        Database.open(str(tmp_path), tables=("t",))
    await database.close()
    await Database.open(str(tmp_path), tables=("t",)).close()


async def test_the_map_grows_by_itself(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",), map_bytes=1 << 20)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        table = database.table("t")
        for number in range(40):
            table.put(b"%d" % number, bytes([number]) * 100_000)
            await database.durable()
            assert table.get(b"0") == bytes(100_000)
        nursery.cancel_scope.cancel()
    assert database._environment.info()["map_size"] > 1 << 20
    await database.close()
    assert len(rows(tmp_path)) == 40


async def test_the_map_grows_in_time_and_not_under_a_snapshot(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",), map_bytes=1 << 20)
    table = database.table("t")
    table.put(b"k", bytes(600_000))
    await database.durable()
    assert database._environment.info()["map_size"] == 2 << 20
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        with database.snapshot() as snapshot:
            before = snapshot.table("t")
            table.put(b"l", bytes(3_000_000))
            nursery.start_soon(database.durable)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert table.get(b"l") == bytes(3_000_000)
            assert before.get(b"l") is None
            assert before.get(b"k") == bytes(600_000)
        with trio.fail_after(10):
            await database.durable()
        nursery.cancel_scope.cancel()
    assert database._environment.info()["map_size"] == 8 << 20
    await database.close()
    assert set(rows(tmp_path)) == {b"k", b"l"}


def damage(path, change):
    """Change the raw value of key b"k" behind the database's back."""
    environment = lmdb.open(str(path), max_dbs=4)
    handle = environment.open_db(b"t")
    with environment.begin(write=True) as transaction:
        raw = bytearray(transaction.get(b"k", db=handle))
        transaction.put(b"k", bytes(change(raw)), db=handle)
    environment.close()


@pytest.mark.parametrize("at", [0, 1, 3, -1])
async def test_a_flipped_bit_in_a_row_is_noticed(tmp_path, at):
    database = Database.open(str(tmp_path), tables=("t",))
    database.table("t").put(b"k", b"value")
    database.table("t").put(b"l", b"good")
    await database.close()

    def flip(raw):
        raw[at] ^= 4
        return raw

    damage(tmp_path, flip)
    database = Database.open(str(tmp_path), tables=("t",))
    with pytest.raises(Damaged):
        database.table("t").get(b"k")
    with pytest.raises(Damaged):
        database.table("t").scan(b"")
    with pytest.raises(Damaged):
        database.table("t").last(b"", b"k")
    assert database.table("t").get(b"l") == b"good"
    await database.close()


@pytest.mark.parametrize("length", [0, 3, 4])
async def test_a_row_that_was_cut_is_noticed(tmp_path, length):
    database = Database.open(str(tmp_path), tables=("t",))
    database.table("t").put(b"k", b"value")
    await database.close()
    damage(tmp_path, lambda raw: raw[:length])
    database = Database.open(str(tmp_path), tables=("t",))
    with pytest.raises(Damaged):
        database.table("t").get(b"k")
    await database.close()


async def test_a_row_of_a_newer_version_is_not_guessed_at(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    database.table("t").put(b"k", b"value")
    await database.close()

    def newer(raw):
        body = b"\x02" + raw[1:-4]
        return body + zlib.crc32(body, zlib.crc32(b"k")).to_bytes(4, "little")

    damage(tmp_path, newer)
    database = Database.open(str(tmp_path), tables=("t",))
    with pytest.raises(UnknownVersion):
        database.table("t").get(b"k")
    await database.close()


async def test_a_file_that_is_no_database_is_damaged(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(Damaged):
        Database.open(str(tmp_path), tables=("t",))


async def test_after_a_failed_sync_nothing_is_acknowledged_again_and_reads_still_work(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    table = database.table("t")
    table.put(b"old", b"1")
    await database.durable()

    def fail():
        raise OSError(errno.ENOSPC, "no space")

    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        table.put(b"new", b"2")
        database.before_commit("file", fail)
        for _ in range(2):
            with pytest.raises(LocalDiskFailed):
                await database.durable()
        with pytest.raises(LocalDiskFailed):
            table.put(b"later", b"3")
        with pytest.raises(LocalDiskFailed):
            table.delete(b"old")
        assert table.get(b"old") == b"1"
        assert table.scan(b"") == [(b"new", b"2"), (b"old", b"1")]
        assert database.failure is not None
        nursery.cancel_scope.cancel()
    with pytest.raises(LocalDiskFailed):
        await database.close()
    assert rows(tmp_path) == {b"old": b"1"}


async def test_every_waiter_is_told_of_a_failed_commit(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    told = []

    def fail():
        raise OSError(errno.EIO, "broken")

    async def wait():
        with pytest.raises(LocalDiskFailed):
            await database.durable()
        told.append(1)

    database.table("t").put(b"k", b"v")
    database.before_commit("file", fail)
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        async with trio.open_nursery() as waiters:
            for _ in range(5):
                waiters.start_soon(wait)
        nursery.cancel_scope.cancel()
    assert len(told) == 5


FULL_DISK = """
import resource, sys, trio
from aggfs.cache.database import Database
from aggfs.errors import LocalDiskFailed

async def main():
    database = Database.open(sys.argv[1], tables=("t",))
    table = database.table("t")
    table.put(b"old", b"1")
    await database.durable()
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, -1))
    for number in range(100):
        table.put(b"%d" % number, bytes(50_000))
        try:
            await database.durable()
        except LocalDiskFailed:
            break
    else:
        raise SystemExit("no failure")
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    try:
        await database.durable()
    except LocalDiskFailed:
        assert table.get(b"old") == b"1" and table.get(b"0") == bytes(50_000)
        print("refused for ever", number)

trio.run(main)
"""


def test_a_commit_that_the_disk_refused_is_refused_for_ever(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "refused for ever" in done.stdout, done.stderr
    acknowledged = int(done.stdout.split()[-1])
    found = rows(tmp_path)
    assert found[b"old"] == b"1"
    assert all(found[b"%d" % number] == bytes(50_000) for number in range(acknowledged))


CRASH = """
import os, sys, trio
from aggfs.cache.database import Database

async def main():
    database = Database.open(sys.argv[1], tables=("a", "b"))
    start = int(sys.argv[2])
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        for number in range(start, start + 1_000_000):
            key = number.to_bytes(8, "big")
            database.table("a").put(key, b"x" * (number % 300))
            database.table("b").put(key, b"y" * (number % 7))
            database.table("a").put(b"last", key)
            if number % 5 == 0:
                await database.durable()
                os.write(1, b"%d\\n" % number)
            elif number % 3 == 0:
                await trio.lowlevel.checkpoint()

trio.run(main)
"""


def test_a_kill_at_any_moment_loses_nothing_acknowledged_and_splits_no_batch(tmp_path):
    start = 1
    for lines in (1, 7, 20, 33, 60):
        process = subprocess.Popen(
            [sys.executable, "-c", CRASH, str(tmp_path), str(start)], stdout=subprocess.PIPE
        )
        acknowledged = 0
        for _ in range(lines):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, process.stdout.read().split(b"\n")[:-1])])
        process.wait()
        process.stdout.close()
        database = Database.open(str(tmp_path), tables=("a", "b"))
        one, two = database.table("a"), database.table("b")
        last = int.from_bytes(one.get(b"last"), "big")
        assert last >= acknowledged
        for number in range(1, last + 1):
            key = number.to_bytes(8, "big")
            assert len(one.get(key)) == number % 300
            assert len(two.get(key)) == number % 7
        assert len(two.scan(b"")) == last
        trio.run(database.close)
        start = last + 1


async def test_a_crowd_of_changes_makes_callers_wait_for_the_disk(tmp_path):
    database = Database.open(str(tmp_path), tables=("t",))
    async with trio.open_nursery() as nursery:
        await nursery.start(database.run)
        table = database.table("t")
        for number in range(GENERATION_BYTES // 100_000 + 2):
            table.put(b"%d" % number, bytes(100_000))
        assert database.crowded
        with trio.fail_after(20):
            await database.throttle()
        assert not database.crowded
        nursery.cancel_scope.cancel()
    await database.close()


@pytest.mark.parametrize("key", [b"", bytes(512)])
async def test_a_key_that_lmdb_cannot_hold_is_refused_when_put(tmp_path, key):
    database = Database.open(str(tmp_path), tables=("t",))
    with pytest.raises(ValueError, match="a key has"):
        database.table("t").put(key, b"")
    with pytest.raises(ValueError, match="a key has"):
        database.table("t").delete(key)
    await database.close()


FULL_ONCE = """
import resource, sys, trio
from aggfs.cache.database import Database
from aggfs.cache.headroom import Headroom

class Room(Headroom):
    def needed(self):
        return True

    def release(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        return super().release()

async def main():
    room = Room(sys.argv[1], 4096)
    database = Database.open(sys.argv[1], tables=("t",), headroom=room)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_001, -1))
    for number in range(40):
        database.table("t").put(b"%d" % number, bytes(50_000))
        await database.durable()
    print("low", database.low_on_space)
    print("restored", database.restore_headroom(), database.low_on_space)
    await database.close()

trio.run(main)
"""


def test_a_commit_that_found_the_disk_full_passes_on_the_headroom(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_ONCE, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split("\n") == ["low True", "restored True False", ""], done.stderr
    assert len(rows(tmp_path)) == 40


if os.geteuid() == 0:  # only root can make a small disk; the test above needs nobody's leave

    @pytest.fixture
    def tiny_disk(tmp_path):
        """A file system of 12 MiB of which the head-room takes 8."""
        place = tmp_path / "tiny"
        place.mkdir()
        options = ["-t", "tmpfs", "-o", "size=12m"]
        subprocess.run(["mount", *options, "tmpfs", str(place)], timeout=10, check=True)
        yield place
        subprocess.run(["umount", "-l", str(place)], timeout=10, check=True)

    async def test_on_a_full_disk_the_headroom_lets_deletes_pass(tiny_disk):
        database = Database.open(str(tiny_disk / "db"), tables=("t",))
        table = database.table("t")
        assert not database.low_on_space
        number = 0
        while not database.low_on_space:
            table.put(b"%d" % number, bytes(20_000))
            await database.durable()
            number += 1
        assert number > 50
        for other in range(number):
            table.delete(b"%d" % other)
            await database.durable()
        table.put(b"small", b"1")
        await database.durable()
        await database.close()
        assert rows(tiny_disk / "db") == {b"small": b"1"}

    async def test_a_disk_that_stays_full_ends_acknowledging(tiny_disk):
        database = Database.open(str(tiny_disk / "db"), tables=("t",))
        table = database.table("t")
        acknowledged = 0
        while database.failure is None:
            table.put(b"%d" % acknowledged, bytes(20_000))
            with contextlib.suppress(LocalDiskFailed):
                await database.durable()
                acknowledged += 1
        assert acknowledged > 300
        assert all(table.get(b"%d" % number) == bytes(20_000) for number in range(acknowledged))
        with pytest.raises(LocalDiskFailed):
            await database.durable()
        with pytest.raises(LocalDiskFailed):
            await database.close()
        assert len(rows(tiny_disk / "db")) >= acknowledged
