"""Errors become errno here, and nowhere else.

One ordered table, and one guard around every handler. pyfuse3 takes only `FUSEError`: anything
else that leaves a handler would end the daemon, so the guard answers EIO and reports it. An error
of the table is an answer like any other and is not logged here; who noticed the fault logs it.
The guard counts, too: a wrapper of its own would cost every request one more.
"""

import errno
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pyfuse3
import trio

from aggfs import errors
from aggfs.errors import AggfsError

log = logging.getLogger(__name__)

# The first row that fits an error decides, so a class stands above its base.
TABLE: tuple[tuple[type[Exception], int], ...] = (
    (errors.NoEntry, errno.ENOENT),
    (errors.Exists, errno.EEXIST),
    (errors.NotADirectory, errno.ENOTDIR),
    (errors.IsADirectory, errno.EISDIR),
    (errors.NotEmpty, errno.ENOTEMPTY),
    (errors.InvalidMove, errno.EINVAL),
    (errors.NotPermitted, errno.EPERM),
    (errors.ReadOnly, errno.EPERM),
    (errors.InThePast, errno.EROFS),
    (errors.NameTooLong, errno.ENAMETOOLONG),
    (errors.NoAttribute, errno.ENODATA),
    (errors.TooLarge, errno.EFBIG),
    (errors.NoSpace, errno.ENOSPC),
    (errors.QuotaFull, errno.ENOSPC),
    (errors.LocalDiskFailed, errno.EIO),
    (errors.TooFewFragments, errno.EIO),
    (errors.Damaged, errno.EIO),
    (errors.Forked, errno.EIO),
    (errors.StoreError, errno.EIO),
    (errors.Busy, errno.EBUSY),
    (trio.TooSlowError, errno.EIO),
)
# Where POSIX has a word of its own for an operation; asked before the table.
OF_ONE_OPERATION: dict[tuple[str, type[Exception]], int] = {
    ("link", errors.TooLarge): errno.EMLINK,
    ("setxattr", errors.TooLarge): errno.E2BIG,
}
LOCAL_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

HANDLERS = (
    *("lookup", "getattr", "setattr", "readlink", "access", "statfs"),
    *("mknod", "mkdir", "symlink", "link", "create", "unlink", "rmdir", "rename"),
    *("open", "read", "write", "flush", "fsync", "release"),
    *("opendir", "readdir", "releasedir", "fsyncdir"),
    *("getxattr", "setxattr", "listxattr", "removexattr"),
)

Handler = Callable[..., Awaitable[Any]]
Guarded = TypeVar("Guarded", bound=type)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors that a nursery tied together, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def errno_of(operation: str, error: Exception) -> int | None:
    """The errno that an error of ours stands for; None for one that nobody foresaw."""
    special = OF_ONE_OPERATION.get((operation, type(error)))
    if special is not None:
        return special
    found = tuple(leaves(error))
    for kind, number in TABLE:
        if any(isinstance(leaf, kind) for leaf in found):
            return number
    if any(isinstance(leaf, OSError) and leaf.errno in LOCAL_DISK_FULL for leaf in found):
        return errno.ENOSPC
    return None


class Faults:
    """Tells, once per operation and kind, what nobody foresaw; counts them all."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[tuple[str, type[Exception]]] = set()
        self._answers: dict[tuple[str, type[Exception]], int] = {}

    def answer(self, operation: str, error: Exception) -> pyfuse3.FUSEError:
        """The reply to a request whose handler raised `error`."""
        kind = (operation, type(error))
        number = self._answers.get(kind)
        if number is None:
            number = errno_of(operation, error)
            if number is None:
                self.tell(operation, error)
                number = errno.EIO
            elif isinstance(error, AggfsError):  # of these the class alone decides
                self._answers[kind] = number
        return pyfuse3.FUSEError(number)

    def tell(self, operation: str, error: Exception) -> None:
        """Log an error that nobody foresaw, with its traceback, unless that was done before."""
        self.count += 1
        kind = (operation, type(error))
        if kind not in self._told:
            self._told.add(kind)
            log.error("%s failed unexpectedly; answered EIO", operation, exc_info=error)


def guarded(operations: Guarded) -> Guarded:
    """Class decorator: no handler of this class lets anything but `FUSEError` out.

    Instances must have `faults`, a `Faults`, and `counts` of `HANDLERS`. Cancellation passes: it
    is no `Exception`.
    """
    for name in HANDLERS:
        setattr(operations, name, _guard(name, getattr(operations, name)))
    operations.forget = _guard_forget(operations.forget)  # type: ignore[attr-defined] # any class
    return operations


def _guard(operation: str, handler: Handler) -> Handler:
    clock_ns = time.perf_counter_ns

    async def guard(self: Any, *arguments: Any) -> Any:
        tally = self.counts.tallies[operation]
        tally.begun += 1
        began = clock_ns()
        try:
            return await handler(self, *arguments)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:  # noqa: BLE001 - what pyfuse3 does not know ends the mount
            raise self.faults.answer(operation, error) from None
        finally:
            tally.note(clock_ns() - began)

    return guard


def _guard_forget(handler: Handler) -> Handler:
    async def guard(self: Any, inodes: Any) -> None:
        try:
            await handler(self, inodes)
        except Exception as error:  # noqa: BLE001 - it ends the mount, and there is no reply
            self.faults.tell("forget", error)

    return guard
