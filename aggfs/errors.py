"""The error tree: a class tells its catcher what to do.

Errno exists only in `aggfs.mount.errors`; exit codes exist only in `aggfs.cli`.
"""


class AggfsError(Exception):
    """Every error of ours. Its text is one line that a user can act on."""


class Damaged(AggfsError):
    """Bytes came back, and they are not what was stored. Try another source."""


class UnknownVersion(Damaged):
    """A record of a format version that this program does not know. A newer aggfs may."""


class WrongKey(AggfsError):
    """This secret opens no slot. Nothing was changed."""


class BadConfig(AggfsError):
    """A setting is wrong; the text names its place and what would be right."""


class Busy(AggfsError):
    """Something that must be alone is already running: another daemon, another drain."""


class Forked(AggfsError):
    """Another copy of this device's state has published: this one must stop for good."""


class MountRefused(AggfsError):
    """The folder cannot be mounted; the text says why and what to do."""


# --- accounts -------------------------------------------------------------------------------


class StoreError(AggfsError):
    """An account did not do what was asked."""


class Unreachable(StoreError):
    """No answer, or a passing fault. Trying again may help.

    `retry_after_seconds` is what the provider asked for, if it did.
    """

    def __init__(self, text: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds


class Paused(Unreachable):
    """The account did not answer lately and was not asked now. `wake` it where it is needed."""


class Refused(StoreError):
    """The account said no. Trying again will not help until somebody changes something."""


class QuotaFull(Refused):
    """The account has no room. Place the fragment elsewhere."""


class NotFound(StoreError):
    """No such object. By itself no proof of damage (invariant 7)."""


class AlreadyThere(StoreError):
    """`create` found an object under that key."""


class TooFewFragments(AggfsError):
    """Fewer than k good fragments of a stripe could be had."""

    def __init__(self, text: str, failures: tuple[Exception, ...] = ()) -> None:
        super().__init__(text)
        self.failures = failures


class NoSpace(AggfsError):
    """The accounts, this device's share or the local disk have no room for these bytes."""


class LocalDiskFailed(AggfsError):
    """The local disk refused an fsync: nothing more is acknowledged, the volume is read-only."""


# --- the namespace ----------------------------------------------------------------------------


class NamespaceError(AggfsError):
    """An operation on the tree that POSIX refuses."""


class NoEntry(NamespaceError):
    """No such name or inode."""


class Exists(NamespaceError):
    """The name is taken."""


class NotADirectory(NamespaceError):
    """A directory was needed."""


class IsADirectory(NamespaceError):
    """Anything but a directory was needed."""


class NotEmpty(NamespaceError):
    """The directory still has entries."""


class InvalidMove(NamespaceError):
    """A directory cannot become its own descendant."""


class NotPermitted(NamespaceError):
    """The operation is not allowed on this inode, whoever asks."""


class ReadOnly(NamespaceError):
    """This name or attribute cannot be changed."""


class InThePast(NamespaceError):
    """What was cannot be changed: this is a view of an earlier time."""


class NameTooLong(NamespaceError):
    """A name is longer than 255 bytes."""


class NoAttribute(NamespaceError):
    """No such extended attribute."""


class TooLarge(NamespaceError):
    """Beyond a documented limit: file size, links, attribute size."""
