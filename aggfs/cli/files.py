"""What the commands themselves write: the configuration, and the directories of a volume."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from aggfs import config as configuration
from aggfs.cli.places import VolumePlace
from aggfs.config import Config
from aggfs.disk import sync_directory
from aggfs.engine.recovery.identity import write_private
from aggfs.errors import Busy


def write_config(place: VolumePlace, config: Config) -> None:
    """Replace the configuration file as a whole, durably; only its user may read it."""
    place.config_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(place.config_path, configuration.dump(config).encode())


@contextmanager
def new_state_directory(place: VolumePlace) -> Iterator[None]:
    """A fresh state directory, which only its user may look into; gone again if the block fails.

    Raises `Busy` where one is left from before: it may hold what no account has.
    """
    directory = place.state_directory
    if directory.exists() and any(directory.iterdir()):
        raise Busy(
            f"{directory} is the state of a volume that is not configured here:"
            " move it away if nothing in it is needed"
        )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(directory.parent)
    try:
        yield
    except BaseException:
        shutil.rmtree(directory)
        raise
