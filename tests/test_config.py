"""The configuration: what is read back is what was written, and each fault names its place."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.config import (
    AccountConfig,
    Config,
    MountConfig,
    Size,
    account_from,
    account_settings,
    dump,
    format_size,
    load,
    parse,
    parse_size,
    with_mount_options,
)
from aggfs.errors import BadConfig
from aggfs.model import AccountId, DeviceId, Layout, VolumeId
from aggfs.placement.policy import StorageClass

GOOD = """
name = "cloud"
volume = "00112233445566778899aabbccddeeff"
device = "0011223344556677"
device_name = "laptop"

[[classes]]
id = 0
name = "default"
k = 2
n = 3

[[accounts]]
id = "0000000000000001"
name = "one"
driver = "directory"
provider = "first"
quota = "10 GiB"
path = "/srv/one"

[[accounts]]
id = "0000000000000002"
name = "two"
driver = "s3"
provider = "example.com"
endpoint = "https://s3.example.com"
bucket = "photos"
profile = "home"

[mount]
fsync = "cloud"
"""

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
sizes = st.integers(0, 1 << 50).map(Size)
accounts = st.builds(
    AccountConfig,
    id=st.binary(min_size=8, max_size=8).map(AccountId),
    name=texts,
    driver=st.just("s3"),
    provider=texts,
    quota_bytes=sizes,
    endpoint=st.sampled_from(["", "http://127.0.0.1:1", "https://s3.example.com"]),
    bucket=texts,
    region=texts,
    prefix=texts,
    path_style=st.booleans(),
    profile=texts,
)
COPIES = 'layout = "contiguous_copies"'
configs = st.builds(
    Config,
    name=st.from_regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", fullmatch=True),
    volume=st.binary(min_size=16, max_size=16).map(VolumeId),
    device=st.binary(min_size=8, max_size=8).map(DeviceId),
    device_name=texts,
    classes=st.lists(
        st.builds(
            StorageClass,
            id=st.integers(0, 255),
            name=texts,
            k=st.integers(1, 4),
            n=st.integers(4, 9),
            layout=st.sampled_from([Layout.CONTIGUOUS, Layout.INTERLEAVE]),
            compression=st.sampled_from([None, "zstd"]),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda storage_class: storage_class.id,
    ).map(tuple),
    accounts=st.lists(accounts, max_size=4, unique_by=(lambda a: a.id, lambda a: a.name)).map(
        tuple
    ),
    fragments_per_provider=st.integers(1, 4),
    allow_complete_copy=st.booleans(),
    mount=st.builds(
        MountConfig,
        cache_encryption=st.booleans(),
        cache_limit_bytes=st.none() | sizes,
        staging_limit_bytes=st.none() | sizes.map(lambda size: Size(size + (64 << 20))),
        minimum_free_bytes=sizes,
        background_rate_bytes=sizes,
        fsync=st.sampled_from(["local", "cloud"]),
        close=st.sampled_from(["local", "cloud"]),
        read_deadline_seconds=st.integers(10, 1000),
        allow_other=st.booleans(),
    ),
)


@given(configs)
def test_what_is_written_is_read_back(config):
    assert parse(dump(config)) == config


@pytest.mark.parametrize("layout", [Layout.CONTIGUOUS_COPIES, Layout.INTERLEAVE_COPIES])
def test_copies_are_written_and_read_back(layout):
    """One fragment at each provider; with more, two could be copies of each other."""
    config = replace(parse(GOOD), classes=(StorageClass(0, "default", 2, 4, layout),))
    assert parse(dump(config)) == config
    with pytest.raises(BadConfig, match="2-of-4 in copies: a provider may hold 1 fragment, not 2"):
        parse(dump(replace(config, fragments_per_provider=2)))


def test_a_good_configuration_is_read_with_its_defaults():
    config = parse(GOOD)
    assert config.volume == VolumeId(bytes.fromhex("00112233445566778899aabbccddeeff"))
    assert config.classes == (StorageClass(0, "default", 2, 3, Layout.CONTIGUOUS, None),)
    assert config.accounts[0].quota_bytes == 10 << 30
    assert config.accounts[1].quota_bytes == 0
    assert config.mount == MountConfig(fsync="cloud")
    assert config.mount.staging_limit_bytes is None
    assert config.mount.cache_encryption


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ('driver = "s3"', 'driver = "ftp"', "accounts[1].driver: unknown driver 'ftp' (directory,"),
        ('path = "/srv/one"', "", "accounts[0].path: is needed by the driver 'directory'"),
        ('path = "/srv/one"', 'path = "one"', "accounts[0].path: must be absolute, not 'one'"),
        ('bucket = "photos"', 'path = "/x"', "accounts[1].path: is no setting of the driver 's3'"),
        ('bucket = "photos"', "", "accounts[1].bucket: is needed by the driver 's3'"),
        ('"10 GiB"', '"10 GB"', "accounts[0].quota: '10 GB' is no size: write bytes, or"),
        ('"10 GiB"', "-1", "accounts[0].quota: -1 is no size"),
        ('"10 GiB"', "true", "accounts[0].quota: True is no size"),
        ('name = "one"', "name = 1", "accounts[0].name: must be a text, not 1"),
        ('name = "one"', "", "accounts[0].name: is missing"),
        ('name = "two"', 'name = "one"', "accounts[1].name: 'one' is already that of accounts[0]"),
        ('provider = "first"', 'provider = ""', "accounts[0].provider: must not be empty"),
        ("0000000000000002", "0000000000000001", "accounts[1].id: '0000000000000001' is already"),
        ("0000000000000002", "xyz", "accounts[1].id: must be 16 hexadecimal digits, not 'xyz'"),
        ('"https://s3', '"s3', "accounts[1].endpoint: must begin with https:// or http://"),
        ('profile = "home"', 'access_key_env = "A"', "accounts[1].access_key_env: and secret_key"),
        ('profile = "home"', "colour = 1", "accounts[1].colour: unknown setting"),
        ("k = 2", "k = 2.0", "classes[0].k: must be a whole number, not 2.0"),
        ("k = 2", "k = 9", "classes[0]: class 'default': 9-of-3: n must not be less than k"),
        ("k = 2", 'k = 2\nlayout = "x"', "classes[0].layout: unknown layout 'x' (contiguous, int"),
        ("k = 2", f"k = 2\n{COPIES}", "classes[0]: class 'default': 2-of-3 in copies: n must be a"),
        ("k = 2", 'k = 2\ncompression = "rar"', "classes[0]: class 'default': 2-of-3: unknown co"),
        ('fsync = "cloud"', 'fsync = "maybe"', "mount.fsync: must be 'local' or 'cloud', not 'm"),
        ('fsync = "cloud"', 'staging_limit = "1 MiB"', "mount.staging_limit: must be at least 64"),
        ('fsync = "cloud"', "read_deadline_seconds = 9", "mount.read_deadline_seconds: must be at"),
        ('fsync = "cloud"', "allow_other = 1", "mount.allow_other: must be true or false, not 1"),
        ('name = "cloud"', 'name = "a/b"', "name: 'a/b' cannot name a volume"),
        ('name = "cloud"', "", "name: is missing"),
        ('name = "cloud"', 'name = "cloud"\nmounts = 3', "mounts: unknown setting"),
        ("[mount]", "[[mount]]", "mount: has the wrong shape"),
        ("[mount]", "[mount", "Expected ']'"),
    ],
)
def test_each_fault_names_its_place(before, after, fault):
    assert before in GOOD
    with pytest.raises(BadConfig) as caught:
        parse(GOOD.replace(before, after))
    text = str(caught.value)
    assert text.startswith(f"config.toml: {fault}")
    assert "\n" not in text


def test_all_faults_are_told_at_once():
    text = GOOD.replace("k = 2", 'k = "2"').replace('name = "one"', "name = 1")
    with pytest.raises(BadConfig) as caught:
        parse(text)
    assert "classes[0].k: " in str(caught.value)
    assert "accounts[0].name: " in str(caught.value)


def test_a_secret_in_the_configuration_is_refused_with_the_right_way():
    with pytest.raises(BadConfig, match=r"secret_access_key: unknown setting [(]secrets are not"):
        parse(GOOD.replace('profile = "home"', 'secret_access_key = "hunter2"'))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"volume\.toml: there is no such file"):
        load(tmp_path / "volume.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path):
    path = tmp_path / "volume.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadConfig, match=r"volume\.toml: cannot be read"):
        load(path)


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "volume.toml"
    path.write_text(GOOD)
    assert stat.S_ISREG(path.stat().st_mode)
    assert load(path) == parse(GOOD)


@given(accounts)
def test_an_account_travels_as_plain_values(account):
    assert account_from(account_settings(account)) == account


def test_an_account_that_travelled_badly_is_refused():
    settings = account_settings(parse(GOOD).accounts[0])
    for fault, text in (
        ({"id": "12"}, "account: id: must be 16 hexadecimal digits"),
        ({"path": "x"}, "account: path: must be absolute"),
        ({"colour": "red"}, "account: colour: unknown setting"),
    ):
        with pytest.raises(BadConfig, match=text):
            account_from(settings | fault)


def test_options_of_one_mount_replace_its_settings():
    config = parse(GOOD)
    changed = with_mount_options(
        config, {"allow_other": "", "xattrs": "false", "close": "cloud", "cache_limit": "3 GiB"}
    )
    assert changed.mount == MountConfig(
        fsync="cloud",
        close="cloud",
        allow_other=True,
        xattrs=False,
        cache_limit_bytes=Size(3 << 30),
    )
    assert replace(changed, mount=config.mount) == config


@pytest.mark.parametrize(("word", "meant"), [("on", True), ("yes", True), ("off", False)])
def test_a_switch_of_one_mount_is_on_or_off(word, meant):
    assert with_mount_options(parse(GOOD), {"xattrs": word}).mount.xattrs is meant


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("colour", "red", "mount option: colour: unknown setting"),
        ("fsync", "maybe", "mount option: fsync: must be 'local' or 'cloud', not 'maybe'"),
        ("allow_other", "2", "mount option: allow_other: must be true or false, not 2"),
    ],
)
def test_a_wrong_mount_option_is_named(option, value, fault):
    with pytest.raises(BadConfig) as caught:
        with_mount_options(parse(GOOD), {option: value})
    assert str(caught.value) == fault


@given(sizes)
def test_a_size_is_written_exactly(size):
    assert parse_size(format_size(size)) == size


def test_sizes_are_written_in_the_unit_that_people_use():
    assert format_size(10 << 30) == "10 GiB"
    assert format_size((10 << 30) + 1) == (10 << 30) + 1
    assert parse_size("1.5 KiB") == 1536


def test_a_default_is_not_written():
    config = replace(parse(GOOD), mount=MountConfig())
    assert "[mount]" not in dump(config)
