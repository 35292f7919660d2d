"""What the kernel asks is counted: pure, and on a real mount."""

import errno
import os

import pyfuse3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs import errors
from aggfs.mount.counting import LEAST_NS, Counts, Tally, ceiling_ns
from aggfs.mount.errors import HANDLERS, Faults, guarded
from aggfs.mount.operations import VolumeOperations
from tests.support.mounting import needs_fuse, served


@given(st.integers(0, 2**62))
def test_a_bucket_tells_a_latency_to_within_a_quarter(ns):
    tally = Tally()
    tally.note(ns)
    (bucket,) = (bucket for bucket, count in enumerate(tally.buckets) if count)
    assert ns < ceiling_ns(bucket) <= max(ns, LEAST_NS) * 5 / 4 + 1


def test_of_a_kind_that_nobody_asked_for_nothing_is_told():
    counts = Counts(["read", "write"])
    counts.tallies["read"].begun += 1
    assert counts.figures()["operations"] == {
        "read": {"begun": 1, "answered": 0, "seconds": 0.0, "histogram": []}
    }


@pytest.mark.parametrize("outcome", [None, errors.NoEntry("x"), pyfuse3.FUSEError(errno.EIO)])
async def test_a_request_counts_as_answered_however_it_ends(outcome):
    @guarded
    class Handlers(VolumeOperations):
        def __init__(self):
            self.faults = Faults()
            self.counts = Counts(HANDLERS)

        async def lookup(self, *arguments):
            tally = self.counts.tallies["lookup"]
            assert (tally.begun, tally.answered) == (1, 0)
            if outcome is not None:
                raise outcome

    handlers = Handlers()
    if outcome is None:
        await handlers.lookup(1, b"x")
    else:
        with pytest.raises(pyfuse3.FUSEError):
            await handlers.lookup(1, b"x")
    tally = handlers.counts.tallies["lookup"]
    assert (tally.begun, tally.answered, sum(tally.buckets)) == (1, 1, 1)


@needs_fuse
def test_a_daemon_tells_how_often_and_how_much_it_was_asked(tmp_path):
    with served("tests.support.memory_mount", tmp_path) as folder:
        path = os.path.join(folder.path, "file")
        with open(path, "wb") as file:
            file.write(bytes(300_000))
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.read(descriptor, 300_000)
        os.close(descriptor)
        counters = folder.ask("counters")
    assert counters["written_bytes"] == 300_000
    assert counters["read_bytes"] == 300_000
    assert counters["operations"]["create"]["answered"] == 1
    read = counters["operations"]["read"]
    assert read["begun"] == read["answered"] == sum(count for _, count in read["histogram"])
    assert 0 < read["seconds"] <= sum(ceiling * count for ceiling, count in read["histogram"])
    assert counters["clock_seconds"] > counters["mounted_seconds"]
