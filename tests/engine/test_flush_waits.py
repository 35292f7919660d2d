"""What `flush` has promised when it returns, from which `umount` and fsync=cloud follow."""

import logging
from pathlib import Path

import trio

from tests.support.running import dump, flush, make_volume, new_file, running

PATIENCE_SECONDS = 3


async def test_flush_returns_only_when_enough_accounts_have_the_entry(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    place = await make_volume(tmp_path)
    away = [Path(account.path) for account in place.config.accounts[1:]]
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"one", b"small enough for the entry itself")
        await flush(volume)
        for path in away:
            path.rename(path.with_suffix(".away"))
        await new_file(volume, 1, b"two", b"this, too")
        with trio.move_on_after(PATIENCE_SECONDS) as scope:
            await volume.control("flush", {})
        assert scope.cancelled_caught, "it is only here, and flush said that it is in the accounts"
        assert caplog.text.count("publishing is delayed") <= 2, "once for each reason"
        for path in away:
            path.with_suffix(".away").rename(path)
        await flush(volume)
        assert b"/two" in await dump(volume)
        k = volume.parts.policy.storage_class.k
        assert all(len(one.confirmed) >= k for one in volume.parts.publisher.pending())


async def test_a_new_file_that_somebody_has_open_holds_no_flush_up(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"empty")
        await volume.files.opened(row.number, truncate=False)
        with trio.fail_after(PATIENCE_SECONDS * 5):
            await volume.control("flush", {})
        assert b"/empty" in await dump(volume)
        await volume.files.released(row.number)
