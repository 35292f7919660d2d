"""Who waits for a fetch goes before what nobody waits for: counted in requests, on a mock clock."""

from pathlib import Path

import trio

from aggfs.engine.volume import Volume
from aggfs.model import STRIPE_BYTES, InodeRow
from aggfs.stores.faulty import Fault, FaultKind
from tests.support.faults import Ground, flushed, new_ground, until_full

LATENCY = Fault(FaultKind.SLOW, seconds=0.2)
BIG_BYTES = 12 * STRIPE_BYTES
READS = 8


async def prepared(ground: Ground, volume: Volume) -> tuple[InodeRow, list[InodeRow]]:
    """A big file and some small ones, each in stripes of its own, in the accounts only."""
    big = await ground.write_file(volume, b"big", BIG_BYTES)
    await flushed(volume)
    small = []
    for number in range(READS):
        small.append(await ground.write_file(volume, b"small%d" % number))
        await flushed(volume)
    await until_full(volume)
    await volume.control("evict", {})
    return big, small


async def read_counting(
    ground: Ground, volume: Volume, rows: list[InodeRow], others: set[str]
) -> list[int]:
    """For each of these cold files: how many of `others` were asked for while a reader waited."""
    found = []
    for row in rows:
        before = len(ground.clouds.asked)
        name = volume.namespace.path_of(row.number)[1:]
        data = await volume.files.read(row.number, 0, row.size)
        assert bytes(data) == ground.files[name]
        found.append(sum(key in others for key in ground.clouds.asked[before:]))
        await trio.sleep(0.3)  # now the others have their turn
    return found


async def test_a_reader_goes_before_a_pin(tmp_path: Path, autojump_clock: object) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        big, small = await prepared(ground, volume)
        keys = ground.keys_of(volume, big)
        with ground.clouds.failing(ground.names, LATENCY):
            await volume.control("pin", {"path": "/big"})
            await trio.sleep(0.5)
            assert await read_counting(ground, volume, small, keys) == [0] * READS
            assert set(ground.clouds.asked) & keys, "the pin does go on"
        with trio.fail_after(600):
            while volume.parts.local.holes(big.number)[0]:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(1)


async def test_a_reader_goes_before_what_is_read_ahead_for_another(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        big, small = await prepared(ground, volume)
        keys = ground.keys_of(volume, big)
        quick = Fault(FaultKind.SLOW, seconds=0.09)  # they let him go first for a tenth
        with ground.clouds.failing(ground.names, quick):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.read, small[0].number, 0, 4096)
                await trio.sleep(0.01)
                before = len(ground.clouds.asked)
                file = volume.parts.open_files.use(big.number)
                volume.parts.filler.read_ahead(file.target, 0, STRIPE_BYTES)
                await trio.sleep(0.07)
                assert ground.clouds.asked[before:] == []
            assert len([key for key in ground.clouds.asked[before:] if key in keys]) == 0
            await trio.sleep(0.01)
            assert [key for key in ground.clouds.asked[before:] if key in keys]


async def test_what_is_read_ahead_goes_at_once_when_somebody_waits_for_it(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        big, small = await prepared(ground, volume)
        keys = ground.keys_of(volume, big)
        with ground.clouds.failing(ground.names, LATENCY):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(volume.files.read, small[0].number, 0, 4096)
                await trio.sleep(0.01)
                file = volume.parts.open_files.use(big.number)
                volume.parts.filler.read_ahead(file.target, 0, STRIPE_BYTES)
                nursery.start_soon(volume.files.read, big.number, 2 * 4096, 4096)
                await trio.sleep(0.01)
                assert [key for key in ground.clouds.asked if key in keys]


async def test_a_reader_goes_before_repair(tmp_path: Path, autojump_clock: object) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        big, small = await prepared(ground, volume)
        keys = ground.keys_of(volume, big)
        lost = {key for _, key in ground.fragments(volume).values() if key in keys}
        with ground.clouds.failing(ground.names, LATENCY):
            for (sid, index), (account, key) in ground.fragments(volume).items():
                if key in lost and index == 0:
                    ground.clouds.objects[account].remove(key)
                    volume.parts.repairs.note(sid, index)
            await trio.sleep(0.5)
            counts = await read_counting(ground, volume, small, keys)
            assert max(counts) < ground.k, "only a stripe that was begun is finished"
            assert sum(counts) < READS / 2
            assert volume.parts.blocks.unfinished(), "there is more to repair"
        await until_full(volume)


async def test_what_nobody_waits_for_keeps_to_its_rate(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 3)
    async with ground.opened() as volume:
        big, small = await prepared(ground, volume)
        volume.parts.pace.bytes_per_second = STRIPE_BYTES
        began = trio.current_time()
        await volume.control("pin", {"path": "/big"})
        await trio.sleep(0.5)
        with trio.fail_after(1):
            await volume.files.read(small[0].number, 0, small[0].size)
        with trio.fail_after(600):
            while volume.parts.local.holes(big.number)[0]:  # noqa: ASYNC110 - as a user looks
                await trio.sleep(0.1)
        assert 10 <= trio.current_time() - began <= 30
