"""Telling the kernel that something changed which it did not do itself."""

import errno
from collections.abc import Callable
from functools import partial

import pyfuse3
import trio

# The kernel may wait for its own requests to us before it answers: never on the loop, and one
# after another so that a stuck one costs one thread.
_LIMITER_TOKENS = 1


class KernelCaches:
    """Makes the kernel ask again. A name or inode that it does not know is no error.

    Both calls wait in a worker thread for requests under way on the same directory or inode, so
    no handler may call them. Cancelling abandons the wait; the kernel is told all the same.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_LIMITER_TOKENS)

    async def inode_changed(self, number: int, *, attributes_only: bool) -> None:
        """Attributes, and pages unless `attributes_only`, of an inode are not what they were."""
        await self._tell(partial(pyfuse3.invalidate_inode, number, attributes_only))

    async def name_changed(self, parent: int, name: bytes) -> None:
        """`name` in `parent` appeared, went away, or means another inode."""
        await self._tell(partial(pyfuse3.invalidate_entry, parent, name))

    async def _tell(self, message: Callable[[], None]) -> None:
        def tell() -> None:
            try:
                message()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTCONN):
                    raise

        await trio.to_thread.run_sync(tell, abandon_on_cancel=True, limiter=self._limiter)
