"""Other users of this machine, where root mounts the folder for them too. Nobody but root can act
as others do, so for anybody else there is less to see here."""

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import VOLUME
from tests.support.mounting import needs_fuse, served

pytestmark = needs_fuse

IS_ROOT = os.geteuid() == 0
ALICE, BOB, FRIENDS = 41001, 41002, 41003
SECONDS = 30


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that every user may enter and write to, where root mounts it."""
    options = ["allow_other=True"] if IS_ROOT else []
    with served(VOLUME, tmp_path_factory.mktemp("users"), *options) as folder:
        os.chmod(folder.path, 0o777)  # noqa: S103 - for all users is the point
        yield Path(folder.path)
    assert folder.unexpected_log() == []


def may(user: int, command: str, directory: Path) -> bool:
    """Whether a shell's command goes well for a user, in a directory that its path may hide."""
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory,
        user=user,
        group=user,
        extra_groups=[FRIENDS] if user == BOB else [],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    return done.returncode == 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_kernel_checks_modes(top: Path):
    flags = next(
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(top) in line
    )
    assert "default_permissions" in flags
    assert ("allow_other" in flags) == IS_ROOT


def test_a_user_sees_what_modes_and_groups_let_him(top: Path):
    if not IS_ROOT:
        return
    assert may(ALICE, "mkdir -m 700 hers && echo secret > hers/f && echo all > f", top)
    assert ((top / "f").stat().st_uid, (top / "f").stat().st_gid) == (ALICE, ALICE)
    assert not may(BOB, "ls hers", top)
    assert not may(BOB, "cat hers/f", top)
    assert may(BOB, "cat f", top)
    assert not may(BOB, "echo his >> f", top)
    os.chown(top / "f", -1, FRIENDS)
    os.chmod(top / "f", 0o460)
    assert may(BOB, "echo his >> f", top)
    assert not may(ALICE, "echo hers >> f", top)
    assert not may(BOB, "chmod 666 f || chown 41002 f || touch -d 2001-01-01 f", top)
    assert may(BOB, "touch f", top)


def test_who_else_writes_takes_setuid_and_setgid_away(top: Path):
    if not IS_ROOT:
        return
    for change in ("echo more >> program", "truncate -s 3 program", ": > program"):
        (top / "program").write_bytes(b"content")
        os.chmod(top / "program", 0o6777)  # noqa: S103 - as above
        assert may(ALICE, change, top)
        assert mode_of(top / "program") == 0o777, change


def test_in_a_sticky_directory_names_are_their_owners(top: Path):
    if not IS_ROOT:
        return
    (top / "shared").mkdir()
    os.chmod(top / "shared", 0o1777)  # noqa: S103 - as above
    shared = top / "shared"
    assert may(ALICE, "echo hers > a && mkdir d", shared)
    assert may(BOB, "echo his > b", shared)
    assert not may(BOB, "rm -f a", shared)
    assert not may(BOB, "mv a c", shared)
    assert not may(BOB, "mv b a", shared)
    assert not may(BOB, "rmdir d", shared)
    assert may(ALICE, "mv a c && rm c && rmdir d", shared)
    assert os.listdir(shared) == ["b"]


def test_in_a_setgid_directory_files_are_of_its_group(top: Path):
    if not IS_ROOT:
        return
    team = top / "team"
    team.mkdir()
    os.chown(team, -1, FRIENDS)
    os.chmod(team, 0o2777)  # noqa: S103 - as above
    assert may(ALICE, "echo hers > f && mkdir d && echo deeper > d/f", team)
    groups = {path.stat().st_gid for path in (team / "f", team / "d", team / "d" / "f")}
    assert groups == {FRIENDS}
    assert mode_of(team / "d") & stat.S_ISGID
    assert may(ALICE, "chmod 2755 f", team)  # she is none of them: the bit does not stay
    assert mode_of(team / "f") == 0o755
