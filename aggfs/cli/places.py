"""Where volumes are on this machine, and which one a user means.

A volume's configuration is `aggfs/NAME/config.toml` in the user's configuration directory, its
state is `aggfs/NAME` in the user's state directory (XDG). No more than the standard library is
imported until a directory is asked for: every command begins here.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import click
import platformdirs

from aggfs.cli.client import NotRunning
from aggfs.daemon.mountpoint import mounted_at
from aggfs.daemon.rendezvous import socket_path
from aggfs.errors import NoEntry

CONFIG_NAME = "config.toml"
SOURCE_PREFIX = "aggfs:"


@dataclass(frozen=True, slots=True)
class VolumePlace:
    """The files of one volume on this machine."""

    name: str
    config_path: Path
    state_directory: Path

    @property
    def exists(self) -> bool:
        """Whether a volume of this name was made or joined here."""
        return self.config_path.is_file()

    @property
    def socket_path(self) -> str:
        """Where its daemon listens, if one runs."""
        return socket_path(str(self.state_directory))

    @property
    def mountpoint_path(self) -> Path:
        """Where its daemon notes which folder it serves; gone when it ends by itself."""
        return self.state_directory / "mountpoint"

    @property
    def mountpoint(self) -> str | None:
        """The folder it is mounted on now, dead or alive. Names of volumes may repeat among the
        users of a machine, so the note counts, and the kernel's word that it is one of ours."""
        try:
            noted = os.fsdecode(self.mountpoint_path.read_bytes())
        except FileNotFoundError:
            return None
        mounted = mounted_at(noted)
        ours = mounted is not None and mounted.source == SOURCE_PREFIX + self.name
        return noted if ours else None

    @property
    def log_path(self) -> Path:
        """What its daemon in the background prints and logs."""
        return self.state_directory / "daemon.log"


@dataclass(frozen=True, slots=True)
class Target:
    """A path inside a volume: absolute from the volume's root."""

    place: VolumePlace
    path: str


def place_of(name: str) -> VolumePlace:
    """The files that a volume of this name has, or would have."""
    config = Path(platformdirs.user_config_dir("aggfs")) / name / CONFIG_NAME
    return VolumePlace(name, config, Path(platformdirs.user_state_dir("aggfs")) / name)


def accounts_directory(name: str) -> Path:
    """Where `aggfs up` puts the directories that stand in for accounts."""
    return Path(platformdirs.user_data_dir("aggfs")) / name / "accounts"


def all_places() -> list[VolumePlace]:
    """Every volume of this user on this machine, by name."""
    root = Path(platformdirs.user_config_dir("aggfs"))
    names = sorted(entry.name for entry in root.iterdir()) if root.is_dir() else []
    return [place for place in map(place_of, names) if place.exists]


def place_meant(volume: str | None) -> VolumePlace:
    """The volume that a command means: by name, by a path inside its folder, or the only one.

    Raises `NoEntry` where there is none, `UsageError` where there are several.
    """
    if volume is None:
        return _only_place()
    named = place_of(volume) if _is_name(volume) else None
    if named is not None and named.exists:
        return named
    found = _place_around(os.path.abspath(volume))
    if found is not None:
        return found[0]
    raise NoEntry(f"there is no volume {volume!r} here, and no mounted folder of that name")


def target_meant(text: str) -> Target:
    """What PATH means: a path in a mounted folder, or VOLUME:/path. Raises `NotRunning`."""
    name, colon, inside = text.partition(":")
    if colon and inside.startswith("/") and _is_name(name) and place_of(name).exists:
        return Target(place_of(name), os.path.normpath(inside))
    # The last component may be a symbolic link of the volume: it is meant, not what it points at.
    directory, last = os.path.split(os.path.abspath(text))
    resolved = os.path.join(os.path.realpath(directory), last)
    for path in (resolved, os.path.realpath(text)):
        found = _place_around(path)
        if found is not None:
            place, folder = found
            return Target(place, os.path.normpath(f"/{os.path.relpath(path, folder)}"))
    raise NotRunning(f"{text} is in no mounted folder of aggfs (and no VOLUME:/path)")


def _is_name(text: str) -> bool:
    """Whether it can be the directory of a volume; `aggfs.config` judges names when one is made,
    and takes longer to import."""
    return bool(text) and "/" not in text and not text.startswith(".")


def _only_place() -> VolumePlace:
    places = all_places()
    if not places:
        raise NoEntry("there is no volume here yet: `aggfs init` or `aggfs up DIRECTORY` makes one")
    if len(places) > 1:
        names = ", ".join(place.name for place in places)
        raise click.UsageError(f"which volume? There are several: {names}")
    return places[0]


def _place_around(path: str) -> tuple[VolumePlace, str] | None:
    """The volume whose folder a path lies in, and that folder; the innermost one."""
    around = [
        (place, folder)
        for place in all_places()
        if (folder := place.mountpoint) is not None
        and (path == folder or path.startswith(folder.rstrip("/") + "/"))
    ]
    return max(around, key=lambda found: len(found[1]), default=None)
