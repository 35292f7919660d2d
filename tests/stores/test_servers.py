"""The S3 servers that tests and demonstrations use: several, each its own, and they come back."""

import contextlib

from aggfs.errors import Unreachable
from aggfs.stores.s3 import S3Driver, S3Options
from tests.support.servers import several


def test_servers_stand_beside_each_other_and_a_killed_one_comes_back_with_its_data(tmp_path):
    with several(tmp_path, 2, buckets=["one"]) as servers, contextlib.ExitStack() as stack:
        drivers = []
        for server in servers:
            keys = {"access_key": server.keys.access, "secret_key": server.keys.secret}
            driver = S3Driver(S3Options(bucket="one", endpoint=server.endpoint, **keys))
            drivers.append(stack.enter_context(contextlib.closing(driver)))
        for number, driver in enumerate(drivers):
            driver.put("ab/key", b"%d" % number)
        servers[0].kill()
        assert _is_unreachable(drivers[0])
        assert drivers[1].get("ab/key") == b"1"
        servers[0].start()
        assert drivers[0].get("ab/key") == b"0"


def _is_unreachable(driver):
    try:
        driver.get("ab/key")
    except Unreachable:
        return True
    return False
