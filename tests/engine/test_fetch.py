"""Reading blocks from accounts that are slow, silent, lying or gone."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from aggfs.cache.database import Database
from aggfs.coding import codec
from aggfs.engine import accounts as account_tables
from aggfs.engine.accounts import Ledger
from aggfs.engine.reading.hedging import SAMPLES_NEEDED, SHARE, Hedging
from aggfs.errors import TooFewFragments, Unreachable
from aggfs.stores.faulty import FaultKind
from aggfs.stores.retrying import RetryingStore, RetryPolicy
from tests.support.fetching import Ground
from tests.support.stripes import SID, content, sealed_stripe

BLOCKS = [content(10_000, number) for number in range(6)]


@pytest.fixture
def patient_clock() -> MockClock:
    """Jumps when nothing happens: workers get the time that they need."""
    return MockClock(autojump_threshold=0.05)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    database = Database.open(str(tmp_path / "database"), tables=account_tables.TABLES)
    yield Ground(tmp_path, Ledger(database))
    database.abandon()


async def test_a_block_is_read_with_k_requests_for_its_own_cells(ground):
    row = ground.store(BLOCKS, SID)
    assert await ground.read(row, 2, 1) == BLOCKS[2:3]
    asked = [one for store in ground.counters for one in store.ranges]
    assert asked == [codec.cell_range(row.sealed_bytes, row.k, 2)] * row.k


async def test_long_reads_are_carried_by_all_accounts(ground):
    row = ground.store(BLOCKS, SID)
    for _ in range(10):
        await ground.read(row, 0, 6)
    assert min(len(store.ranges) for store in ground.counters) >= 3
    assert ground.requests == 30


@pytest.mark.parametrize(
    "kind",
    [FaultKind.DOWN, FaultKind.AUTH, FaultKind.SERVER_ERROR, FaultKind.BITFLIP, FaultKind.TRUNCATE],
)
async def test_any_two_accounts_may_fail(ground, patient_clock, kind):
    row = ground.store(BLOCKS, SID)
    ground.break_all(kind, [1, 3])
    for _ in range(5):
        assert await ground.read(row, 0, 6) == BLOCKS


async def test_a_damaged_fragment_is_told_and_others_serve_the_read(ground, caplog):
    row = ground.store(BLOCKS, SID)
    ground.spoil(row, 0)
    for _ in range(5):
        assert await ground.read(row, 1, 3) == BLOCKS[1:4]
    assert (row.sid, 0) in ground.damaged
    assert {index for _, index in ground.damaged} == {0}
    assert "a0 damaged fragment 0" in caplog.text
    assert all(account.healthy for account in ground.accounts)


async def test_a_lost_fragment_is_told_and_its_account_is_not_to_blame(ground, caplog):
    row = ground.store(BLOCKS, SID)
    ground.objects[4].remove(ground.name(row, 4))
    for _ in range(5):
        assert await ground.read(row, 0, 1) == BLOCKS[:1]
    assert set(ground.damaged) == {(row.sid, 4)}
    assert "a4 lost fragment 4" in caplog.text
    assert all(account.healthy for account in ground.accounts)


async def test_too_few_good_fragments_are_one_error_of_ours_that_says_why(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    ground.break_all(FaultKind.DOWN, [0, 1, 2])
    with pytest.raises(TooFewFragments, match="2 of 3 fragments came") as caught:
        await ground.read(row, 0, 1)
    assert len(caught.value.failures) == 3


async def test_three_lying_accounts_of_five_give_an_error_and_never_wrong_bytes(ground, caplog):
    row = ground.store(BLOCKS, SID)
    for index in (0, 2, 4):
        ground.spoil(row, index)
    with pytest.raises(TooFewFragments, match="damaged"):
        await ground.read(row, 0, 6)
    assert "damaged" in caplog.text


async def test_a_read_ends_at_its_deadline_when_too_many_accounts_hang(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    ground.break_all(FaultKind.HANG, [0, 1, 2])
    began = trio.current_time()
    with pytest.raises(TooFewFragments, match="in time"):
        await ground.read(row, 0, 1)
    assert trio.current_time() - began <= 26


async def test_a_read_tried_again_at_once_does_not_wait_as_long_again(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    ground.break_all(FaultKind.HANG, [0, 1, 2])
    began = trio.current_time()
    for _ in range(2):
        with pytest.raises(TooFewFragments, match="in time"):
            await ground.read(row, 0, 1)
    assert trio.current_time() - began < 30


async def test_a_hanging_account_delays_the_first_reads_only(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    ground.break_all(FaultKind.HANG, [2])
    for _ in range(60):
        assert await ground.read(row, 0, 1) == BLOCKS[:1]
    assert ground.faulty[2].hits[FaultKind.HANG] <= 2


async def test_who_is_left_alone_is_asked_all_the_same_where_another_hangs(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    account = ground.accounts.get(row.places[3])
    policy = RetryPolicy(attempts=1, breaker_failures=1, pause_seconds=60)
    store = RetryingStore(account.store, random=lambda: 1.0, policy=policy)
    account.store, account.wake = store, store.wake
    ground.break_all(FaultKind.DOWN, [0, 3])
    with pytest.raises(Unreachable):
        await store.get_range("any", 0, 1)
    ground.faulty[3].heal()
    ground.break_all(FaultKind.HANG, [4])
    assert await ground.read(row, 0, 1) == BLOCKS[:1]


async def test_reads_go_on_where_what_is_late_is_slower_than_silence(ground, patient_clock):
    """An account is endured, no hedge being left, while answers become slower than that."""
    row = ground.store(BLOCKS, SID)
    hedging = ground.fetcher._hedging
    while hedging.take():
        pass
    ground.break_all(FaultKind.HANG, [0, 1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ground.read, row, 0, 1)
        await trio.sleep(1)
        hedging.late_seconds = 40.0
        nursery.start_soon(ground.read, row, 0, 1)


async def test_hedges_are_a_tenth_of_all_requests_at_most(ground, patient_clock):
    row = ground.store(BLOCKS, SID)
    for store in ground.faulty:
        ground.break_all(FaultKind.SLOW, [ground.faulty.index(store)], jitter_seconds=2.5)
    reads = 16
    for _ in range(reads):
        assert await ground.read(row, 0, 1) == BLOCKS[:1]
    asked = sum(store.hits[FaultKind.SLOW] for store in ground.faulty)
    assert asked <= reads * row.k * (1 + SHARE) + 2


async def test_what_is_staged_is_read_without_asking_anybody(ground):
    sealed = sealed_stripe(ground.keys, BLOCKS)
    row = ground.store(BLOCKS, SID)
    ground.staging.put(SID, codec.stage_bytes(sealed))
    assert await ground.read(row, 3, 2) == BLOCKS[3:5]
    assert ground.requests == 0


async def test_a_staged_stripe_that_is_given_back_meanwhile_is_read_from_the_accounts(ground):
    row = ground.store(BLOCKS, SID)
    other = sealed_stripe(ground.keys, BLOCKS[::-1], sid=bytes(24))
    ground.staging.put(SID, codec.stage_bytes(other))
    assert await ground.read(row, 3, 2) == BLOCKS[3:5]
    ground.staging.put(SID, [b"rubbish"])
    assert await ground.read(row, 3, 2) == BLOCKS[3:5]


def test_what_is_late_is_learned_from_the_latest_answers():
    hedging = Hedging()
    first = hedging.late_seconds
    for _ in range(SAMPLES_NEEDED):
        hedging.answered(0.8)
    assert first == 0.25
    assert hedging.late_seconds == 0.8


def test_no_hedge_goes_out_that_was_not_earned():
    hedging = Hedging()
    while hedging.take():
        pass
    for _ in range(9):
        hedging.asked()
    assert not hedging.take()
    for _ in range(2):
        hedging.asked()
    assert hedging.take()


@pytest.fixture(autouse=True)
def _info_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
