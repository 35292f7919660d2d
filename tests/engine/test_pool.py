"""As many tasks as work side by side, however much there is to do."""

import pytest
import trio

from aggfs.engine.pool import some_at_once


async def test_jobs_are_begun_in_order_and_only_some_at_once(autojump_clock: object) -> None:
    begun: list[int] = []
    most = 0

    async def job(number: int) -> None:
        nonlocal most
        begun.append(number)
        await trio.sleep(1 + number % 3)
        most = max(most, trio.lowlevel.current_statistics().tasks_living)

    before = trio.lowlevel.current_statistics().tasks_living
    await some_at_once(job, range(1000), 4)
    assert begun == list(range(1000))
    assert most <= before + 5


async def test_what_a_job_raises_ends_the_others() -> None:
    async def job(number: int) -> None:
        if number:
            raise ValueError
        await trio.sleep_forever()

    with pytest.RaisesGroup(ValueError), trio.fail_after(5):
        await some_at_once(job, range(3), 2)
