"""Who is making stripes to which nothing refers yet.

A stripe has a row before anything names it: a large file's first stripes may long be in all their
accounts when its last one is sealed and its version appears. Whoever makes stripes does so as a
*work*, from before the first one is drawn until what names them is put (or it was given up).
Collection waits for the works of the moment at which it looked: what nothing names then is named
by nobody, for later works draw ids of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Works:
    """The works under way. On the loop."""

    def __init__(self) -> None:
        self._ends: dict[trio.Event, None] = {}  # the oldest first, so that a run can be repeated

    @contextmanager
    def work(self) -> Iterator[None]:
        """One more, until the block is left."""
        end = trio.Event()
        self._ends[end] = None
        try:
            yield
        finally:
            del self._ends[end]
            end.set()

    def __bool__(self) -> bool:
        """Whether any is under way."""
        return bool(self._ends)

    async def settled(self) -> None:
        """Return when the works of now have ended. The caller sets the deadline."""
        for end in list(self._ends):
            await end.wait()
