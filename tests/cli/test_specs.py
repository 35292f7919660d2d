"""Accounts as users write them."""

from pathlib import Path

import pytest

from aggfs.cli.specs import parse_spec
from aggfs.config import AccountConfig, Size
from aggfs.errors import BadConfig
from aggfs.model import AccountId

ID = AccountId(b"12345678")


def test_a_directory_is_an_account_wherever_links_lead(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path)
    account = parse_spec(f"one={tmp_path}/link/x", id=ID)
    assert account == AccountConfig(ID, "one", "directory", "", path=f"{tmp_path}/x")


def test_settings_follow_the_location():
    account = parse_spec("one=/srv/one?quota=10GiB&provider=attic", id=ID)
    assert (account.quota_bytes, account.provider) == (10 << 30, "attic")
    assert parse_spec("one=/srv/one?quota=4096", id=ID).quota_bytes == 4096
    assert parse_spec("one=/srv/what%3F", id=ID).path == "/srv/what?"


def test_a_bucket_is_an_account():
    spec = (
        "west=s3://bucket/some/prefix/?endpoint=https://s3.eu.example.com&region=eu&profile=home"
        "&path_style=yes&quota=1TiB"
    )
    assert parse_spec(spec, id=ID) == AccountConfig(
        ID,
        "west",
        "s3",
        "",
        quota_bytes=Size(1 << 40),
        endpoint="https://s3.eu.example.com",
        bucket="bucket",
        region="eu",
        prefix="some/prefix",
        path_style=True,
        profile="home",
    )


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("one", "account 'one': write NAME=DIRECTORY or NAME=s3://BUCKET/PREFIX"),
        ("=x", "account '=x': write NAME="),
        ("one=/srv?colour=red", "account 'one': unknown setting 'colour' (a directory account has"),
        ("one=/srv?endpoint=x", "account 'one': unknown setting 'endpoint'"),
        ("one=/srv?quota", "account 'one': bad query field"),
        ("one=/srv?quota=many", "account 'one': 'many' is no size"),
        ("one=s3://b?path_style=perhaps", "account 'one': 'perhaps' is neither yes nor no"),
        ("one=s3://b?secret=hunter2", "account 'one': unknown setting 'secret'"),
    ],
)
def test_a_wrong_account_is_named(spec, fault):
    with pytest.raises(BadConfig) as caught:
        parse_spec(spec, id=ID)
    assert str(caught.value).startswith(fault)
    assert "hunter2" not in str(caught.value)
