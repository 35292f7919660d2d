"""Writing the configuration so that it is there whole, or as it was before."""

import os
import tempfile
from pathlib import Path

from aggfs import config as configuration
from aggfs.cli.places import VolumePlace
from aggfs.config import Config


def write_config(place: VolumePlace, config: Config) -> None:
    """Replace the configuration file, durably; only its user may read it."""
    directory = place.config_path.parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(configuration.dump(config))
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(place.config_path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_directory(directory)


def make_state_directory(place: VolumePlace) -> None:
    """Only its user may look into it: it holds the device's secret."""
    place.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _sync_directory(place.state_directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
