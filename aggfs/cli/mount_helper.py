"""`mount.aggfs`: what mount(8) and systemd run for a line of /etc/fstab.

    aggfs#photos  /srv/photos  aggfs  nofail,_netdev,x-systemd.automount  0  0

It decides who mounts, becomes `aggfs mount`, and nothing else: argparse and the standard library
only. No process may leave the caller's session before the folder is there, see
`aggfs.daemon.background`.

Who mounts: with `setuid=USER` that user, whose volume it is; else, for a volume of the machine
(`/etc/aggfs/NAME`), the owner of its configuration; else the caller. Root hands over no more of
its power than the right to mount.
"""

import argparse
import os
import pwd
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SYSTEM_CONFIG_HOME = "/etc"
SYSTEM_STATE_HOME = "/var/lib"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USAGE = 1  # as mount(8) says it
LEFT = (
    *("setpriv", "--init-groups", "--no-new-privs"),
    *("--bounding-set=-all,+sys_admin", "--inh-caps=-all,+sys_admin"),
    "--ambient-caps=-all,+sys_admin",
)

# What belongs to mount(8), to systemd, or to every FUSE mount anyhow.
IGNORED = {
    *("defaults", "rw", "auto", "noauto", "nofail", "_netdev", "comment"),
    *("user", "nouser", "users", "owner", "group"),
    *("exec", "noexec", "suid", "nosuid", "dev", "nodev", "silent", "loud"),
    *("atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime"),
}
REFUSED = {"ro": "aggfs mounts no volume read-only yet", "remount": "unmount it, and mount it anew"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a line of fstab asks for. `options` are those of `aggfs mount -o`."""

    volume: str
    directory: str
    options: tuple[str, ...]
    user: str | None
    linger: str | None


@dataclass(frozen=True, slots=True)
class User:
    """Who mounts; with `system` a volume of the machine, not one in that user's home."""

    name: str
    uid: int
    gid: int
    home: str
    system: bool


class Misused(Exception):
    """The command line, or the line of fstab, is wrong. Its text is one line."""


def wish_of(source: str, directory: str, option_texts: Sequence[str]) -> Wish:
    """What is asked for; raises `Misused`."""
    prefix, mark, volume = source.replace(":", "#", 1).partition("#")
    if prefix != "aggfs" or not mark or not volume or "/" in volume:
        raise Misused(f"the source is aggfs#NAME, not {source!r}")
    given = [option for text in option_texts for option in text.split(",") if option]
    kept, own = [], {"setuid": "", "linger": ""}
    for option in given:
        name, _, value = option.partition("=")
        if name in REFUSED:
            raise Misused(f"{name}: {REFUSED[name]}")
        if name in own:
            own[name] = value
        elif name not in IGNORED and not name.startswith(("x-", "X-")):
            kept.append(option)
    return Wish(volume, directory, tuple(kept), own["setuid"] or None, own["linger"] or None)


def user_for(wish: Wish) -> User | None:
    """Who mounts; None: whoever asks. Raises `Misused` for a user that nobody may become."""
    if wish.user is not None:
        try:
            found = pwd.getpwnam(wish.user)
        except KeyError:
            raise Misused(f"setuid: there is no user {wish.user!r}") from None
        if os.geteuid() not in (0, found.pw_uid):
            raise Misused(f"setuid: only root may mount as {wish.user}")
        return _as_user(found, system=False)
    try:
        owner = Path(SYSTEM_CONFIG_HOME, "aggfs", wish.volume, "config.toml").stat().st_uid
        return _as_user(pwd.getpwuid(owner), system=True) if os.geteuid() == 0 else None
    except (OSError, KeyError):
        return None


def _as_user(found: pwd.struct_passwd, *, system: bool) -> User:
    return User(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir, system)


def command_of(wish: Wish, user: User | None, *, program: str, caller: int) -> list[str]:
    """What is to be run."""
    command = [program, "mount"]
    if wish.options:
        command += ["-o", ",".join(wish.options)]
    if wish.linger is not None:
        command += ["--linger", wish.linger]
    command += ["--", wish.volume, wish.directory]
    if user is None or user.uid == caller:
        return command
    return [*LEFT, f"--reuid={user.uid}", f"--regid={user.gid}", "--", *command]


def environment_of(user: User | None) -> dict[str, str]:
    """What it is run with: nothing of root's goes over to a user."""
    if user is None:
        return {"PATH": SEARCH_PATH, **os.environ}
    environment = {"PATH": SEARCH_PATH, "HOME": user.home, "USER": user.name, "LOGNAME": user.name}
    if user.system:
        environment["XDG_CONFIG_HOME"] = SYSTEM_CONFIG_HOME
        environment["XDG_STATE_HOME"] = SYSTEM_STATE_HOME
    return environment


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"mount.aggfs: {message}\n")


def main() -> None:
    """The console script: mount.aggfs SOURCE DIRECTORY [-sfnv] [-N NAMESPACE] [-o OPTIONS]."""
    parser = _Parser(prog="mount.aggfs", description="Mount a volume of aggfs for mount(8).")
    parser.add_argument("source", metavar="aggfs#NAME")
    parser.add_argument("directory")
    parser.add_argument("-o", dest="options", action="append", default=[], metavar="OPTION,...")
    parser.add_argument("-f", dest="fake", action="store_true", help="change nothing")
    for flag in ("-s", "-n", "-v"):
        parser.add_argument(flag, dest="ignored", action="store_true", help=argparse.SUPPRESS)
    for option in ("-N", "-t"):
        parser.add_argument(option, dest="ignored", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        wish = wish_of(given.source, given.directory, given.options)
        user = user_for(wish)
    except Misused as error:
        parser.error(str(error))
    if given.fake:
        return
    program = str(Path(sys.executable).parent / "aggfs")
    command = command_of(wish, user, program=program, caller=os.geteuid())
    os.execvpe(command[0], command, environment_of(user))  # noqa: S606 - a list, no shell
