"""The unit files: what they run exists, and no setting hides the folder or breaks the mount."""

import re
import shlex
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.cli.mounting import mount

TOP = Path(__file__).parent.parent.parent
USER = TOP / "systemd" / "user" / "aggfs@.service"
MACHINE = TOP / "systemd" / "system" / "aggfs@.service"

# Each gives a service a mount namespace of its own: the folder would be there for nobody else.
HIDING = re.compile(
    r"^(Protect(?!Clock|Hostname)\w+|Private\w+|Read(Only|Write)\w+|(In|NoExec|Exec)\w*Paths"
    r"|Bind\w*Paths|TemporaryFileSystem|Root\w+|Mount(Flags|Images|APIVFS)|DynamicUser|Proc\w+)$"
)
# fusermount3 is setuid, and each of these takes that away from what the service starts.
BREAKING = re.compile(
    r"^(NoNewPrivileges|SystemCall\w+|Restrict\w+|LockPersonality|MemoryDeny\w+|Protect\w+)$"
)


def settings(path: Path) -> list[tuple[str, str]]:
    lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    return [
        (name, value)
        for name, mark, value in (line.partition("=") for line in lines)
        if mark and not name.startswith(("#", ";"))
    ]


def values(path: Path, name: str) -> list[str]:
    return [value for found, value in settings(path) if found == name]


@pytest.mark.parametrize("unit", [USER, MACHINE])
def test_no_setting_hides_the_folder(unit: Path):
    assert [name for name, _ in settings(unit) if HIDING.match(name)] == []


def test_a_user_may_still_mount():
    assert [name for name, _ in settings(USER) if BREAKING.match(name)] == []


def test_the_machines_service_may_mount_and_nothing_else():
    assert values(MACHINE, "AmbientCapabilities") == ["CAP_SYS_ADMIN"]
    assert values(MACHINE, "CapabilityBoundingSet") == ["CAP_SYS_ADMIN"]
    assert values(MACHINE, "NoNewPrivileges") == ["yes"]
    assert values(MACHINE, "SystemCallFilter") == ["@system-service @mount"]
    assert values(MACHINE, "DeviceAllow") == ["/dev/fuse rw"]


@pytest.mark.parametrize("unit", [USER, MACHINE])
def test_it_is_ready_when_it_says_so_and_watched(unit: Path):
    assert values(unit, "Type") == ["notify"]
    assert int(values(unit, "WatchdogSec")[0]) >= 30
    assert values(unit, "Restart") == ["on-failure"]


@pytest.mark.parametrize("unit", [USER, MACHINE])
def test_what_cannot_mend_itself_is_not_tried_again(unit: Path):
    wanted = {exits.USAGE, exits.BAD_CONFIG, exits.WRONG_KEY, exits.NO_ENTRY}
    assert {int(code) for code in values(unit, "RestartPreventExitStatus")[0].split()} == wanted


@pytest.mark.parametrize("unit", [USER, MACHINE])
def test_what_it_runs_is_a_command_of_ours(unit: Path):
    words = shlex.split(values(unit, "ExecStart")[0].replace("%i", "photos"))
    given = words[words.index("aggfs") + 1 :]
    assert given[0] == "mount"
    parsed = mount.make_context("mount", given[1:]).params
    assert parsed["foreground"]
    assert parsed["linger_seconds"] == 60
    assert parsed["volume"] == "photos"
