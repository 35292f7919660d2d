"""How many stripes are sent side by side. Pure: told how long each took.

An account that is far away and quick waits more than it carries: with more puts under way its line
is full. On a slow line all of them share what it carries, each takes longer, and with too
many none is done before somebody loses patience. One that is near needs few.
"""

FIRST_LANES = 3
LANES_LIMIT = 6
NEAR_SECONDS = 0.1
QUICK_SECONDS = 2.0
SLOW_SECONDS = 20.0


class Lanes:
    """The number of stripes under way, between one and `LANES_LIMIT`."""

    def __init__(self) -> None:
        self.count = FIRST_LANES

    def took(self, seconds: float) -> None:
        """A stripe was sent, well or not."""
        if seconds >= SLOW_SECONDS:
            self.count = max(1, self.count // 2)
        elif seconds < NEAR_SECONDS:
            self.count += (self.count < FIRST_LANES) - (self.count > FIRST_LANES)
        elif seconds < QUICK_SECONDS:
            self.count = min(LANES_LIMIT, self.count + 1)
