"""Exit codes: the one table from our errors to what a script sees. See docs/commands.md."""

from aggfs import errors
from aggfs.cli.client import NotRunning

DONE = 0
FAILED = 1
USAGE = 2
BAD_CONFIG = 3
WRONG_KEY = 4
BUSY = 5
UNREACHABLE = 6
REFUSED = 7
NOT_RUNNING = 8
NO_SPACE = 9
MOUNT_REFUSED = 10
DAMAGED = 11
NO_ENTRY = 12
FOUND = 13  # an audit found what must not be
INTERRUPTED = 130

# The first class that fits decides: subclasses stand before their bases.
_CODES: tuple[tuple[type[errors.AggfsError], int], ...] = (
    (errors.BadConfig, BAD_CONFIG),
    (errors.WrongKey, WRONG_KEY),
    (errors.Busy, BUSY),
    (errors.QuotaFull, NO_SPACE),
    (errors.NoSpace, NO_SPACE),
    (errors.Unreachable, UNREACHABLE),
    (errors.StoreError, REFUSED),
    (NotRunning, NOT_RUNNING),
    (errors.MountRefused, MOUNT_REFUSED),
    (errors.Damaged, DAMAGED),
    (errors.TooFewFragments, DAMAGED),
    (errors.NoEntry, NO_ENTRY),
)


def exit_code_of(error: errors.AggfsError) -> int:
    """What the process returns for an error of ours."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), FAILED)
