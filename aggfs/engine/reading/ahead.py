"""Which blocks a sequential reader will want next. Pure: told the reads of one file.

A reader counts as sequential once it has read some blocks without a jump; small steps back and
forth are none, because the kernel asks for several pieces at once. From then on whole stripes
are wanted ahead of it: one, then two, then four, so that a short read costs little and a long
one finds its bytes here even where accounts answer slowly.
"""

from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS

SLACK_BYTES = 4 * 1024 * 1024
SEQUENTIAL_BYTES = 2 * BLOCK_BYTES
WINDOW_LIMIT = 4


class ReadAhead:
    """The reads of one file, as far as they follow each other."""

    __slots__ = ("_position", "_reached", "_read_bytes", "_window")

    def __init__(self) -> None:
        self._position = 0
        self._read_bytes = 0
        self._reached = 0
        self._window = 1

    @property
    def reads_on(self) -> bool:
        """Whether the last reads followed each other."""
        return self._read_bytes >= SEQUENTIAL_BYTES

    def wanted(self, start: int, end: int) -> tuple[int, int] | None:
        """[start, end) is read now: the blocks (first, stop) that should be on their way, or
        None while nothing is to be done. They begin with those of the read itself."""
        if abs(start - self._position) > SLACK_BYTES:
            self._read_bytes = self._reached = 0
            self._window = 1
            self._position = start
        self._read_bytes += max(0, end - max(start, self._position))  # what is skipped is not read
        self._position = max(self._position, end)
        if not self.reads_on:
            return None
        first = max(self._reached, start // BLOCK_BYTES)
        stop = -(-self._position // BLOCK_BYTES) + self._window * STRIPE_BLOCKS
        if stop - first < min(self._window, 2) * STRIPE_BLOCKS // 2:
            return None
        return first, stop

    def reached(self, stop: int) -> None:
        """Everything up to block `stop` is here or on its way."""
        if stop > self._reached:
            self._reached = stop
            self._window = min(2 * self._window, WINDOW_LIMIT)
