"""Room for what becomes dirty, and how much of a disk a volume takes."""

from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.reading.room import Bounds, Room, Turns, limits_on
from aggfs.errors import NoSpace

GIB = 1 << 30
PLENTY = 1 << 50


def test_a_large_disk_gives_the_usual_limits_a_small_one_its_share():
    large = limits_on(1000 * GIB, staging=None, cache=None, minimum_free=GIB, rate=0)
    assert (large.staging_bytes, large.cache_bytes) == (8 * GIB, 20 * GIB)
    assert large.minimum_free_bytes == GIB
    small = limits_on(10 * GIB, staging=None, cache=None, minimum_free=GIB, rate=0)
    assert (small.staging_bytes, small.cache_bytes) == (GIB, GIB)
    assert small.minimum_free_bytes == GIB // 2


@given(st.integers(0, 1 << 60), st.integers(0, 1 << 60), st.integers(0, 1 << 60))
def test_what_somebody_asked_for_is_what_he_gets(disk, staging, cache):
    limits = limits_on(disk, staging=staging, cache=cache, minimum_free=0, rate=7)
    assert (limits.staging_bytes, limits.cache_bytes) == (staging, cache)
    assert (limits.minimum_free_bytes, limits.background_rate) == (0, 7)


class Scene:
    """Bounds that a test sets, and how often somebody waited for progress."""

    def __init__(self, *bounds: int) -> None:
        self.bounds = Bounds(*bounds)
        self.waits = 0
        self.room = Room(lambda: self.bounds, self._progress)

    async def _progress(self) -> None:
        self.waits += 1
        await trio.sleep(1)


async def test_full_accounts_are_an_error_at_once(autojump_clock):
    scene = Scene(100, PLENTY, PLENTY)
    await scene.room.claim(100)
    scene.bounds = Bounds(0, PLENTY, PLENTY)
    with pytest.raises(NoSpace, match="the accounts have no room"):
        await scene.room.claim(1)
    assert scene.waits == 0


@pytest.mark.parametrize(
    ("bounds", "text"),
    [((PLENTY, 100, PLENTY), "too much waits"), ((PLENTY, PLENTY, 100), "minimum_free")],
)
async def test_a_device_that_is_behind_makes_writers_wait_and_only_then_fails(
    bounds, text, autojump_clock
):
    scene = Scene(*bounds)
    await scene.room.claim(100)
    scene.bounds = Bounds(bounds[0], bounds[1] - 100, bounds[2] - 100)
    began = trio.current_time()
    with pytest.raises(NoSpace, match=text):
        await scene.room.claim(1)
    assert trio.current_time() - began >= 60
    assert scene.waits


async def test_a_writer_goes_on_as_soon_as_there_is_room(autojump_clock):
    scene = Scene(PLENTY, 0, PLENTY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.room.claim, 50)
        await trio.sleep(10.5)
        scene.bounds = Bounds(PLENTY, 50, PLENTY)
        with trio.fail_after(2):
            while nursery.child_tasks:  # noqa: ASYNC110 - the claim is no event
                await trio.sleep(0.1)


async def test_changes_of_names_are_slowed_down_then_held_up_then_refused(autojump_clock):
    waiting = [0]
    turns = Turns(lambda: waiting[0], partial(trio.sleep, 1), many=100, too_many=200)
    seconds = []
    for count in (0, 99, 150, 199):
        waiting[0] = count
        began = trio.current_time()
        await turns.turn(adds=True)
        seconds.append(trio.current_time() - began)
    assert seconds[:2] == [0, 0]
    assert 0 < seconds[2] < seconds[3] < 0.1
    waiting[0] = 200
    with pytest.raises(NoSpace, match="too many changes"):
        await turns.turn(adds=True)
    with trio.fail_after(1):
        await turns.turn(adds=False)


async def test_a_change_of_names_goes_on_when_some_were_published(autojump_clock):
    waiting = [500]
    turns = Turns(lambda: waiting[0], partial(trio.sleep, 1), many=100, too_many=200)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: turns.turn(adds=True))
        await trio.sleep(30)
        assert nursery.child_tasks
        waiting[0] = 150
