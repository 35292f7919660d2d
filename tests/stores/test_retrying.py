"""Trying again under a clock that jumps: every wait here is exact and takes no time."""

import math
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.errors import AlreadyThere, NotFound, Paused, QuotaFull, Refused, Unreachable
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.stores.metered import MeteredStore
from aggfs.stores.retrying import Breaker, RetryingStore, RetryPolicy

PATIENT = RetryPolicy(breaker_failures=1000)  # the breaker stays out of it


class Account:
    """A faulty memory account behind a retrying store, and how often it was asked."""

    def __init__(self, policy=PATIENT, *, share=0.5, seed=1):
        self.objects = MemoryObjects("test")
        self.faulty = FaultyStore(MemoryStore(self.objects), seed=seed)
        self.metered = MeteredStore(self.faulty)
        self.store = RetryingStore(self.metered, random=lambda: share, policy=policy)

    def asked(self, verb):
        return self.metered.figures()[verb].requests

    async def call_fails_at_once(self):
        began, asked = trio.current_time(), self.asked("get")
        with pytest.raises(Unreachable) as failure:
            await self.store.get("key")
        assert trio.current_time() == began
        assert self.asked("get") == asked
        return failure.value


# --- delays -----------------------------------------------------------------------------------


async def test_a_passing_fault_is_not_seen_by_the_caller(autojump_clock):
    account = Account()
    account.faulty.inject(Fault(FaultKind.RESET, times=3))
    await account.store.put("key", [b"x"])
    assert await account.store.get("key") == b"x"
    assert account.asked("put") == 4
    assert account.store.retries == 3


async def test_delays_grow_and_are_a_random_part_of_their_limit(autojump_clock):
    account = Account(share=0.5)
    account.faulty.inject(Fault(FaultKind.DOWN, times=3))
    began = trio.current_time()
    await account.store.put("key", [b"x"])
    assert trio.current_time() - began == pytest.approx(0.5 * (0.25 + 0.5 + 1.0))


async def test_a_random_part_may_be_nothing(autojump_clock):
    account = Account(share=0.0)
    account.faulty.inject(Fault(FaultKind.DOWN, times=3))
    began = trio.current_time()
    await account.store.put("key", [b"x"])
    assert trio.current_time() == began


async def test_no_delay_is_longer_than_the_longest(autojump_clock):
    policy = RetryPolicy(attempts=12, longest_delay_seconds=2.0, breaker_failures=1000)
    account = Account(policy, share=1.0)
    account.faulty.inject(Fault(FaultKind.DOWN, times=11))
    began = trio.current_time()
    await account.store.put("key", [b"x"])
    assert trio.current_time() - began == pytest.approx(0.25 + 0.5 + 1 + 8 * 2)


async def test_what_the_provider_asks_for_is_waited_and_spread(autojump_clock):
    account = Account(share=0.5)
    account.faulty.inject(Fault(FaultKind.THROTTLE, times=1, retry_after_seconds=7))
    began = trio.current_time()
    await account.store.put("key", [b"x"])
    assert trio.current_time() - began == pytest.approx(7 + 0.5 * 0.25)


async def test_a_provider_that_asks_for_too_much_is_left_to_the_caller(autojump_clock):
    account = Account()
    account.faulty.inject(Fault(FaultKind.THROTTLE, retry_after_seconds=600))
    began = trio.current_time()
    with pytest.raises(Unreachable) as failure:
        await account.store.get("key")
    assert failure.value.retry_after_seconds == 600
    assert trio.current_time() == began
    assert account.asked("get") == 1


async def test_the_same_seed_gives_the_same_waits(autojump_clock):
    async def waits(seed):
        faulty = FaultyStore(MemoryStore(MemoryObjects("test")), seed=seed)
        store = RetryingStore(faulty, random=random.Random(seed).random, policy=PATIENT)
        faulty.inject(Fault(FaultKind.SERVER_ERROR, chance=0.5))
        began, times = trio.current_time(), []
        for number in range(20):
            try:
                await store.put(f"{number}", [b"x"])
            except Unreachable:
                times.append(-1.0)
            times.append(round(trio.current_time() - began, 9))
        return times

    assert await waits(5) == await waits(5)
    assert await waits(5) != await waits(6)


# --- when to stop -----------------------------------------------------------------------------


async def test_after_the_last_attempt_the_caller_hears_the_fault(autojump_clock):
    account = Account()
    account.faulty.inject(Fault(FaultKind.DOWN))
    with pytest.raises(Unreachable, match="down"):
        await account.store.get("key")
    assert account.asked("get") == PATIENT.attempts


@pytest.mark.parametrize(
    ("kind", "error"), [(FaultKind.AUTH, Refused), (FaultKind.QUOTA, QuotaFull)]
)
async def test_a_refusal_is_not_tried_again(autojump_clock, kind, error):
    account = Account()
    account.faulty.inject(Fault(kind))
    with pytest.raises(error):
        await account.store.put("key", [b"x"])
    assert account.asked("put") == 1


