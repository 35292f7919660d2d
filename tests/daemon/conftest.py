"""Fixtures of the mount tests: folders that a memory volume serves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import ServedFolder, served


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedFolder]:
    """One mount for a module's tests; none of them may end it."""
    with served("tests.support.memory_mount", tmp_path_factory.mktemp("shared")) as folder:
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
    """A mount of this test alone, to be asked, stopped and killed."""
    with served("tests.support.memory_mount", tmp_path) as served_folder:
        yield served_folder
    assert served_folder.unexpected_log() == []
