"""From settings to stores, places and providers."""

from dataclasses import dataclass

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from aggfs.config import AccountConfig
from aggfs.errors import BadConfig, NotFound, Refused
from aggfs.model import AccountId
from aggfs.stores.places import parse_endpoint, registrable_domain, s3_place, s3_provider
from aggfs.stores.registry import account_place, default_provider, open_store


def account(driver, **settings):
    return AccountConfig(
        id=AccountId(bytes(8)), name="mine", driver=driver, provider="", **settings
    )


async def test_each_driver_of_the_configuration_opens(tmp_path, moto):
    keys = {"KEY": moto.keys.access, "SECRET": moto.keys.secret}
    for settings in (
        account("memory"),
        account("directory", path=str(tmp_path)),
        account(
            "s3",
            bucket="one",
            endpoint=moto.endpoint,
            prefix="registry",
            access_key_env="KEY",
            secret_key_env="SECRET",
        ),
    ):
        store = open_store(settings, environ=keys)
        await store.put("ab/key", [b"x"])
        assert await store.get("ab/key") == b"x"
        await store.delete("ab/key")
        with pytest.raises(NotFound):
            await store.get("ab/key")
        assert store.place == account_place(settings)
        await store.aclose()


def test_a_variable_that_is_not_set_is_named():
    settings = account("s3", bucket="one", access_key_env="MY_KEY", secret_key_env="MY_SECRET")
    with pytest.raises(Refused, match="MY_SECRET is not set"):
        open_store(settings, environ={"MY_KEY": "x"})


def test_half_a_pair_of_keys_is_a_bad_setting():
    with pytest.raises(BadConfig, match="go together"):
        open_store(account("s3", bucket="one", access_key_env="KEY"), environ={"KEY": "x"})


@pytest.mark.parametrize("ask", [open_store, account_place, default_provider])
def test_an_unknown_driver_is_named_with_the_known_ones(ask):
    with pytest.raises(BadConfig, match="no driver 'ftp'; there are directory, memory, s3"):
        ask(account("ftp"))


async def test_opening_touches_neither_disk_nor_network(tmp_path):
    with trio.fail_after(5):
        await open_store(account("directory", path=str(tmp_path / "absent"))).aclose()
        endpoint = "http://192.0.2.1"  # answers nobody
        await open_store(account("s3", bucket="one", endpoint=endpoint)).aclose()
    assert list(tmp_path.iterdir()) == []


# --- places -----------------------------------------------------------------------------------


def test_one_directory_in_two_words_is_one_place(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    places = {
        account_place(account("directory", path=path))
        for path in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/link/link")
    }
    assert places == {f"file://{tmp_path}"}


def test_one_bucket_in_several_words_is_one_place():
    places = {
        s3_place("https://S3.Example.com", "b", "/p/"),
        s3_place("https://s3.example.com:443/", "b", "p"),
        s3_place("s3.example.com", "b", "p"),
    }
    assert places == {"s3://s3.example.com/b/p"}


def test_other_ports_buckets_and_prefixes_are_other_places():
    places = {
        s3_place("http://h", "b", ""),
        s3_place("http://h:81", "b", ""),
        s3_place("http://h", "c", ""),
        s3_place("http://h", "b", "p"),
        s3_place("", "b", ""),
    }
    assert len(places) == 5


# --- providers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "provider"),
    [
        ("", "amazonaws.com"),
        ("https://s3.eu-central-003.backblazeb2.com", "backblazeb2.com"),
        ("https://abc123.r2.cloudflarestorage.com", "cloudflarestorage.com"),
        ("https://s3.wasabisys.com", "wasabisys.com"),
        ("https://objects.example.co.uk", "example.co.uk"),
        ("https://s3.example.com.au:9000", "example.com.au"),
        ("https://co.uk", "co.uk"),
        ("http://nas:9000", "nas"),
        ("http://192.168.1.10:9000", "192.168.1.10"),
        ("http://192.168.1.10:9001", "192.168.1.10"),
        ("http://127.0.0.1:9000", "127.0.0.1:9000"),
        ("http://localhost:9001", "localhost:9001"),
        ("http://[::1]:9001", "::1:9001"),
    ],
)
def test_the_provider_of_an_endpoint_is_who_operates_it(endpoint, provider):
    assert s3_provider(endpoint) == provider


def test_directories_on_one_file_system_have_one_provider(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    providers = {default_provider(account("directory", path=str(tmp_path / name))) for name in "ab"}
    assert len(providers) == 1
    assert providers != {default_provider(account("directory", path="/proc"))}


def test_the_provider_of_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(Refused, match="make the directory first"):
        default_provider(account("directory", path=str(tmp_path / "absent")))


@given(st.text(max_size=40))
def test_any_text_is_an_endpoint_or_a_bad_setting(text):
    try:
        endpoint = parse_endpoint(text)
    except BadConfig:
        return
    assert endpoint.host
    assert 0 < endpoint.port < 65536
    assert registrable_domain(endpoint.host)


@dataclass(frozen=True)
class Written:
    """Any object with these fields will do."""

    driver: str = "memory"
    name: str = "other"
    path: str = ""
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    prefix: str = ""
    path_style: bool = False
    profile: str = ""
    access_key_env: str = ""
    secret_key_env: str = ""


def test_a_memory_account_is_a_place_and_a_provider_of_its_own():
    assert account_place(Written()) == "memory://other"
    assert default_provider(Written()) == "memory-other"
