"""How fast data is moved, and who goes first."""

import pytest
import trio
import trio.testing

from aggfs.engine.pace import COURTESY_SECONDS, Pace
from aggfs.engine.works import Works

MIB = 1 << 20


async def test_a_rate_holds_over_many_turns(autojump_clock: trio.testing.MockClock) -> None:
    pace = Pace(Works())
    pace.bytes_per_second = 4 * MIB
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(pace.turn, 2 * MIB)
    assert trio.current_time() - began == pytest.approx(
        4.0
    )  # the last one begins when eight are done


async def test_without_a_rate_and_readers_nobody_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    pace, began = Pace(Works()), trio.current_time()
    for _ in range(100):
        await pace.turn(MIB)
    assert trio.current_time() == began


async def test_readers_go_first_but_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    readers = Works()
    pace = Pace(readers)
    began = trio.current_time()
    with readers.work():
        await pace.turn(MIB)
    assert trio.current_time() - began == pytest.approx(COURTESY_SECONDS)

    async def read(seconds: float) -> None:
        with readers.work():
            await trio.sleep(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, COURTESY_SECONDS / 5)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await pace.turn(MIB)
        assert trio.current_time() - began == pytest.approx(COURTESY_SECONDS / 5)


async def test_another_pace_has_a_rate_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    usual = Pace(Works())
    usual.bytes_per_second = MIB
    other = usual.another()
    assert other.bytes_per_second == MIB
    other.bytes_per_second = 0
    began = trio.current_time()
    await other.turn(10 * MIB)
    await other.turn(10 * MIB)
    assert trio.current_time() == began
