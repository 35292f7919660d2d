"""How fast data is moved: so many bytes a second at most, and readers go first."""

import trio

from aggfs.engine.works import Works

COURTESY_SECONDS = 0.5  # how long each fragment lets readers go first: moving never starves


class Pace:
    """Gives turns to those who move fragments. On the loop."""

    def __init__(self, readers: Works) -> None:
        """`readers` are the reads under way."""
        self._readers = readers
        self._free_at = 0.0
        self.bytes_per_second = 0  # 0: as fast as it goes

    def another(self) -> "Pace":
        """One with a rate of its own, which lets the same readers go first."""
        made = Pace(self._readers)
        made.bytes_per_second = self.bytes_per_second
        return made

    async def turn(self, size_bytes: int) -> None:
        """Return when so many bytes may be moved."""
        if self.bytes_per_second:
            begin = max(trio.current_time(), self._free_at)
            self._free_at = begin + size_bytes / self.bytes_per_second
            await trio.sleep_until(begin)
        with trio.move_on_after(COURTESY_SECONDS):
            while self._readers:
                await self._readers.settled()
