"""Accounts that were away: noticed when they are back, and brought up to date."""

import shutil
from pathlib import Path

import trio

from aggfs.coding import slots
from aggfs.engine.journal.attend import HeaderRows
from aggfs.engine.journal.headers import find_headers
from aggfs.engine.volume import Volume
from tests.support.running import make_volume, running

PATIENCE_SECONDS = 40


async def generations(volume: Volume, account: bytes) -> list[int]:
    found = volume.parts.accounts.get(account)
    assert found is not None
    page = await found.store.list_page("", "")
    headers = await find_headers(found.store, page.objects)
    return [one.header.generation for one in headers]


async def test_a_key_that_was_removed_goes_from_an_account_that_was_away(tmp_path: Path) -> None:
    passphrase = slots.key_file(slots.new_key_file(bytes))
    place = await make_volume(tmp_path, secrets=(passphrase,))
    away = place.config.accounts[0]
    path = Path(away.path)
    async with running(place.config, place.state) as volume:
        listed = (await volume.control("key-list", {}))["slots"]
        assert isinstance(listed, list)
        slot = next(one["id"] for one in listed if one["kind"] == "key_file")
        shutil.move(path, path.with_suffix(".away"))
        assert (await volume.control("key-remove", {"id": slot}))["failed"] == [away.name]
        account = volume.parts.accounts.get(away.id)
        assert account is not None
        assert not account.healthy
        shutil.move(path.with_suffix(".away"), path)
        await trio.sleep(account.store.pause_seconds)  # the breaker's: it says how long
        await volume.control("look", {})
        assert account.healthy
        assert HeaderRows(volume.parts.database).generation(away.id) == 2
        assert await generations(volume, away.id) == [2]
