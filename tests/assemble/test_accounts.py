"""Accounts as a volume is opened with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from aggfs.assemble.accounts import open_account
from aggfs.config import AccountConfig
from aggfs.errors import Refused
from aggfs.model import AccountId
from tests.support.running import flush, make_volume, new_file, running

WEST = AccountConfig(
    *(AccountId(bytes(8)), "west", "s3", "west.example"),
    bucket="one",
    access_key_env="AGGFS_TEST_NOT_SET",
    secret_key_env="AGGFS_TEST_NOT_SET",
)


async def test_an_account_whose_credentials_are_not_there_is_down_and_says_why() -> None:
    account = open_account(WEST)
    assert not account.healthy
    assert "variable AGGFS_TEST_NOT_SET is not set" in account.last_error
    store = account.store
    asked = [store.put("k", []), store.create("k", []), store.get("k"), store.get_range("k", 0, 1)]
    asked += [store.head("k"), store.list_page("", ""), store.delete("k"), store.space()]
    for call in asked:
        with pytest.raises(Refused, match="is not set"):
            await call
    assert store.place == "s3://s3.amazonaws.com/one"
    await store.aclose()


async def test_a_volume_works_without_an_account_whose_credentials_are_not_there(
    tmp_path: Path,
) -> None:
    place = await make_volume(tmp_path)
    first, *others = place.config.accounts
    config = replace(place.config, accounts=(replace(WEST, id=first.id), *others))
    async with running(config, place.state) as volume:
        row = await new_file(volume, 1, b"file", b"x" * 400_000)
        await flush(volume)
        assert volume.state_of(volume.namespace.by_number(row.number)) == "stored"
        status = await volume.control("status", {})
    west = next(one for one in status["accounts"] if one["name"] == "west")
    assert "AGGFS_TEST_NOT_SET is not set" in west["error"]
