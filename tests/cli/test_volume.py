"""The commands on real volumes over directories: made, mounted, asked, lost, recovered."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.coding.keys import is_header_name
from tests.support.commands import Home, a_home, words_in
from tests.support.mounting import needs_fuse

pytestmark = needs_fuse
DATA = bytes(range(256)) * 5000


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path) as home:
        yield home


@pytest.fixture
def cloud(user: Home) -> Iterator[Path]:
    """The folder of `aggfs up`."""
    folder = user.path / "Cloud"
    user.aggfs("up", folder)
    yield folder
    if os.path.ismount(folder):
        user.aggfs("umount", folder)


def objects_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_one_command_gives_a_folder_and_again_just_mounts_it(user):
    folder = user.path / "Cloud"
    words_in(user.aggfs("up", folder).out)
    (folder / "photo").write_bytes(DATA)
    assert "already" in user.aggfs("up", folder).out
    user.aggfs("umount", folder)
    assert os.listdir(folder) == []
    assert "ecovery" not in user.aggfs("up", folder).out
    assert (folder / "photo").read_bytes() == DATA
    user.aggfs("umount", "Cloud")


def test_nobody_else_may_read_what_is_kept_here(user, cloud):
    assert stat.S_IMODE(os.stat(user.path / "config/aggfs/Cloud/config.toml").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(user.path / "state/aggfs/Cloud").st_mode) == 0o700


def test_status_tells_where_the_folder_is(user, cloud):
    answer = user.json("status")
    assert answer["mountpoint"] == str(cloud)
    assert [account["healthy"] for account in answer["accounts"]] == [True] * 3
    assert "volume Cloud on" in user.aggfs("status", cloud).out
    assert any("disk" in warning for warning in answer["warnings"])


def test_a_volume_is_mounted_once_only(user, cloud):
    other = user.path / "Other"
    other.mkdir()
    busy = user.aggfs("mount", "Cloud", other, code=exits.BUSY)
    assert busy.err == f"aggfs: Cloud is mounted on {cloud} already\n"
    user.aggfs("init", "Cloud", f"--account=a={other}", code=exits.BUSY)


def test_a_folder_that_is_not_empty_stays_as_it_is(user):
    user.init("photos")
    folder = user.path / "folder"
    folder.mkdir()
    (folder / "file").write_text("mine")
    user.aggfs("mount", "photos", folder, code=exits.MOUNT_REFUSED)
    user.aggfs("mount", "photos", user.path / "nowhere", code=exits.MOUNT_REFUSED)
    user.aggfs("mount", "music", folder, code=exits.NO_ENTRY)
    assert (folder / "file").read_text() == "mine"


def test_volumes_of_one_name_of_two_users_are_kept_apart(user, cloud, tmp_path_factory):
    with a_home(tmp_path_factory.mktemp("other")) as other:
        other.aggfs("up", other.path / "Cloud")
        assert user.json("status")["mountpoint"] == str(cloud)
        other.aggfs("umount", "Cloud")
        other.aggfs("umount", "Cloud", code=exits.NOT_RUNNING)
        other.aggfs("status", cloud, code=exits.NO_ENTRY)
        assert user.json("status")["mountpoint"] == str(cloud)


def test_paths_are_explained(user, cloud):
    (cloud / "photo").write_bytes(DATA)
    (cloud / "small").write_bytes(b"tiny")
    user.aggfs("flush", cloud)
    where = user.json("where", cloud / "photo")
    assert where["size"] == len(DATA)
    assert sum(run["count"] for run in where["blocks"]) == -(-len(DATA) // (256 * 1024))
    for run in where["blocks"]:
        assert {fragment["account"] for fragment in run["fragments"]} == {"one", "two", "three"}
    why = user.json("why", cloud / "photo")
    assert why["any"] == 1
    assert all(provider["may_fail"] for provider in why["providers"])
    assert user.json("holes", cloud / "photo")["holes"] == []
    user.aggfs("evict", cloud / "photo")
    assert user.json("holes", cloud / "photo")["holes"] == [[0, len(DATA)]]
    assert (cloud / "photo").read_bytes() == DATA
    missing = user.aggfs("where", cloud / "nothing", code=exits.NO_ENTRY)
    assert missing.err.startswith("aggfs: /nothing: ")
    user.aggfs("where", user.path / "outside", code=exits.NOT_RUNNING)


def test_a_volume_answers_without_being_mounted(user, cloud):
    (cloud / "photo").write_bytes(DATA)
    user.aggfs("umount", cloud)
    where = user.json("where", "Cloud:/photo")
    assert where["size"] == len(DATA)
    assert user.json("why")["lost"] == 0
    user.aggfs("status", code=exits.NOT_RUNNING)
    user.aggfs("umount", "Cloud", code=exits.NOT_RUNNING)


def test_no_provider_has_a_complete_copy(user, cloud):
    (cloud / "photo").write_bytes(DATA)
    user.aggfs("flush")
    answer = user.json("audit", "no-complete-copy")
    assert answer["complete"] == []
    assert [provider["most_fragments"] for provider in answer["providers"]] == [1, 1, 1]
    assert all(provider["stripes"] > 0 for provider in answer["providers"])


@pytest.mark.parametrize(
    ("arguments", "accounts"),
    [((), 2), (("--k=1",), 3), (("--n=2",), 3), (("--fragments-per-provider=2",), 3)],
)
def test_a_volume_that_would_give_a_complete_copy_is_refused(user, arguments, accounts):
    refused = user.init("photos", *arguments, accounts=accounts, code=exits.BAD_CONFIG)
    assert "2-of-3" in refused.err or "1-of-3" in refused.err or "2-of-2" in refused.err
    assert not (user.path / "config/aggfs/photos").exists()
    assert objects_of(user.path / "account0") == {}


@pytest.mark.parametrize(
    ("arguments", "accounts", "text"),
    [
        (("--n=3",), 3, "2-of-3 in copies: n must be a larger multiple of k: 4, 6, ..."),
        (("--n=2",), 2, "2-of-2 in copies: n must be a larger multiple of k: 4, 6, ..."),
        (("--k=1", "--n=2"), 2, "with k = 1 every fragment is a complete copy"),
        (("--n=4",), 3, "4 providers are needed, there are 3 (p0, p1, p2)"),
        (("--n=4", "--allow-complete-copy"), 3, "2-of-4 in copies: 4 providers are needed"),
        (
            ("--n=4", "--fragments-per-provider=2", "--allow-complete-copy"),
            4,
            "2-of-4 in copies: a provider may hold 1 fragment, not 2: two could be copies",
        ),
    ],
)
def test_copies_that_no_volume_may_have_are_refused_in_one_line(user, arguments, accounts, text):
    refused = user.init(
        "photos", "--code=copies", *arguments, accounts=accounts, code=exits.BAD_CONFIG
    )
    assert text in refused.err
    assert refused.err.count("\n") == 1
    assert not (user.path / "config/aggfs/photos").exists()
    assert objects_of(user.path / "account0") == {}


def test_a_bad_account_is_refused_and_nothing_is_left_behind(user):
    one, two = user.directories(2)
    specs = [f"--account=one={one}?provider=1", f"--account=two={two}?provider=2"]
    third = user.path / "missing"
    user.aggfs("init", "x", *specs, f"--account=3={third}", code=exits.REFUSED)
    (user.path / "again").symlink_to(one)
    again = user.path / "again"
    same = user.aggfs("init", "x", *specs, f"--account=3={again}?provider=3", code=exits.BAD_CONFIG)
    assert "is the same place as 'one'" in same.err
    assert objects_of(one) == objects_of(two) == {}
    assert not (user.path / "config/aggfs/x").exists()


def test_state_that_nobody_configured_is_not_overwritten(user):
    user.init("photos")
    (user.path / "config/aggfs/photos/config.toml").unlink()
    before = objects_of(user.path / "state")
    specs = [f"--account=a{i}={user.path}/account{i}?provider=p{i}" for i in range(3)]
    user.aggfs("init", "photos", *specs, code=exits.BUSY)
    assert objects_of(user.path / "state") == before


def test_everything_comes_back_from_the_accounts_and_the_words(user):
    words = words_in(user.init("photos", "--n=4", accounts=4).out)
    folder = user.path / "folder"
    folder.mkdir()
    user.aggfs("mount", "photos", folder)
    (folder / "album").mkdir()
    (folder / "album" / "photo").write_bytes(DATA)
    user.aggfs("umount", folder)
    shutil.rmtree(user.path / "config")
    shutil.rmtree(user.path / "state")
    (user.path / "words").write_text(words)
    specs = [f"--account=a{i}={user.path}/account{i}?provider=p{i}" for i in range(4)]
    user.aggfs("recover", "photos", *specs, "--words-file", user.path / "words")
    user.aggfs("mount", "photos", folder)
    assert (folder / "album" / "photo").read_bytes() == DATA
    user.aggfs("umount", folder)


def test_everything_comes_back_though_an_account_is_gone(user):
    words = words_in(user.init("photos", accounts=3).out)
    folder = user.path / "folder"
    folder.mkdir()
    user.aggfs("mount", "photos", folder)
    (folder / "photo").write_bytes(DATA)
    user.aggfs("umount", folder)
    for lost in ("config", "state", "account1"):
        shutil.rmtree(user.path / lost)
    (user.path / "words").write_text(words)
    specs = [f"--account=a{i}={user.path}/account{i}" for i in range(3)]
    told = user.aggfs("recover", "photos", *specs, "--words-file", user.path / "words").out
    assert "account a1 is left out" in told
    user.aggfs("mount", "photos", folder)
    assert (folder / "photo").read_bytes() == DATA
    (folder / "more").write_bytes(DATA)
    user.aggfs("flush", folder)
    assert [one["provider"] for one in user.json("account", "list")] == ["p0", "p1", "p2"]
    user.aggfs("umount", folder, "--now")


def test_a_wrong_secret_opens_and_changes_nothing(user):
    user.init("photos")
    before = [objects_of(user.path / f"account{i}") for i in range(3)]
    shutil.rmtree(user.path / "config")
    shutil.rmtree(user.path / "state")
    (user.path / "wrong").write_text("a wrong passphrase\n")
    (user.path / "swapped").write_text("abandon " * 24)
    specs = [f"--account=a{i}={user.path}/account{i}?provider=p{i}" for i in range(3)]
    for option, name in (("--passphrase-file", "wrong"), ("--words-file", "swapped")):
        user.aggfs("recover", "photos", *specs, option, user.path / name, code=exits.WRONG_KEY)
    assert [objects_of(user.path / f"account{i}") for i in range(3)] == before
    assert not (user.path / "config/aggfs/photos").exists()
    assert not (user.path / "state/aggfs/photos").exists()


def test_a_key_is_added_used_and_removed(user):
    user.init("photos")
    user.aggfs("key", "add", "file", "--to", user.path / "key")
    user.aggfs("key", "add", "file", "--to", user.path / "key", code=exits.FAILED)
    slots = user.json("key", "show")
    assert sorted(slot["kind"] for slot in slots) == ["device", "key_file", "recovery"]
    shutil.rmtree(user.path / "config")
    shutil.rmtree(user.path / "state")
    specs = [f"--account=a{i}={user.path}/account{i}?provider=p{i}" for i in range(3)]
    user.aggfs("recover", "photos", *specs, "--key-file", user.path / "key")
    (file_slot,) = [slot["id"] for slot in slots if slot["kind"] == "key_file"]
    user.aggfs("key", "remove", file_slot)
    user.aggfs("key", "remove", file_slot, code=exits.NO_ENTRY)
    assert "key_file" not in {slot["kind"] for slot in user.json("key", "show")}


def headers_of(directory: Path) -> set[str]:
    keys = [key for key in objects_of(directory) if not key.startswith(".")]
    return {key for key in keys if is_header_name(key)}


def test_a_change_of_keys_reaches_the_accounts_that_answer_or_none(user):
    user.init("photos", "--n=4", accounts=4)
    (user.path / "account3").rename(user.path / "away3")
    added = user.aggfs("key", "add", "words")
    assert "note: a3 did not answer" in added.out
    assert len(words_in(added.out).split()) == 24
    before = user.json("key", "show")
    (user.path / "account2").rename(user.path / "away2")
    headers = headers_of(user.path / "account0")
    user.aggfs("key", "add", "words", code=exits.UNREACHABLE)
    assert headers_of(user.path / "account0") == headers
    assert len(headers) == 1
    assert user.json("key", "show") == before


def test_a_device_keeps_its_own_key(user):
    user.init("photos")
    (own,) = [slot["id"] for slot in user.json("key", "show") if slot["kind"] == "device"]
    user.aggfs("key", "remove", own, code=exits.BAD_CONFIG)
    user.aggfs("key", "remove", "00" * 8, code=exits.NO_ENTRY)


def test_an_account_is_added_while_the_volume_is_mounted(user, cloud):
    fourth = user.path / "fourth"
    fourth.mkdir()
    user.aggfs("account", "add", f"four={fourth}?provider=p4&quota=1GiB")
    accounts = user.json("account", "list")
    assert [account["name"] for account in accounts] == ["one", "two", "three", "four"]
    assert accounts[3]["healthy"]
    for number in range(8):
        (cloud / f"photo{number}").write_bytes(DATA)
    user.aggfs("flush")
    assert len(objects_of(fourth)) > 1
    user.aggfs("umount", cloud)
    user.aggfs("up", cloud)
    assert (cloud / "photo7").read_bytes() == DATA


def test_an_account_that_cannot_be_used_is_not_added(user, cloud):
    before = user.json("account", "list")
    one = user.path / "data/aggfs/Cloud/accounts/one"
    user.aggfs("account", "add", f"again={one}", code=exits.BAD_CONFIG)
    user.aggfs("account", "add", f"one={user.path}", code=exits.BAD_CONFIG)
    user.aggfs("account", "add", f"four={user.path}/missing?provider=x", code=exits.UNREACHABLE)
    after = user.json("account", "list")
    assert [account["id"] for account in before] == [account["id"] for account in after]


def test_accounts_are_tried_on_request(user):
    user.init("photos")
    assert user.aggfs("account", "test").out == "a0: good\na1: good\na2: good\n"
    shutil.rmtree(user.path / "account1")
    tried = user.aggfs("account", "test", code=exits.UNREACHABLE)
    assert "a1: " in tried.out
    assert user.aggfs("account", "test", "a2").out == "a2: good\n"
    user.aggfs("account", "test", "a9", code=exits.BAD_CONFIG)


def test_umount_says_what_is_left_when_it_may_not_wait(user, cloud):
    for name in ("one", "two"):
        (user.path / f"data/aggfs/Cloud/accounts/{name}").rename(user.path / name)
    (cloud / "photo").write_bytes(DATA)
    left = user.aggfs("umount", cloud, "--wait", "3", code=exits.BUSY)
    assert "are not in the accounts yet" in left.err
    user.aggfs("umount", cloud, "--now")
    for name in ("one", "two"):
        (user.path / name).rename(user.path / f"data/aggfs/Cloud/accounts/{name}")
    user.aggfs("up", cloud)
    assert (cloud / "photo").read_bytes() == DATA


def test_a_mount_whose_daemon_died_is_taken_over(user, cloud):
    (cloud / "photo").write_bytes(DATA)
    descriptor = os.open(cloud / "photo", os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    os.kill(daemon_of(user), 9)
    user.aggfs("up", cloud)
    assert (cloud / "photo").read_bytes() == DATA


def daemon_of(user: Home) -> int:
    from aggfs.cli.mounting import _daemon_pid

    return _daemon_pid(str(user.path / "state/aggfs/Cloud/control.sock"))
