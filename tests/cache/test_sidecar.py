"""Dirty marks: what was marked before a crash is marked after it."""

import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.cache.marks import RECORD_BYTES, REGION_BYTES, Marks, opened, sealed
from aggfs.cache.sidecar import LONG_RECORDS, Sidecar
from aggfs.errors import UnknownVersion
from aggfs.sync.holes import Ranges

REGION_RECORDS = REGION_BYTES // RECORD_BYTES - 1
ranges = st.tuples(st.integers(0, 2000), st.integers(1, 50)).map(lambda pair: (pair[0], sum(pair)))


class Home:
    """A directory with marks whose process can crash."""

    def __init__(self, path):
        self.path = path
        self.start()

    def start(self):
        self.marks = Marks(os.path.join(self.path, "marks"))

    def open(self, number=1, generation=1):
        tail = os.path.join(self.path, f"{number}.{generation}")
        return Sidecar(self.marks, tail, number, generation, Ranges)


@pytest.fixture
def home(tmp_path):
    return Home(str(tmp_path))


@given(
    steps=st.lists(st.tuples(st.booleans(), ranges), max_size=400),
    stops=st.sets(st.integers(0, 400), max_size=3),
)
def test_marks_are_what_was_marked_and_not_unmarked(tmp_path_factory, steps, stops):
    home = Home(str(tmp_path_factory.mktemp("marks")))
    sidecar, model = home.open(), Ranges()
    for number, (mark, pair) in enumerate(steps):
        if mark:
            sidecar.mark(*pair)
            model.add(*pair)
        else:
            sidecar.unmark([pair])
            model.remove(*pair)
        assert sidecar.marked == model
        if number in stops:
            home.start()
            sidecar = home.open()
            assert sidecar.marked == model
    home.start()
    assert home.open().marked == model


def test_marks_that_go_on_make_the_last_record_longer(home):
    sidecar = home.open()
    for number in range(1000):
        sidecar.mark(number * 100, number * 100 + 100)
    assert sidecar._region_end == 2 * RECORD_BYTES
    home.start()
    assert list(home.open().marked) == [(0, 100_000)]


def test_a_log_that_outgrows_its_region_goes_on_in_a_tail(home):
    sidecar = home.open()
    pairs = [(number * 10, number * 10 + 5) for number in range(3 * REGION_RECORDS)]
    for pair in pairs:
        sidecar.mark(*pair)
    sidecar.sync()
    assert os.path.exists(f"{home.path}/1.1")
    home.start()
    sidecar = home.open()
    assert list(sidecar.marked) == pairs
    sidecar.unmark(pairs[1:])
    home.start()
    sidecar = home.open()
    assert list(sidecar.marked) == pairs[:1]


def test_the_tail_of_a_former_tenancy_says_nothing(home):
    sidecar = home.open()
    for number in range(2 * REGION_RECORDS):
        sidecar.mark(number * 10, number * 10 + 5)
    tail = f"{home.path}/1.1"
    with open(tail, "rb") as file:
        former = file.read()
    sidecar.unmark([(0, 1 << 60)])
    sidecar.mark(7, 8)
    with open(tail, "wb") as file:
        file.write(former)
    home.start()
    assert list(home.open().marked) == [(7, 8)]


def test_regions_are_used_again_and_former_records_do_not_count(home):
    for number in range(1, 50):
        sidecar = home.open(number)
        sidecar.mark(0, 10)
        sidecar.mark(100, 110)
        sidecar.unmark([(0, 200)])
        sidecar.close()
    assert os.path.getsize(f"{home.path}/marks") == REGION_BYTES
    home.open(99).mark(5, 6)
    home.start()
    assert home.marks.tenants() == [(99, 1)]
    assert list(home.open(99).marked) == [(5, 6)]


def test_files_do_not_see_each_others_marks(home):
    sidecars = [home.open(number, generation) for number in (1, 2) for generation in (1, 2)]
    for index, sidecar in enumerate(sidecars):
        sidecar.mark(index, index + 1)
    home.start()
    assert home.marks.tenants() == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [list(home.open(n, g).marked) for n in (1, 2) for g in (1, 2)] == [
        [(0, 1)],
        [(1, 2)],
        [(2, 3)],
        [(3, 4)],
    ]


