"""Background jobs are started again, and tell of their troubles."""

import pytest
import trio
import trio.testing

from aggfs.engine.jobs import Jobs
from aggfs.errors import LocalDiskFailed, Unreachable


async def test_a_job_that_fails_is_started_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    started = 0

    async def job() -> None:
        nonlocal started
        started += 1
        raise Unreachable("nobody answers") if started < 3 else ValueError("odd")

    jobs = Jobs(on_disk_failure=pytest.fail)
    with trio.move_on_after(1000):
        await jobs.keep("sending", job)
    assert started > 10
    assert jobs.troubles == {"sending": "sending: unexpected ValueError: odd"}
    assert "sending stopped: nobody answers" in caplog.text


async def test_after_the_disk_has_failed_a_job_stays_down(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def job() -> None:
        async with trio.open_nursery():
            raise LocalDiskFailed("no more")

    told: list[str] = []
    jobs = Jobs(on_disk_failure=told.append)
    with trio.fail_after(10):
        await jobs.keep("sending", job)
    assert jobs.troubles == {"sending": "sending: no more"}
    assert told == ["no more"]
    assert "no more" in caplog.text
