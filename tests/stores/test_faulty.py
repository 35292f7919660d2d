"""Faults on demand: each does what its name says, and the same seed does it again."""

import itertools

import pytest
import trio

from aggfs.errors import NotFound, QuotaFull, Refused, StoreError, Unreachable
from aggfs.stores.base import ObjectInfo
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore

DATA = bytes(range(256)) * 64


@pytest.fixture
def objects():
    objects = MemoryObjects("test")
    objects.write("ab/key", DATA)
    return objects


@pytest.fixture
def store(objects):
    return FaultyStore(MemoryStore(objects), seed=7)


async def outcome(call):
    try:
        return await call
    except StoreError as error:
        return type(error)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (FaultKind.DOWN, Unreachable),
        (FaultKind.SERVER_ERROR, Unreachable),
        (FaultKind.THROTTLE, Unreachable),
        (FaultKind.RESET, Unreachable),
        (FaultKind.AUTH, Refused),
    ],
)
async def test_faults_of_the_whole_account_meet_every_verb(store, objects, kind, expected):
    store.inject(Fault(kind))
    for call in (
        store.put("ab/new", [b"x"]),
        store.create("ab/new", [b"x"]),
        store.get("ab/key"),
        store.get_range("ab/key", 0, 1),
        store.head("ab/key"),
        store.list_page("", ""),
        store.delete("ab/key"),
        store.space(),
    ):
        assert await outcome(call) is expected
    assert objects.keys("", "", 10) == ["ab/key"]
    store.heal()
    assert await store.get("ab/key") == DATA


async def test_a_full_account_still_reads_lists_and_deletes(store):
    store.inject(Fault(FaultKind.QUOTA))
    assert await outcome(store.put("ab/new", [b"x"])) is QuotaFull
    assert await store.get("ab/key") == DATA
    await store.delete("ab/key")
    assert (await store.list_page("", "")).objects == ()


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.RESET])
async def test_a_failed_request_may_have_been_carried_out(store, objects, kind):
    store.inject(Fault(kind, applied=True))
    assert await outcome(store.put("ab/new", [b"x"])) is Unreachable
    assert objects.read("ab/new") == b"x"


async def test_throttling_tells_how_long_to_wait(store):
    store.inject(Fault(FaultKind.THROTTLE, retry_after_seconds=9))
    with pytest.raises(Unreachable) as failure:
        await store.get("ab/key")
    assert failure.value.retry_after_seconds == 9


async def test_a_hanging_account_never_answers_and_can_be_left(store, autojump_clock):
    store.inject(Fault(FaultKind.HANG))
    with trio.move_on_after(1e6) as scope:
        await store.get("ab/key")
    assert scope.cancelled_caught


async def test_a_slow_account_answers_late(store, autojump_clock):
    store.inject(Fault(FaultKind.SLOW, seconds=3, jitter_seconds=2))
    began = trio.current_time()
    assert await store.get("ab/key") == DATA
    assert 3 <= trio.current_time() - began <= 5


async def test_truncated_reads_say_nothing(store):
    store.inject(Fault(FaultKind.TRUNCATE, fraction=0.25))
    assert await store.get("ab/key") == DATA[: len(DATA) // 4]
    assert await store.get_range("ab/key", 0, 8) == DATA[:2]


async def test_rot_is_at_the_same_places_for_every_reader(store, objects):
    store.inject(Fault(FaultKind.BITFLIP, every_bytes=1000))
    rotten = await store.get("ab/key")
    wrong = [place for place in range(len(DATA)) if rotten[place] != DATA[place]]
    assert {second - first for first, second in itertools.pairwise(wrong)} == {1000}
    for start, length in [(0, 5000), (wrong[0], 1), (wrong[3] - 10, 20), (123, 4567)]:
        assert await store.get_range("ab/key", start, length) == rotten[start : start + length]
    again = FaultyStore(MemoryStore(objects), seed=7)
    again.inject(Fault(FaultKind.BITFLIP, every_bytes=1000))
    assert await again.get("ab/key") == rotten
    store.heal()
    assert await store.get("ab/key") == DATA


async def test_lost_writes_are_acknowledged_and_forgotten(store, objects):
    store.inject(Fault(FaultKind.LOST_WRITE))
    await store.put("ab/new", [b"x"])
    await store.create("ab/newer", [b"x"])
    await store.delete("ab/key")
    assert objects.keys("", "", 10) == ["ab/key"]


async def test_a_stale_account_shows_what_was_there_when_the_fault_began(store):
    await store.put("ab/gone", [b"later deleted"])
    store.inject(Fault(FaultKind.STALE))
    before = await store.list_page("", "")
    await store.put("ab/key", [b"newer"])
    await store.put("ab/key", [b"newest"])
    await store.put("ab/new", [b"x"])
    await store.delete("ab/gone")
    assert await store.get("ab/key") == DATA
    assert await store.get_range("ab/key", 1, 2) == DATA[1:3]
    assert await store.head("ab/key") == ObjectInfo("ab/key", len(DATA))
    assert await store.get("ab/gone") == b"later deleted"
    assert await outcome(store.get("ab/new")) is NotFound
    assert await store.list_page("", "") == before
    store.heal()
    assert await store.get("ab/key") == b"newest"
    assert await outcome(store.get("ab/gone")) is NotFound


async def test_a_fault_meets_only_the_verbs_it_names(store):
    store.inject(Fault(FaultKind.DOWN, verbs=frozenset({"get_range"})))
    assert await store.get("ab/key") == DATA
    assert await outcome(store.get_range("ab/key", 0, 1)) is Unreachable


async def test_a_fault_ends_after_the_times_it_was_given(store):
    store.inject(Fault(FaultKind.DOWN, times=2))
    outcomes = [await outcome(store.get("ab/key")) for _ in range(4)]
    assert outcomes == [Unreachable, Unreachable, DATA, DATA]
    assert store.hits[FaultKind.DOWN] == 2


async def test_chance_comes_from_the_seed_alone(objects):
    async def run(seed):
        store = FaultyStore(MemoryStore(objects), seed=seed)
        store.inject(Fault(FaultKind.DOWN, chance=0.3))
        return [await outcome(store.get("ab/key")) is Unreachable for _ in range(100)]

    first = await run(1)
    assert first == await run(1)
    assert first != await run(2)
    assert 10 < sum(first) < 50


async def test_a_full_memory_account_refuses_and_keeps_what_it_has():
    store = MemoryStore(MemoryObjects("small", capacity_bytes=100))
    await store.put("a", [bytes(60)])
    with pytest.raises(QuotaFull):
        await store.put("b", [bytes(60)])
    with pytest.raises(QuotaFull):
        await store.put("a", [bytes(101)])
    assert len(await store.get("a")) == 60
    assert (await store.space()).free_bytes == 40
    await store.put("a", [bytes(100)])
    await store.delete("a")
    assert (await store.space()).free_bytes == 100