def test_a_closed_file_finds_its_marks_in_the_same_process(home):
    sidecar = home.open()
    sidecar.mark(3, 9)
    sidecar.close()
    assert home.marks.tenants() == [(1, 1)]
    again = home.open()
    assert list(again.marked) == [(3, 9)]
    again.unmark([(0, 20)])
    again.close()
    assert home.marks.tenants() == []


@pytest.mark.parametrize("damaged", [1, 3])
def test_a_damaged_record_is_skipped_and_the_others_count(home, damaged):
    sidecar = home.open()
    for number in range(5):
        sidecar.mark(number * 10, number * 10 + 5)
    with open(f"{home.path}/marks", "r+b") as file:
        file.seek((1 + damaged) * RECORD_BYTES + 9)
        file.write(b"\xff")
    home.start()
    sidecar = home.open()
    assert list(sidecar.marked) == [(n * 10, n * 10 + 5) for n in range(5) if n != damaged]
    sidecar.mark(1000, 1001)
    home.start()
    assert home.open().marked.contains(1000, 1001)


def test_a_long_history_is_made_short_while_marks_are_made(home):
    sidecar, lock = home.open(), threading.Lock()
    sidecar.mark(0, 1)
    for number in range(LONG_RECORDS):
        sidecar.mark(100 + number * 10, 105 + number * 10)
        sidecar.unmark([(100 + number * 10, 105 + number * 10)])
    assert sidecar.long
    stop = threading.Event()

    def mark():
        for number in range(200):
            with lock:
                sidecar.mark(1_000_000 + number * 10, 1_000_005 + number * 10)
        stop.set()

    worker = threading.Thread(target=mark)
    worker.start()
    while not stop.is_set():
        sidecar.compact(lock)
    worker.join()
    sidecar.compact(lock)
    sidecar.sync()
    assert not sidecar.long
    home.start()
    wanted = [(0, 1), *((1_000_000 + n * 10, 1_000_005 + n * 10) for n in range(200))]
    assert list(home.open().marked) == wanted


class Yielding:
    """A lock that lets another in as soon as it is free for the first time."""

    def __init__(self, other):
        self.other = other

    def __enter__(self):
        return self

    def __exit__(self, *error):
        other, self.other = self.other, None
        if other is not None:
            other()


def test_a_mark_that_goes_on_where_the_long_history_ended_is_kept(home):
    sidecar = home.open()
    for number in range(2 * REGION_RECORDS):
        sidecar.mark(number * 10, number * 10 + 5)
    end = 2 * REGION_RECORDS * 10 - 5
    sidecar.compact(Yielding(lambda: sidecar.mark(end, end + 1000)))
    home.start()
    assert home.open().marked.contains(end, end + 1000)


def test_a_log_that_ended_while_it_was_made_short_stays_ended(home):
    sidecar = home.open()
    for number in range(2 * REGION_RECORDS):
        sidecar.mark(number * 10, number * 10 + 5)

    def end():
        sidecar.unmark([(0, 1 << 60)])
        sidecar.mark(3, 4)

    sidecar.compact(Yielding(end))
    home.start()
    assert list(home.open().marked) == [(3, 4)]
    assert not os.path.exists(f"{home.path}/1.1.new")


def test_marks_of_a_newer_aggfs_are_not_guessed_at(home):
    home.open().mark(0, 1)
    with open(f"{home.path}/marks", "r+b") as file:
        file.write(sealed(b"aggmark\x02", 1, 1, 0))
    with pytest.raises(UnknownVersion):
        home.start()


@given(record=st.binary(max_size=2 * RECORD_BYTES), seed=st.integers(0, 1 << 63))
def test_noise_is_no_record(record, seed):
    assert opened(record, seed) is None


@given(
    kind=st.binary(min_size=8, max_size=8),
    first=st.integers(0, (1 << 64) - 1),
    second=st.integers(0, (1 << 64) - 1),
    seed=st.integers(0, (1 << 64) - 1),
)
def test_a_record_opens_under_its_seed_only(kind, first, second, seed):
    record = sealed(kind, first, second, seed)
    assert opened(record, seed) == (kind, first, second)
    assert opened(record, seed ^ 1) is None
