"""Stripes on their way into accounts that come, go and fill up, and from a disk that fails."""

from collections import Counter
from pathlib import Path

import pytest
import trio

from aggfs.engine.volume import Volume
from aggfs.errors import LocalDiskFailed
from aggfs.model import BLOCK_BYTES
from aggfs.stores.faulty import WRITES, Fault, FaultKind, FaultyStore
from tests.support.running import flush, make_volume, new_file, read, running
from tests.support.stripes import content


def faulty(volume: Volume) -> list[FaultyStore]:
    """Faults can be put before every account from now on."""
    stores = []
    for account in volume.parts.accounts:
        account.store = store = FaultyStore(account.store, seed=1)
        stores.append(store)
    return stores


async def full(volume: Volume) -> None:
    """All fragments are in place, and nothing is staged."""
    with trio.fail_after(30):
        while volume.parts.blocks.unfinished():  # noqa: ASYNC110 - nobody tells
            await trio.sleep(0.05)


async def test_small_files_share_stripes(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for number in range(300):
            await new_file(volume, 1, b"file%d" % number, content(4096, number))
        await flush(volume)
        await volume.control("evict", {})
        assert volume.parts.blocks.stripe_count <= 3
        for number in (0, 150, 299):
            assert await read(volume, b"file%d" % number) == content(4096, number)


async def test_an_account_that_returns_gets_what_it_lacks(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=3, n=5)
    async with running(place.config, place.state) as volume:
        away = faulty(volume)[1]
        away.inject(Fault(FaultKind.DOWN))
        await new_file(volume, 1, b"file", content(3 * BLOCK_BYTES))
        await flush(volume)
        assert len(volume.parts.blocks.unfinished()) == 1
        away.heal()
        await full(volume)
        await volume.parts.database.durable()
        assert not [n for n in volume.parts.staging.names() if volume.parts.blocks.stripe(n)]


async def test_with_only_k_accounts_writes_are_accepted_and_caught_up_after_a_restart(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path, k=3, n=5)
    data = content(2 * BLOCK_BYTES + 7)
    async with running(place.config, place.state) as volume:
        for store in faulty(volume)[:2]:
            store.inject(Fault(FaultKind.DOWN))
        await new_file(volume, 1, b"file", data)
        await flush(volume)
        assert len(volume.parts.blocks.unfinished()) == 1
    async with running(place.config, place.state) as volume:
        await full(volume)
        await volume.control("evict", {})
        assert await read(volume, b"file") == data


async def test_what_a_full_account_refuses_goes_elsewhere(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3, accounts=4)
    async with running(place.config, place.state) as volume:
        for one in volume.parts.accounts:
            one.arrivals.late_seconds = 0.2
        crowded = faulty(volume)[0]
        crowded.inject(Fault(FaultKind.QUOTA))
        for number in range(6):
            await new_file(volume, 1, b"file%d" % number, content(BLOCK_BYTES, number))
            await flush(volume)
        await full(volume)
        account = place.config.accounts[0].id
        for state in volume.parts.blocks.stripes():
            assert account not in state.row.places


async def test_a_stripe_that_no_account_has_room_for_waits_and_is_readable(tmp_path: Path) -> None:
    place = await make_volume(tmp_path, k=2, n=3)
    data = content(BLOCK_BYTES, 1)
    async with running(place.config, place.state) as volume:
        stores = faulty(volume)
        for store in stores[:2]:
            store.inject(Fault(FaultKind.QUOTA))
        await new_file(volume, 1, b"file", data)
        await volume.parts.flusher.flush(
            [volume.namespace.lookup(1, b"file").number], nursery(volume)
        )
        assert volume.parts.blocks.unfinished()
        assert await read(volume, b"file") == data
        for store in stores:
            store.heal()
        for account in volume.parts.accounts:
            account.full = False
        await full(volume)


async def test_no_provider_ever_may_hold_two_fragments_however_puts_fail(tmp_path: Path) -> None:
    """Counted with those that a put without an answer may have left."""
    place = await make_volume(tmp_path, k=2, n=3, accounts=5)
    async with running(place.config, place.state) as volume:
        for store in faulty(volume):
            store.inject(Fault(FaultKind.RESET, WRITES, chance=0.4, applied=True))
            store.inject(Fault(FaultKind.DOWN, WRITES, chance=0.2))
        for number in range(12):
            await new_file(volume, 1, b"file%d" % number, content(20_000, number))
            await volume.parts.flusher.flush(
                [volume.namespace.lookup(1, b"file%d" % number).number], nursery(volume)
            )
        with trio.move_on_after(3):
            await full(volume)
        for state in volume.parts.blocks.stripes():
            placed = Counter(
                volume.parts.accounts.get(place).provider
                for index in range(3)
                for place in state.may_hold(index)
            )
            assert max(placed.values(), default=0) <= 1  # none: it waits in staging


async def test_a_local_disk_that_refuses_is_one_error_of_ours(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(20 * BLOCK_BYTES))
        staging = place.state / "staging"
        staging.rename(place.state / "away")
        with pytest.raises(LocalDiskFailed):
            await volume.parts.flusher.flush([row.number], nursery(volume))
        assert volume.files.is_dirty(row.number)
        (place.state / "away").rename(staging)


def nursery(volume: Volume) -> trio.Nursery:
    """Where uploads go on."""
    assert volume._uploads is not None
    return volume._uploads
