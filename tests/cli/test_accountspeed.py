"""Accounts measured against a clock that jumps, so that every figure is known beforehand."""

import re

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.cli.accountspeed import AT_ONCE, OBJECT_BYTES, SMALL_REQUESTS, Bounds, measure_accounts
from aggfs.cli.expecting import Speeds, codes_for, expected_read, expected_upload
from aggfs.config import AccountConfig
from aggfs.errors import BadConfig, Refused, Unreachable
from aggfs.model import AccountId
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore

A_WHILE = Bounds(2 * AT_ONCE * OBJECT_BYTES, 100)
ENDLESS = 1e18


class Accounts:
    """Accounts in memory, and what was ever put into them."""

    def __init__(self, count):
        self.configs = [
            AccountConfig(AccountId(bytes([n] * 8)), f"a{n}", "memory", f"p{n}")
            for n in range(count)
        ]
        self.objects = {one.name: MemoryObjects(one.name) for one in self.configs}
        self.stores = {
            name: KeepingNames(MemoryStore(objects), seed=1)
            for name, objects in self.objects.items()
        }

    def open(self, config):
        return self.stores[config.name]

    async def measure(self, bounds=A_WHILE, **more):
        return await measure_accounts(self.configs, bounds, open_store=self.open, **more)

    async def left(self):
        """The objects of each account that has some, without the faults."""
        found = {}
        for name, objects in self.objects.items():
            page = await MemoryStore(objects).list_page("", "")
            if page.objects:
                found[name] = [one.key for one in page.objects]
        return found


