"""A stage for each test; the S3 servers are shared: who breaks one mends it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.stage import Servers, Stage


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture
def stage(tmp_path: Path, servers: Servers, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """An empty stage; what is told shows with -s, or when the test fails."""
    stage = Stage(tmp_path, servers, print)
    yield stage
    stage.close()