async def test_an_absent_object_is_not_looked_for_twice(autojump_clock):
    account = Account()
    with pytest.raises(NotFound):
        await account.store.get("absent")
    assert account.asked("get") == 1


async def test_a_silent_account_is_unreachable_after_each_attempts_time(autojump_clock):
    policy = RetryPolicy(attempts=2, attempt_seconds=30, breaker_failures=1000)
    account = Account(policy, share=0.0)
    account.faulty.inject(Fault(FaultKind.HANG))
    began = trio.current_time()
    with pytest.raises(Unreachable, match="no answer within 30 s"):
        await account.store.get("key")
    assert trio.current_time() - began == pytest.approx(60)


async def test_the_deadline_of_the_caller_comes_first(autojump_clock):
    account = Account()
    account.faulty.inject(Fault(FaultKind.HANG))
    began = trio.current_time()
    with trio.move_on_after(1) as scope:
        await account.store.get("key")
    assert scope.cancelled_caught
    assert trio.current_time() - began == pytest.approx(1)


async def test_when_most_calls_fail_the_budget_ends_retrying(autojump_clock):
    policy = RetryPolicy(budget=5, earned_per_call=0.1, breaker_failures=1000)
    account = Account(policy)
    account.faulty.inject(Fault(FaultKind.DOWN))
    for _ in range(100):
        with pytest.raises(Unreachable):
            await account.store.get("key")
    assert account.asked("get") <= 100 + 5 + 0.1 * 100
    assert account.asked("get") >= 100 + 5


async def test_calls_that_succeed_earn_retries_again(autojump_clock):
    policy = RetryPolicy(attempts=2, budget=2, earned_per_call=0.5, breaker_failures=1000)
    account = Account(policy)
    account.faulty.inject(Fault(FaultKind.DOWN))
    for _ in range(10):
        with pytest.raises(Unreachable):
            await account.store.get("key")
    account.faulty.heal()
    for _ in range(4):
        await account.store.put("key", [b"x"])
    account.faulty.inject(Fault(FaultKind.DOWN, times=1))
    assert await account.store.get("key") == b"x"


# --- creating ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FaultKind.RESET, FaultKind.SERVER_ERROR])
async def test_a_create_whose_answer_was_lost_knows_its_own_bytes(autojump_clock, kind):
    account = Account()
    account.faulty.inject(Fault(kind, verbs=frozenset({"create"}), times=1, applied=True))
    await account.store.create("key", [b"our ", b"bytes"])
    assert await account.store.get("key") == b"our bytes"


async def test_a_create_that_lost_the_race_after_a_fault_says_so(autojump_clock):
    account = Account()
    account.objects.write("key", b"theirs")
    account.faulty.inject(Fault(FaultKind.RESET, verbs=frozenset({"create"}), times=1))
    with pytest.raises(AlreadyThere):
        await account.store.create("key", [b"ours"])
    assert await account.store.get("key") == b"theirs"


async def test_without_a_fault_equal_bytes_are_no_claim(autojump_clock):
    account = Account()
    await account.store.create("key", [b"same"])
    with pytest.raises(AlreadyThere):
        await account.store.create("key", [b"same"])


# --- the breaker ------------------------------------------------------------------------------

QUICK = RetryPolicy(attempts=1, breaker_failures=3, pause_seconds=4, longest_pause_seconds=16)


async def break_off(account):
    account.faulty.inject(Fault(FaultKind.DOWN))
    for _ in range(QUICK.breaker_failures):
        with pytest.raises(Unreachable):
            await account.store.get("key")
    assert account.store.pause_seconds > 0


async def test_after_failures_in_a_row_calls_fail_at_once_and_are_not_sent(autojump_clock):
    account = Account(QUICK, share=1.0)
    await break_off(account)
    failure = await account.call_fails_at_once()
    assert failure.retry_after_seconds == pytest.approx(4)


async def test_an_account_that_is_needed_is_woken_from_its_pause(autojump_clock):
    account = Account(QUICK, share=1.0)
    await break_off(account)
    account.faulty.heal()
    with pytest.raises(Paused):
        await account.store.get("key")
    account.store.wake()
    with pytest.raises(NotFound):
        await account.store.get("key")
    assert account.store.pause_seconds == 0


async def test_who_needs_an_account_does_not_wait_for_a_trial_that_hangs(autojump_clock):
    account = Account(QUICK, share=1.0)
    account.objects.write("key", b"x")
    await break_off(account)
    account.faulty.heal()
    account.faulty.inject(Fault(FaultKind.HANG, times=1))
    await trio.sleep(account.store.pause_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.store.get, "key")
        await trio.sleep(1)
        account.store.wake()
        with pytest.raises(Paused):  # it may answer yet
            await account.store.get("key")
        await trio.sleep(QUICK.pause_seconds)
        account.store.wake()
        assert await account.store.get("key") == b"x"
        nursery.cancel_scope.cancel()


