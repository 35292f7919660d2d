"""Fixtures of the mount tests.

`place` is on a real volume and, once more, on the memory volume: what fails on both is a fault of
the handlers, what fails on one is not.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import ServedFolder, served

MEMORY = "tests.support.memory_mount"
VOLUME = "tests.support.volume_mount"


@pytest.fixture(scope="module", params=[MEMORY, VOLUME], ids=["memory", "volume"])
def shared_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedFolder]:
    """One mount for a module's tests; none of them may end it."""
    with served(request.param, tmp_path_factory.mktemp("shared")) as folder:
        yield folder
        assert folder.process.poll() is None, folder.log()
    assert folder.unexpected_log() == []


@pytest.fixture
def place(shared_folder: ServedFolder, request: pytest.FixtureRequest) -> Path:
    """An empty directory of this test on the shared mount."""
    directory = Path(shared_folder.path) / request.node.name[:200]
    directory.mkdir()
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ServedFolder]:
    """A memory volume's mount of this test alone, to be asked, stopped and killed."""
    with served(MEMORY, tmp_path) as served_folder:
        yield served_folder
    assert served_folder.unexpected_log() == []
