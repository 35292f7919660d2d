"""What the kernel asked of us, counted: for `aggfs top`, and cheap enough to be always on.

Two looks at the clock and a few additions a request, no lock, no memory: about half a microsecond,
where a request costs thirty. Latencies go into a histogram with a fixed number of buckets, four to
each doubling, so that a percentile is right to within a quarter of itself, however many requests
there were. A latency is the handler's own time: what a request waited in the kernel's queue is not
in it.
"""

from collections.abc import Iterable

LEAST_NS = 1 << 10
BUCKETS = 4 * 64


class Tally:
    """The requests of one kind."""

    __slots__ = ("answered", "begun", "buckets", "total_ns")

    def __init__(self) -> None:
        self.begun = 0
        self.answered = 0
        self.total_ns = 0
        self.buckets = [0] * BUCKETS

    def note(self, ns: int) -> None:
        """A request that was begun has ended, after so many nanoseconds, well or badly."""
        self.answered += 1
        self.total_ns += ns
        if ns < LEAST_NS:
            ns = LEAST_NS
        bits = ns.bit_length()
        self.buckets[bits * 4 | ns >> bits - 3 & 3] += 1


class Counts:
    """The requests of all kinds, and the bytes that were read and written through the mount."""

    __slots__ = ("read_bytes", "tallies", "written_bytes")

    def __init__(self, operations: Iterable[str]) -> None:
        self.tallies = {operation: Tally() for operation in operations}
        self.read_bytes = 0
        self.written_bytes = 0

    def figures(self) -> dict[str, object]:
        """All of it for programs; kinds that were never asked for are left out."""
        return {
            "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
            "operations": {
                operation: {
                    "begun": tally.begun,
                    "answered": tally.answered,
                    "seconds": tally.total_ns / 1e9,
                    "histogram": [
                        [ceiling_ns(bucket) / 1e9, count]
                        for bucket, count in enumerate(tally.buckets)
                        if count
                    ],
                }
                for operation, tally in self.tallies.items()
                if tally.begun
            },
        }


def ceiling_ns(bucket: int) -> int:
    """What all latencies in a bucket are below."""
    bits, quarter = divmod(bucket, 4)
    return (5 + quarter) << bits - 3
