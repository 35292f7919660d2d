"""The stage on which behaviours are shown: by `scripts/demo ID` to people, by pytest to itself.

A behaviour is one function that takes a stage and is marked `@shows("AGG-2")`. It makes what it
needs on the stage, tells its evidence, and asserts what must hold.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.commands import Home
from tests.support.places import (
    ACCESS_VARIABLE,
    SECRET_VARIABLE,
    BucketPlace,
    DirectoryPlace,
    Place,
)
from tests.support.servers import OWNER, SeaweedFS
from tests.support.volumes import LiveVolume

BUCKET = "aggfs"
MIB = 1 << 20

Shown = Callable[["Stage"], None]
SHOWN: dict[str, list[Shown]] = {}


def shows(behaviour: str) -> Callable[[Shown], Shown]:
    """Mark a function that shows a behaviour; the first line of its docstring says what is seen."""

    def mark(function: Shown) -> Shown:
        SHOWN.setdefault(behaviour, []).append(function)
        return function

    return mark


class Servers:
    """S3 servers, each a provider: started when the first one wants them, ended with the block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: list[SeaweedFS] = []
        self._stack = contextlib.ExitStack()

    def some(self, count: int) -> list[SeaweedFS]:
        """So many of them, running."""
        while len(self._servers) < count:
            directory = self._directory / f"server{len(self._servers)}"
            server = SeaweedFS(directory, buckets=[BUCKET])
            self._servers.append(self._stack.enter_context(server))
        return self._servers[:count]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


class Stage:
    """A directory of its own, servers, and the volumes that are made there."""

    def __init__(self, path: Path, servers: Servers, tell: Callable[[str], None]) -> None:
        self.path = path
        self.tell = tell
        self._servers = servers
        self._volumes: list[LiveVolume] = []
        self._places = 0

    def directories(self, count: int, **settings: Any) -> list[DirectoryPlace]:
        """New directories to be accounts, each a provider of its own."""
        made = []
        for _ in range(count):
            name = f"dir{self._places}"
            self._places += 1
            made.append(DirectoryPlace(self.path / "accounts" / name, name, **settings))
        return made

    def buckets(self, count: int, **settings: Any) -> list[BucketPlace]:
        """New accounts on S3 servers, each on a server of its own."""
        made = []
        for server in self._servers.some(count):
            name = f"s{self._places}"
            self._places += 1
            prefix = f"{self.path.name}/{name}"
            made.append(BucketPlace(server, BUCKET, prefix, name, **settings))
        return made

    def unmounted(
        self,
        places: list[Place] | None = None,
        *,
        k: int = 2,
        n: int = 3,
        seconds: float = 120,
    ) -> LiveVolume:
        """A volume that is not made yet; over n directories unless told otherwise."""
        number = len(self._volumes)
        path = self.path / f"home{number}"
        path.mkdir()
        home = Home(path, {ACCESS_VARIABLE: OWNER.access, SECRET_VARIABLE: OWNER.secret})
        chosen = self.directories(n) if places is None else places
        made = LiveVolume(home, f"v{number}", chosen, k=k, n=n, seconds=seconds)
        self._volumes.append(made)
        return made

    def volume(
        self,
        places: list[Place] | None = None,
        *options: str,
        k: int = 2,
        n: int = 3,
        mount: tuple[str, ...] = (),
        seconds: float = 120,
    ) -> LiveVolume:
        """A new volume, mounted. `options` go to `aggfs init`."""
        made = self.unmounted(places, k=k, n=n, seconds=seconds)
        made.init(*options)
        made.mount(*mount)
        return made

    def adopt(self, volume: LiveVolume) -> LiveVolume:
        """A volume that was made elsewhere ends with the stage too."""
        self._volumes.append(volume)
        return volume

    def recovered(self, volume: LiveVolume, name: str, places: Sequence[Place] = ()) -> LiveVolume:
        """The same volume on a machine that has only the accounts and the words, mounted."""
        other = self.adopt(volume.recover_as(name, places=places))
        other.mount()
        return other

    def close(self) -> None:
        """Unmount everything; nothing may have been logged that nobody expected, and what is
        left on the disk must be in order."""
        for volume in self._volumes:
            volume.close()
        unexpected = [line for volume in self._volumes for line in volume.unexpected_log()]
        shutil.rmtree(self.path / "accounts", ignore_errors=True)
        assert not unexpected, unexpected
        for volume in self._volumes:
            volume.assert_sound()


@contextlib.contextmanager
def temporary_stage(prefix: str, tell: Callable[[str], None]) -> Iterator[Stage]:
    """A stage in a new directory; everything on it ends with it."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as directory:
        place = Path(directory)
        with Servers(place / "servers") as servers:
            stage = Stage(place, servers, tell)
            try:
                yield stage
            finally:
                stage.close()
