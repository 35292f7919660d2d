"""A mounted volume for the programs of a module, and a directory there for each test.

What a test has made is looked at twice: as it is, and after `cold()`, when nothing of it is on this
machine any more but names.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.stage import Servers, Stage
from tests.support.volumes import LiveVolume


@pytest.fixture(scope="module")
def mount_options() -> tuple[str, ...]:
    """How the module wants its volume mounted."""
    return ()


@pytest.fixture(scope="module")
def volume(
    tmp_path_factory: pytest.TempPathFactory, mount_options: tuple[str, ...]
) -> Iterator[LiveVolume]:
    path = tmp_path_factory.mktemp("apps")
    with Servers(path) as servers:
        stage = Stage(path, servers, print)
        try:
            yield stage.volume(mount=mount_options)
        finally:
            stage.close()


@pytest.fixture
def place(volume: LiveVolume, request: pytest.FixtureRequest) -> Path:
    """An empty directory of this test on the mount."""
    directory = volume.folder / request.node.name[:200]
    directory.mkdir()
    return directory


@pytest.fixture
def cold(volume: LiveVolume, mount_options: tuple[str, ...]) -> Callable[[], None]:
    """Unmount, mount again, drop every local copy: what is read then comes from the accounts."""

    def remount() -> None:
        volume.umount()
        volume.mount(*mount_options)
        assert volume.ask("evict")["kept_bytes"] == 0

    return remount
