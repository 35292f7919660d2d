"""Every set of accounts that may fail together, in every way, at everything that a volume does.

One volume for each row of the matrix; its sets of accounts fail one after the other.
"""

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from aggfs.errors import TooFewFragments
from aggfs.model import Layout
from aggfs.stores.faulty import Fault
from tests.support.faults import (
    CORRUPT,
    DOWN,
    HUNG,
    READ_SECONDS,
    ROLLED_BACK,
    SLOW,
    STUCK,
    Contents,
    Ground,
    flushed,
    new_ground,
    until_full,
)

FAULTS = {
    "down": DOWN,
    "hung": HUNG,
    "slow": SLOW,
    "corrupt": CORRUPT,
    "rolled back": ROLLED_BACK,
}
shapes = pytest.mark.parametrize(
    ("k", "n", "layout"),
    [
        (2, 3, Layout.CONTIGUOUS),
        (3, 5, Layout.CONTIGUOUS),
        (2, 4, Layout.CONTIGUOUS_COPIES),
    ],
    ids=["2-of-3", "3-of-5", "2-of-4 in copies"],
)
faults = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


def failing(
    ground: Ground, names: tuple[str, ...], fault: Fault, former: Contents
) -> AbstractContextManager[None]:
    """These accounts fail; those that are rolled back have again what they had before."""
    if fault is ROLLED_BACK:
        return ground.clouds.rolled_back(names, former)
    return ground.clouds.failing(names, fault)


@shapes
@faults
async def test_reading_survives(
    tmp_path: Path, k: int, n: int, layout: Layout, fault: Fault, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, k, n, layout=layout)
    async with ground.opened() as volume:
        for number, names in enumerate(ground.survivable()):
            former = ground.clouds.contents()
            await ground.write_file(volume, b"f%d" % number)
            await flushed(volume)
            await until_full(volume)
            with failing(ground, names, fault, former):
                await ground.assert_reads_cold(volume)
            await until_full(volume)


@shapes
@faults
async def test_writing_survives(
    tmp_path: Path, k: int, n: int, layout: Layout, fault: Fault, autojump_clock: object
) -> None:
    """What is flushed meanwhile is published, and catches up by itself when all are back."""
    ground = await new_ground(tmp_path, k, n, layout=layout)
    async with ground.opened() as volume:
        for number, names in enumerate(ground.survivable()):
            with ground.clouds.failing(names, fault):
                row = await ground.write_file(volume, b"f%d" % number)
                await flushed(volume)
                now = volume.namespace.by_number(row.number)
                assert volume.state_of(now) in ("stored", "full")
            await until_full(volume)
        await ground.assert_reads_cold(volume)


@shapes
@faults
async def test_mounting_survives(
    tmp_path: Path, k: int, n: int, layout: Layout, fault: Fault, autojump_clock: object
) -> None:
    """A volume that is opened while accounts fail is all there, and takes more."""
    ground = await new_ground(tmp_path, k, n, layout=layout)
    async with ground.opened() as volume:
        await ground.write_file(volume, b"first")
        await flushed(volume)
        await until_full(volume)
    for number, names in enumerate(ground.survivable()):
        former = ground.clouds.contents()
        async with ground.opened() as volume:
            await ground.write_file(volume, b"f%d" % number)
            await flushed(volume)
            await until_full(volume)
        with failing(ground, names, fault, former):
            async with ground.opened() as volume:
                await ground.assert_reads_cold(volume)
                await ground.write_file(volume, b"meanwhile%d" % number)
                await flushed(volume)
    async with ground.opened() as volume:
        await until_full(volume)
        await ground.assert_reads_cold(volume)


@shapes
@faults
async def test_repair_survives(
    tmp_path: Path, k: int, n: int, layout: Layout, fault: Fault, autojump_clock: object
) -> None:
    """Accounts fail, and those and as many more as may have lost a fragment as well: what can be
    made again is made again; the rest when the accounts are back; nothing that is good changes."""
    ground = await new_ground(tmp_path, k, n, layout=layout)
    async with ground.opened() as volume:
        await ground.write_file(volume, b"file")
        await flushed(volume)
        await until_full(volume)
        fragments = ground.fragments(volume)
        good = {place: ground.read_object(*place) for place in fragments.values()}
        for names in ground.survivable():
            more = ground.may_fail - len(names)
            others = [name for name in ground.names if name not in names][:more]
            for (sid, index), (account, key) in fragments.items():
                if account in (*names, *others):
                    ground.clouds.objects[account].remove(key)
                    volume.parts.repairs.note(sid, index)
            elsewhere = {place: data for place, data in good.items() if place[0] not in names}
            with ground.clouds.failing(names, fault):
                await ground.until_there(elsewhere)
            await until_full(volume)
            assert {place: ground.read_object(*place) for place in good} == good


@shapes
@faults
async def test_one_more_is_an_error_in_time_and_never_wrong_bytes(
    tmp_path: Path, k: int, n: int, layout: Layout, fault: Fault, autojump_clock: object
) -> None:
    """n - k + 1, in copies all that have one cell: what is not here cannot be read, and says so;
    what is here can; and when they are back, all can be read again."""
    ground = await new_ground(tmp_path, k, n, layout=layout)
    fault = STUCK if fault is SLOW else fault
    async with ground.opened() as volume:
        for number, chosen in enumerate(ground.subsets(ground.may_fail + 1)):
            former = ground.clouds.contents()
            await ground.write_file(volume, b"cached%d" % number)
            cold = await ground.write_file(volume, b"cold%d" % number)
            await flushed(volume)
            await until_full(volume)
            await volume.parts.local.evict([cold.number])
            names = ground.fatal(volume, cold, chosen)
            with failing(ground, names, fault, former):
                with trio.fail_after(READ_SECONDS), pytest.raises(TooFewFragments):
                    await volume.files.read(cold.number, 0, 4096)
                await ground.assert_reads(volume, [b"cached%d" % number])
            await until_full(volume)
            await ground.assert_reads_cold(volume)
