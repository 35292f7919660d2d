"""The directory a volume is mounted on: may it be, is it, and making it free again.

Nothing here touches the inside of a live mount from the process that serves it: such a call would
wait for itself. What is mounted is read from /proc/self/mountinfo.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from aggfs.errors import Busy, MountRefused

FUSE_TYPE = "fuse.aggfs"
FUSE_DEVICE = "/dev/fuse"
FUSE_CONFIG = "/etc/fuse.conf"
MOUNT_TABLE = "/etc/mtab"
OWN_STATUS = "/proc/self/status"
CAP_SYS_ADMIN = 21
PROBE_SECONDS = 10
STALE_MOUNTS_LIMIT = 16


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo. `device` is "MAJOR:MINOR", as /sys/class/bdi names it."""

    path: str
    device: str
    kind: str
    source: str


def parse_mountinfo(text: str) -> list[Mounted]:
    """All mounts, in the order they were made; later ones lie over earlier ones."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if len(fields) >= 5 and len(tail) >= 2:
            mounts.append(
                Mounted(_unescaped(fields[4]), fields[2], _unescaped(tail[0]), _unescaped(tail[1]))
            )
    return mounts


def _unescaped(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda digits: chr(int(digits[1], 8)), field)


def mounted_at(path: str) -> Mounted | None:
    """The topmost mount on exactly this (absolute, resolved) path."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = [mount for mount in parse_mountinfo(file.read()) if mount.path == path]
    return found[-1] if found else None


def check_fuse(*, allow_other: bool) -> None:
    """Raise `MountRefused` where this machine or user cannot mount anything by FUSE."""
    if not os.path.exists(FUSE_DEVICE):
        raise MountRefused(
            f"{FUSE_DEVICE} is missing: load the kernel module (modprobe fuse), "
            "or give the container the device"
        )
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountRefused(f"{FUSE_DEVICE} may not be opened by this user")
    if shutil.which("fusermount3") is None:
        raise MountRefused("fusermount3 is missing: install the package fuse3")
    if os.geteuid() != 0 and not os.path.exists(MOUNT_TABLE):
        raise MountRefused(
            f"{MOUNT_TABLE} is missing, and fusermount3 would not unmount without it: "
            f"as root, ln -s ../proc/self/mounts {MOUNT_TABLE}"
        )
    if allow_other and not _may_mount_itself() and not _others_may_be_allowed():
        raise MountRefused(f"allow_other needs the line user_allow_other in {FUSE_CONFIG}, or root")


def _may_mount_itself() -> bool:
    """Whether fusermount3, which judges users, is not needed: root, or a service that was given
    the capability."""
    with open(OWN_STATUS, encoding="ascii") as file:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", file.read(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> CAP_SYS_ADMIN & 1)


def _others_may_be_allowed() -> bool:
    try:
        with open(FUSE_CONFIG, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def prepare(path: str) -> str:
    """Make sure that a volume can be mounted on `path`; returns it absolute and resolved.

    A dead mount of ours that still covers it is taken away. Raises `Busy` where a live one does,
    `MountRefused` with one line for everything else that speaks against it.
    """
    resolved = os.path.abspath(path)
    if mounted_at(resolved) is None:  # resolving links asks what is mounted there
        resolved = os.path.realpath(path)
    _clear_stale(resolved)
    if not os.path.isdir(resolved):
        what = "is no directory" if os.path.lexists(resolved) else "does not exist"
        raise MountRefused(f"{path} {what}")
    try:
        entries = os.listdir(resolved)
    except OSError as error:
        raise MountRefused(f"{path} cannot be read: {error.strerror}") from None
    if entries:
        raise MountRefused(f"{path} is not empty: mounting would hide {len(entries)} entries")
    return resolved


def is_dead(path: str) -> bool:
    """Whether a FUSE mount on this path has lost its daemon."""
    return "not connected" in _ask(path)


def _clear_stale(path: str) -> None:
    for _ in range(STALE_MOUNTS_LIMIT):
        mount = mounted_at(path)
        if mount is None or not mount.kind.startswith("fuse"):
            return
        state = _ask(path)
        if "not connected" not in state:
            if mount.kind != FUSE_TYPE:
                return
            raise Busy(f"{path} is mounted already ({mount.source})")
        if mount.kind != FUSE_TYPE:
            raise MountRefused(f"{path} is a dead mount of another program ({mount.kind})")
        unmount_lazily(path)


def _ask(path: str) -> str:
    """What stat(2) says, asked in a child: a mount may be alive and never answer."""
    try:
        done = subprocess.run(
            ["stat", "--", path],
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    return done.stderr


def unmount_lazily(path: str) -> None:
    """Take the mount away at once; programs that have files open in it keep them."""
    done = subprocess.run(
        ["fusermount3", "-u", "-z", "--", path],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PROBE_SECONDS,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()
        raise MountRefused(f"{path} cannot be unmounted: {reason[-1] if reason else 'no reason'}")


def raise_read_ahead(path: str, kib: int) -> bool:
    """Let the kernel read `kib` ahead of sequential readers. False where that is not permitted."""
    mount = mounted_at(path)
    if mount is None:
        return False
    try:
        with open(f"/sys/class/bdi/{mount.device}/read_ahead_kb", "w", encoding="ascii") as file:
            file.write(str(kib))
    except OSError:
        return False
    return True