async def test_a_single_answer_between_failures_keeps_the_account_in_use(autojump_clock):
    account = Account(QUICK)
    account.objects.write("key", b"x")
    for _ in range(5):
        account.faulty.inject(Fault(FaultKind.DOWN, times=2))
        for _ in range(2):
            with pytest.raises(Unreachable):
                await account.store.get("key")
        assert await account.store.get("key") == b"x"
    assert account.store.pause_seconds == 0


async def test_refusals_are_answers_and_never_a_reason_to_pause(autojump_clock):
    account = Account(QUICK)
    account.faulty.inject(Fault(FaultKind.AUTH))
    for _ in range(10):
        with pytest.raises(Refused):
            await account.store.get("key")
    assert account.store.pause_seconds == 0


async def test_pauses_double_up_to_the_longest_while_trials_fail(autojump_clock):
    account = Account(QUICK, share=1.0)
    await break_off(account)
    pauses = []
    for _ in range(4):
        pauses.append(account.store.pause_seconds)
        await trio.sleep(pauses[-1])
        asked = account.asked("get")
        with pytest.raises(Unreachable, match="down"):
            await account.store.get("key")
        assert account.asked("get") == asked + 1
    assert pauses == pytest.approx([4, 8, 16, 16])


async def test_one_good_trial_ends_the_pause_for_all(autojump_clock):
    account = Account(QUICK)
    account.objects.write("key", b"x")
    await break_off(account)
    account.faulty.heal()
    await account.call_fails_at_once()  # nobody has asked yet
    await trio.sleep(account.store.pause_seconds)
    assert await account.store.get("key") == b"x"
    assert account.store.pause_seconds == 0


async def test_a_pause_is_as_long_as_the_provider_asks(autojump_clock):
    account = Account(QUICK)
    account.faulty.inject(Fault(FaultKind.THROTTLE, retry_after_seconds=100))
    for _ in range(QUICK.breaker_failures):
        with pytest.raises(Unreachable):
            await account.store.get("key")
    assert account.store.pause_seconds == pytest.approx(100)


async def test_while_a_trial_is_under_way_nobody_else_is_let_through(autojump_clock):
    account = Account(QUICK)
    await break_off(account)
    account.faulty.heal()
    account.objects.write("key", b"x")
    account.faulty.inject(Fault(FaultKind.SLOW, seconds=5))
    await trio.sleep(account.store.pause_seconds)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(account.store.get, "key")
        await trio.sleep(1)
        await account.call_fails_at_once()
    assert await account.store.get("key") == b"x"


async def test_a_trial_that_is_cancelled_early_lets_another_try(autojump_clock):
    account = Account(QUICK)
    await break_off(account)
    account.faulty.heal()
    account.objects.write("key", b"x")
    account.faulty.inject(Fault(FaultKind.HANG, times=1))
    await trio.sleep(account.store.pause_seconds)
    with trio.move_on_after(1):
        await account.store.get("key")
    assert await account.store.get("key") == b"x"


async def test_calls_that_went_out_before_the_pause_do_not_lengthen_it(autojump_clock):
    account = Account(QUICK, share=1.0)

    async def fail():
        with pytest.raises(Unreachable):
            await account.store.get("key")

    account.faulty.inject(Fault(FaultKind.SLOW, seconds=1))
    account.faulty.inject(Fault(FaultKind.DOWN))
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(fail)
    assert account.store.pause_seconds == pytest.approx(4)


async def test_long_silence_that_the_caller_ended_counts_as_a_failure(autojump_clock):
    account = Account(QUICK)
    account.faulty.inject(Fault(FaultKind.HANG))
    for _ in range(QUICK.breaker_failures):
        with trio.move_on_after(QUICK.silence_seconds + 1):
            await account.store.get("key")
    assert account.store.pause_seconds > 0


async def test_losers_of_a_race_cancelled_early_count_for_nothing(autojump_clock):
    account = Account(QUICK)
    account.faulty.inject(Fault(FaultKind.HANG))
    for _ in range(50):
        with trio.move_on_after(0.3):
            await account.store.get("key")
    assert account.store.pause_seconds == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "failed", "given up"]),
            st.floats(0, 100),
            st.floats(0, 1),
        ),
        max_size=60,
    )
)
def test_a_breaker_always_lets_a_trial_through_in_the_end(story):
    """Whatever happened, an account that is well again is used again."""
    policy = RetryPolicy()
    breaker, now = Breaker(policy), 0.0
    for what, pause, share in story:
        now += pause
        if breaker.wait_seconds(now) > 0:
            continue
        trial = breaker.going_out(now)
        if what == "answered":
            breaker.answered()
        elif what == "failed":
            breaker.failed(now, 0.0, share, trial=trial)
        else:
            breaker.given_up(trial=trial)
    wait = breaker.wait_seconds(now)
    assert wait <= policy.longest_pause_seconds
    assert breaker.wait_seconds(math.nextafter(now + wait, math.inf)) < 1e-6
