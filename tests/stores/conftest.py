"""The S3 servers of this room's tests: started once, when the first test wants one."""

import pytest

from tests.support.servers import Moto, SeaweedFS

BUCKETS = ("one", "two")


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory):
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), buckets=BUCKETS) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory):
    with Moto(tmp_path_factory.mktemp("moto"), buckets=BUCKETS) as server:
        yield server
