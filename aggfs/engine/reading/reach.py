"""How far ahead the lines carry. Pure: told what was asked for, and what came.

What is read ahead shares the line with what a reader waits for. On a line that carries a block in
a second a stripe takes a quarter of a minute, and four side by side a minute, the first as long
as the last: longer than a reader may wait. So no more is asked for ahead than comes in a few
seconds.
"""

AHEAD_SECONDS = 4.0
FIRST_BLOCKS = 4  # while nothing is known
WEIGHT = 0.3

Mark = tuple[float, int]


class Reach:
    """What the accounts carry together, in blocks."""

    def __init__(self) -> None:
        self._block_seconds: float | None = None
        self._brought = 0

    def began(self, now: float) -> Mark:
        """Blocks were asked for."""
        return now, self._brought

    def came(self, mark: Mark, now: float, blocks: int) -> None:
        """So many came. Others that came meanwhile shared the line."""
        began, brought = mark
        self._brought += blocks
        seconds = (now - began) / (self._brought - brought)
        if self._block_seconds is None:
            self._block_seconds = seconds
        self._block_seconds += WEIGHT * (seconds - self._block_seconds)

    @property
    def blocks(self) -> int:
        """How many may be on their way ahead of readers; at least one."""
        if self._block_seconds is None:
            return FIRST_BLOCKS
        return max(1, int(AHEAD_SECONDS / max(self._block_seconds, 1e-6)))
