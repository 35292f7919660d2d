"""Mounting as services and scripts do it: daemons that linger, credentials that are lent."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.cli import credentials
from aggfs.config import AccountConfig
from aggfs.errors import BadConfig
from aggfs.model import AccountId
from tests.support.commands import PROGRAM, TOP, Home, a_home
from tests.support.mounting import needs_fuse

DATA = os.urandom(1_000_000)
END_SECONDS = 60


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path) as home:
        home.init("photos")
        (home.path / "folder").mkdir()
        yield home


def mount(user: Home, *options: str) -> int:
    """Mount; a descriptor of the daemon's process."""
    user.aggfs("mount", "photos", user.path / "folder", *options)
    return os.pidfd_open(user.json("status")["pid"])


def insist(daemon: int) -> None:
    """Signal until it has ended: signals of one moment are one wish."""
    for _ in range(END_SECONDS):
        signal.pidfd_send_signal(daemon, signal.SIGTERM)
        if select.select([daemon], [], [], 1)[0]:
            return


def wait_for_end(daemon: int) -> None:
    try:
        assert select.select([daemon], [], [], END_SECONDS)[0], "the daemon did not end"
    finally:
        os.close(daemon)


def bytes_in_accounts(user: Home) -> int:
    paths = user.path.glob("account*/**/*")
    return sum(path.stat().st_size for path in paths if path.is_file())


@needs_fuse
def test_a_daemon_that_lingers_brings_to_the_accounts_what_waits(user: Home):
    daemon = mount(user, "--linger", "50")
    (user.path / "folder" / "file").write_bytes(DATA)
    signal.pidfd_send_signal(daemon, signal.SIGTERM)
    wait_for_end(daemon)
    assert bytes_in_accounts(user) > 1.5 * len(DATA)


def cut_off(user: Home) -> None:
    """A file is written that cannot be sent: fewer than k accounts are left."""
    for index in range(2):
        (user.path / f"account{index}").rename(user.path / f"away{index}")
    (user.path / "folder" / "file").write_bytes(DATA)


@needs_fuse
def test_a_later_signal_ends_the_lingering_and_the_next_start_has_everything(user: Home):
    daemon = mount(user, "--linger", "1000000")
    cut_off(user)
    insist(daemon)
    wait_for_end(daemon)
    for index in range(2):
        (user.path / f"away{index}").rename(user.path / f"account{index}")
    again = mount(user)
    assert (user.path / "folder" / "file").read_bytes() == DATA
    user.aggfs("umount", "photos")
    wait_for_end(again)
    assert bytes_in_accounts(user) > 1.5 * len(DATA)


@needs_fuse
def test_the_next_mount_waits_for_a_daemon_that_lingers(user: Home):
    daemon = mount(user, "--linger", "1000000")
    cut_off(user)
    subprocess.run(["fusermount3", "-u", user.path / "folder"], check=True, timeout=60)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "mount", "photos", str(user.path / "folder")],
        env=user.environment(),
        cwd=TOP,
        stderr=subprocess.PIPE,
        text=True,
    ) as next_mount:
        assert next_mount.stderr is not None
        assert "until the last daemon of photos has ended" in next_mount.stderr.readline()
        insist(daemon)
        wait_for_end(daemon)
        assert next_mount.wait(60) == 0
    assert (user.path / "folder" / "file").read_bytes() == DATA
    user.aggfs("umount", "photos", "--now")


@needs_fuse
def test_umount_now_does_not_let_it_linger(user: Home):
    daemon = mount(user, "--linger", "1000000")
    cut_off(user)
    user.aggfs("umount", "photos", "--now")
    wait_for_end(daemon)


def account(**settings: str) -> AccountConfig:
    return AccountConfig(AccountId(bytes(8)), "west", "s3", "west", bucket="b", **settings)


def test_credentials_of_the_service_become_the_variables_that_accounts_name(tmp_path: Path):
    (tmp_path / "WEST_ID").write_text("me\n")
    (tmp_path / "WEST_KEY").write_text("secret\n")
    (tmp_path / "OTHER").write_text("for somebody else")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path), "WEST_ID": "set already"}
    accounts = [account(access_key_env="WEST_ID", secret_key_env="WEST_KEY")]
    accounts.append(account(access_key_env="ABSENT", secret_key_env="../WEST_KEY"))
    credentials.lend(accounts, environment)
    assert environment == {
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "WEST_ID": "set already",
        "WEST_KEY": "secret",
    }


def test_without_a_service_manager_no_variable_is_touched(tmp_path: Path):
    environment = {"HOME": str(tmp_path)}
    credentials.lend([account(access_key_env="A", secret_key_env="B")], environment)
    assert environment == {"HOME": str(tmp_path)}


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"a\0b"])
def test_a_credential_that_can_be_no_key_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "KEY").write_bytes(content)
    with pytest.raises(BadConfig, match="credential KEY"):
        credentials.lend(
            [account(access_key_env="KEY", secret_key_env="KEY")],
            {"CREDENTIALS_DIRECTORY": str(tmp_path)},
        )
