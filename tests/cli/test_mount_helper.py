"""mount.aggfs: from a line of fstab to `aggfs mount`."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from aggfs.cli import mount_helper
from aggfs.cli.mount_helper import Misused, User, Wish, command_of, environment_of, wish_of

TOP = Path(__file__).parent.parent.parent
ALICE = User("alice", 1001, 1002, "/home/alice", system=False)
MACHINE = User("aggfs", 990, 990, "/var/lib/aggfs", system=True)


@pytest.mark.parametrize("source", ["aggfs#photos", "aggfs:photos"])
def test_what_mount_and_systemd_keep_to_themselves_is_ignored(source: str):
    text = "rw,noexec,nosuid,nodev,user=alice,nofail,_netdev,x-systemd.automount,x-gvfs-show,noauto"
    assert wish_of(source, "/srv/photos", [text]) == Wish("photos", "/srv/photos", (), None, None)


def test_everything_else_goes_to_the_mount():
    wish = wish_of("aggfs#photos", "/p", ["allow_other,cache_limit=5GiB", "setuid=alice,linger=60"])
    assert wish == Wish("photos", "/p", ("allow_other", "cache_limit=5GiB"), "alice", "60")


@pytest.mark.parametrize("source", ["photos", "aggfs#", "aggfs", "sshfs#photos", "aggfs#../x", ""])
def test_a_source_that_names_no_volume_is_refused(source: str):
    with pytest.raises(Misused, match="aggfs#NAME"):
        wish_of(source, "/p", [])


@pytest.mark.parametrize("option", ["ro", "remount"])
def test_what_would_be_a_lie_is_refused(option: str):
    with pytest.raises(Misused, match=f"^{option}: "):
        wish_of("aggfs#photos", "/p", [option])


def test_the_caller_mounts_as_the_caller():
    wish = Wish("photos", "/p", ("allow_other",), None, "5")
    expected = ["/bin/aggfs", "mount", "-o", "allow_other", "--linger", "5", "--", "photos", "/p"]
    assert command_of(wish, None, program="/bin/aggfs", caller=1000) == expected
    assert command_of(wish, ALICE, program="/bin/aggfs", caller=ALICE.uid) == expected


def test_root_hands_over_the_right_to_mount_and_nothing_else():
    command = command_of(Wish("v", "/p", (), "alice", None), ALICE, program="aggfs", caller=0)
    end = command.index("--")
    assert command[end:] == ["--", "aggfs", "mount", "--", "v", "/p"]
    assert {"--reuid=1001", "--regid=1002", "--init-groups", "--no-new-privs"} < {*command[:end]}
    assert sum("all,+sys_admin" in word for word in command[:end]) == 3


def test_a_user_gets_an_environment_of_their_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_PROFILE", "of root")
    assert environment_of(ALICE)["HOME"] == "/home/alice"
    assert "AWS_PROFILE" not in environment_of(ALICE)
    assert "XDG_CONFIG_HOME" not in environment_of(ALICE)
    assert environment_of(MACHINE)["XDG_CONFIG_HOME"] == "/etc"
    assert environment_of(MACHINE)["XDG_STATE_HOME"] == "/var/lib"
    assert environment_of(None)["AWS_PROFILE"] == "of root"


def test_a_user_who_is_not_there_is_named():
    with pytest.raises(Misused, match="there is no user 'nobody-of-this-name'"):
        mount_helper.user_for(Wish("v", "/p", (), "nobody-of-this-name", None))


def test_setuid_names_a_user_of_this_machine():
    own = pwd.getpwuid(os.geteuid())
    found = mount_helper.user_for(Wish("v", "/p", (), own.pw_name, None))
    assert found == User(own.pw_name, own.pw_uid, own.pw_gid, own.pw_dir, system=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from aggfs.cli.mount_helper import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=TOP,
        timeout=60,
        check=False,
    )


def test_it_is_called_as_mount_calls_it():
    done = run("aggfs#photos", "/p", "-s", "-f", "-n", "-v", "-o", "rw,noexec", "-t", "aggfs")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run("photos", "/p", "-o", "rw")
    assert done.returncode == mount_helper.USAGE
    assert done.stderr == "mount.aggfs: the source is aggfs#NAME, not 'photos'\n"


def test_it_imports_nothing_heavy():
    script = (
        "import sys, aggfs.cli.mount_helper\n"
        "heavy = {'click', 'trio', 'boto3', 'pyfuse3', 'aggfs.config', 'json', 'subprocess'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=TOP, timeout=60)
