"""A job that stops silently is found out by what it leaves undone."""

from pathlib import Path

import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.assemble import opening
from aggfs.engine.waiting import LATE_SECONDS, Waiting, Watch
from tests.support.faults import DOWN, flushed, new_ground, until_full


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1))
def test_the_age_is_that_of_what_is_there_without_a_break(looks):
    watch = Watch()
    for now, there in enumerate(looks):
        watch.look(now, there)
    now = len(looks) - 1
    since = []
    for one in looks[-1]:
        run = now
        while run > 0 and one in looks[run - 1]:
            run -= 1
        since.append(run)
    assert watch.age_seconds(now) == now - min(since, default=now)
    assert len(watch) == len(looks[-1])


async def test_while_accounts_are_away_it_is_said_for_how_long_things_wait(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        with ground.clouds.failing(ground.names, DOWN):
            await ground.write_file(volume, b"file")
            await trio.sleep(LATE_SECONDS / 2)
            assert (await volume.control("status", {}))["warnings"] == []
            await trio.sleep(LATE_SECONDS)
            status = await volume.control("status", {})
            assert any("stripes wait to be stored" in one for one in status["warnings"])
            assert any("changes wait to be published" in one for one in status["warnings"])
        await until_full(volume)
        await flushed(volume)
        await trio.sleep(60)
        status = await volume.control("status", {})
        assert (status["warnings"], status["waiting_seconds"]) == ([], {})


async def test_a_volume_whose_jobs_do_nothing_says_so(
    tmp_path: Path, autojump_clock: object
) -> None:
    """All accounts are well; nothing seals, stores or publishes."""
    ground = await new_ground(tmp_path, 2, 3)
    config, state = ground.place.config, str(ground.place.state)
    volume = opening.open_volume(config, state, open_store=ground.clouds.open_store)
    watch = Waiting(volume.parts)
    async with trio.open_nursery() as nursery:
        await nursery.start(volume.parts.database.run)
        nursery.start_soon(watch.run)
        await ground.write_file(volume, b"file")
        await trio.sleep(LATE_SECONDS - 60)
        assert watch.warnings() == []
        await trio.sleep(120)
        assert [one.split(",")[0] for one in watch.warnings()] == [
            "edits wait to be sealed",
            "changes wait to be published",
        ]
        nursery.cancel_scope.cancel()
    await volume.parts.database.close()
