"""Figures of an account: what was asked, what was moved, how long it took."""

import pytest
import trio

from aggfs.errors import NotFound, Refused
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.stores.metered import SAMPLES, SAMPLES_NEEDED, Meter, MeteredStore


@pytest.fixture
def faulty():
    return FaultyStore(MemoryStore(MemoryObjects("test")), seed=1)


@pytest.fixture
def store(faulty):
    return MeteredStore(faulty)


async def test_requests_and_bytes_are_counted_by_verb(store):
    await store.put("key", [b"12345", bytearray(b"678"), memoryview(b"90")])
    await store.create("new", [b"x"])
    await store.get("key")
    await store.get_range("key", 2, 3)
    await store.head("key")
    await store.list_page("", "")
    await store.delete("key")
    await store.space()
    figures = store.figures()
    assert {verb: each.requests for verb, each in figures.items()} == dict.fromkeys(figures, 1)
    assert figures["put"].sent_bytes == 10
    assert figures["create"].sent_bytes == 1
    assert figures["get"].received_bytes == 10
    assert figures["get_range"].received_bytes == 3


async def test_failures_are_counted_and_absent_objects_are_none(store, faulty):
    with pytest.raises(NotFound):
        await store.get("absent")
    faulty.inject(Fault(FaultKind.AUTH))
    with pytest.raises(Refused):
        await store.put("key", [b"12345"])
    assert store.figures()["get"].failed == 0
    assert store.figures()["put"].failed == 1
    assert store.figures()["put"].sent_bytes == 0


async def test_latencies_are_measured(store, faulty, autojump_clock):
    faulty.inject(Fault(FaultKind.SLOW, seconds=0.4))
    assert store.mean_seconds("put") is None
    await store.put("key", [b"x"])
    assert store.mean_seconds("put") == pytest.approx(0.4)
    assert store.mean_seconds("get") is None


async def test_a_late_call_is_known_after_some_were_seen(store, faulty, autojump_clock):
    await store.put("key", [b"x"])
    for number in range(SAMPLES_NEEDED):
        assert store.p95_seconds("get") is None
        faulty.heal()
        faulty.inject(Fault(FaultKind.SLOW, seconds=0.1 * (number + 1)))
        await store.get("key")
    assert store.p95_seconds("get") == pytest.approx(0.1 * SAMPLES_NEEDED)


async def test_an_account_that_always_loses_does_not_look_fast(store, faulty, autojump_clock):
    await store.put("key", [b"x"])
    await store.get("key")
    faulty.inject(Fault(FaultKind.HANG))
    for _ in range(30):
        with trio.move_on_after(2):
            await store.get("key")
    assert store.mean_seconds("get") > 1.5
    assert store.p95_seconds("get") == pytest.approx(2)
    assert store.figures()["get"].cancelled == 30


async def test_calls_under_way_are_counted(store, faulty, autojump_clock):
    faulty.inject(Fault(FaultKind.SLOW, seconds=5))
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(store.put, f"{number}", [b"x"])
        await trio.sleep(1)
        assert store.in_flight == 3
        assert store.figures()["put"].in_flight == 3
        nursery.cancel_scope.cancel()
    assert store.in_flight == 0
    assert store.figures()["put"].in_flight == 0


async def test_the_time_of_all_answers_is_summed_up(store, faulty, autojump_clock):
    """What looks twice knows the mean of the time between."""
    for seconds in (1, 3):
        faulty.heal()
        faulty.inject(Fault(FaultKind.SLOW, seconds=seconds))
        await store.put("key", [b"x"])
    figures = store.figures()["put"]
    assert (figures.answered, figures.answered_seconds) == (2, pytest.approx(4))


def test_the_95th_percentile_follows_the_latest_calls():
    meter = Meter()
    for _ in range(SAMPLES):
        meter.answered(1.0)
    for _ in range(SAMPLES // 10):
        meter.answered(9.0)
    assert meter.p95_seconds == 9.0
    for _ in range(SAMPLES):
        meter.answered(0.1)
    assert meter.p95_seconds == 0.1
    assert meter.mean_seconds == pytest.approx(0.1, abs=0.02)
