"""Background jobs that never stop silently: each is started again, and `status` tells of it.

A job whose error is not ours is a fault of this program: it is logged with its trace, and the
job goes on after a pause, because a mount that serves most of what it should beats none. After
the local disk has failed nothing may be changed any more: then a job stays down.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from aggfs.errors import AggfsError, LocalDiskFailed

FIRST_PAUSE_SECONDS = 1.0
PAUSE_LIMIT_SECONDS = 60.0
logger = logging.getLogger(__name__)

Job = Callable[[], Awaitable[None]]


class Jobs:
    """What runs in the background of a volume. `troubles` has what ended a job last, by name."""

    def __init__(self, *, on_disk_failure: Callable[[str], None]) -> None:
        """`on_disk_failure` is told when a job found that the local disk has failed."""
        self._on_disk_failure = on_disk_failure
        self.troubles: dict[str, str] = {}

    async def keep(self, name: str, job: Job) -> None:
        """Run a job for ever. Returns only when the local disk has failed."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = trio.current_time()
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - no fault of one job may end the mount
                self._note(name, error)
                if is_final(error):
                    self._on_disk_failure(str(of_ours(error) or error))
                    return
            if trio.current_time() - began > PAUSE_LIMIT_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            await trio.sleep(pause)
            pause = min(2 * pause, PAUSE_LIMIT_SECONDS)

    def _note(self, name: str, error: Exception) -> None:
        known = of_ours(error)
        if known is not None:
            self.troubles[name] = f"{name}: {known}"
            logger.error("%s stopped: %s", name, known)
        else:
            self.troubles[name] = f"{name}: unexpected {type(error).__name__}: {error}"
            logger.error("%s stopped unexpectedly", name, exc_info=error)


def of_ours(error: BaseException) -> AggfsError | None:
    """The error, or the first in a group of nothing else."""
    if isinstance(error, AggfsError):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [of_ours(one) for one in error.exceptions]
        return found[0] if all(found) else None
    return None


def is_final(error: BaseException) -> bool:
    """Whether an error, or one of a group, says that the local disk has failed."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_final(one) for one in error.exceptions)
    return isinstance(error, LocalDiskFailed)