class KeepingNames(FaultyStore):
    """Knows what was put, and what was cut off while it was: that may land at any time."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.names = []
        self.cut_off = []

    async def put(self, key, pieces):
        self.names.append(key)
        try:
            await super().put(key, pieces)
        except trio.Cancelled:
            self.cut_off.append(key)
            raise

    async def aclose(self):
        """It is opened again."""


@pytest.fixture
def accounts():
    return Accounts(3)


def slow(store, seconds):
    store.inject(Fault(FaultKind.SLOW, seconds=seconds))


async def test_an_account_alone_and_all_at_once_give_what_they_give(accounts, autojump_clock):
    slow(accounts.stores["a0"], 1)
    slow(accounts.stores["a1"], 1)
    slow(accounts.stores["a2"], 4)
    found = await accounts.measure()
    assert found.failures == {}
    a_second = AT_ONCE * OBJECT_BYTES
    for speed, seconds in zip(found.speeds, (1, 1, 4), strict=True):
        assert speed.put_seconds == speed.get_seconds == pytest.approx(seconds)
        assert speed.up_per_second == pytest.approx(a_second / seconds)
        assert speed.down_per_second == pytest.approx(a_second / seconds)
    # Two rounds of objects for each of 3 accounts: two do 5 of the 6 in 3 seconds, one begins with
    # one, and takes until the fourth second.
    assert found.up_together == pytest.approx(6 * a_second / 4)
    assert found.down_together == pytest.approx(6 * a_second / 4)


async def test_nothing_is_left_and_names_look_like_ours(accounts, autojump_clock):
    await accounts.measure()
    assert await accounts.left() == {}
    names = [name for store in accounts.stores.values() for name in store.names]
    assert len(names) == len(set(names)) > 3 * SMALL_REQUESTS
    assert all(re.fullmatch("[0-9a-f]{2}/[0-9a-f]{38}", name) for name in names)


async def test_what_else_lies_there_stays_as_it_is(accounts, autojump_clock):
    await MemoryStore(accounts.objects["a0"]).put("ab/real", [b"real"])
    await accounts.measure()
    assert await accounts.left() == {"a0": ["ab/real"]}
    assert await MemoryStore(accounts.objects["a0"]).get("ab/real") == b"real"


async def test_no_account_is_asked_for_more_than_it_was_told(accounts, autojump_clock):
    found = await accounts.measure(Bounds(3 * OBJECT_BYTES, 100))
    assert found.failures == {}
    names = sum(len(store.names) for store in accounts.stores.values())
    assert names == 3 * (SMALL_REQUESTS + 3) + 9


async def test_what_takes_long_ends_in_time(accounts, autojump_clock):
    for store in accounts.stores.values():
        slow(store, 7)
    await accounts.measure(Bounds(2**40, 1))
    asked = [len(store.names) for store in accounts.stores.values()]
    assert asked == [SMALL_REQUESTS + 2 * AT_ONCE] * 3


async def test_an_account_that_does_not_answer_is_left_out_and_told(accounts, autojump_clock):
    accounts.stores["a1"].inject(Fault(FaultKind.DOWN))
    found = await accounts.measure()
    assert [one.name for one in found.speeds] == ["a0", "a2"]
    assert isinstance(found.failures.pop("a1"), Unreachable)
    assert found.failures == {}
    assert found.up_together > 0
    assert found.down_together > 0


async def test_an_account_that_never_answers_is_given_up(accounts, autojump_clock):
    accounts.stores["a1"].inject(Fault(FaultKind.HANG))
    with trio.fail_after(600):
        found = await accounts.measure()
    assert [one.name for one in found.speeds] == ["a0", "a2"]
    assert "no answer within 60 s" in str(found.failures["a1"])


async def test_an_account_that_cannot_be_opened_is_left_out_and_told(accounts, autojump_clock):
    def open_store(config):
        if config.name == "a0":
            raise Refused("the environment variable KEY is not set")
        if config.name == "a1":
            raise BadConfig("no such driver")
        return accounts.open(config)

    found = await measure_accounts(accounts.configs, A_WHILE, open_store=open_store)
    assert [one.name for one in found.speeds] == ["a2"]
    assert {name: type(one) for name, one in found.failures.items()} == {
        "a0": Refused,
        "a1": BadConfig,
    }


async def test_an_interrupt_leaves_nothing(accounts, autojump_clock):
    """Also of puts that are under way."""
    for store in accounts.stores.values():
        slow(store, 1)
    for after in (0.5, 20.5, 60.5, 65.5):
        with trio.move_on_after(after) as scope:
            await accounts.measure()
        assert scope.cancelled_caught
        assert await accounts.left() == {}
        assert [store.cut_off for store in accounts.stores.values()] == [[], [], []]


async def test_objects_that_cannot_be_removed_are_told(accounts, autojump_clock):
    accounts.stores["a2"].inject(Fault(FaultKind.DOWN, verbs=frozenset({"delete"})))
    found = await accounts.measure()
    left = await accounts.left()
    assert list(left) == ["a2"]
    (failure,) = found.failures.items()
    assert failure[0] == "a2"
    assert f"{len(left['a2'])} objects could not be removed" in str(failure[1])


# --- what is expected -----------------------------------------------------------------------------


def test_codes_stand_a_loss_and_give_nobody_a_copy():
    assert codes_for(2) == []
    assert codes_for(3) == [(2, 3)]
    assert codes_for(4) == [(2, 3), (2, 4), (3, 4)]


def test_the_slowest_account_sets_the_speed_of_storing():
    up = Speeds({"a": 10.0, "b": 30.0, "c": 30.0}, ENDLESS)
    found = expected_upload(2, 3, up, ENDLESS)
    assert (found.per_second, found.limit) == (20.0, "a")


def test_more_accounts_than_fragments_share_the_load():
    up = Speeds(dict.fromkeys("abcdef", 10.0), ENDLESS)
    assert expected_upload(2, 3, up, ENDLESS).per_second == 40.0


def test_what_all_take_at_once_bears_the_fragments():
    up = Speeds(dict.fromkeys("abc", 10.0), 15.0)
    found = expected_upload(2, 3, up, ENDLESS)
    assert (found.per_second, found.limit) == (10.0, "all at once")


def test_coding_may_be_the_limit():
    speeds = Speeds(dict.fromkeys("abc", 10.0), 100.0)
    assert expected_upload(2, 3, speeds, 5.0).limit == "coding"
    assert expected_read(2, 3, speeds, 5.0).limit == "coding"


def test_a_reader_lets_the_slow_account_be():
    """Two of three, and the third brings what it can."""
    down = Speeds({"slow": 1.0, "b": 10.0, "c": 10.0}, ENDLESS)
    found = expected_read(2, 3, down, ENDLESS)
    assert found.per_second == pytest.approx(20.0, rel=0.06)
    assert found.limit == "the accounts"


def test_a_reader_takes_no_more_than_all_bring_at_once():
    down = Speeds(dict.fromkeys("abc", 10.0), 7.0)
    found = expected_read(2, 3, down, ENDLESS)
    assert (found.per_second, found.limit) == (7.0, "all at once")


speeds = st.lists(st.floats(0.1, 1000), min_size=3, max_size=8)


@given(speeds, st.data())
def test_a_reader_gets_what_the_accounts_can_share(alone, data):
    n = data.draw(st.integers(3, len(alone)))
    k = data.draw(st.integers(2, n - 1))
    down = Speeds({str(index): speed for index, speed in enumerate(alone)}, ENDLESS)
    found = expected_read(k, n, down, ENDLESS).per_second
    share = found * n / (k * len(alone))
    assert sum(min(speed, share) for speed in alone) == pytest.approx(found)
    slowest_alone = min(alone) * k * len(alone) / n
    assert min(slowest_alone, sum(alone)) <= found * (1 + 1e-6)
    assert found <= sum(alone) * (1 + 1e-6)
