"""What all handlers share: the volume, the replies, the counts."""

import stat

import pyfuse3

from aggfs.errors import NameTooLong
from aggfs.model import NAME_BYTES, InodeRow
from aggfs.mount.counting import Counts
from aggfs.mount.errors import HANDLERS, Faults
from aggfs.mount.handles import KnownInodes
from aggfs.mount.options import MountOptions
from aggfs.mount.reply import Replies
from aggfs.mount.served import ServedVolume


class Handlers(pyfuse3.Operations):
    """The ground of the handler classes."""

    supports_dot_lookup = True
    enable_acl = False

    def __init__(
        self,
        volume: ServedVolume,
        options: MountOptions,
    ) -> None:
        super().__init__()
        self.enable_writeback_cache = options.writeback_cache
        self.volume = volume
        self.namespace = volume.namespace
        self.files = volume.files
        self.options = options
        self.replies = Replies(volume.files, options)
        self.known = KnownInodes(volume.namespace.drop_unlinked)
        self.faults = Faults()
        self.counts = Counts(HANDLERS)

    def entry_of(self, row: InodeRow) -> pyfuse3.EntryAttributes:
        """The reply that names an inode to the kernel: one lookup more."""
        entry = self.replies.attributes(row)
        self.known.looked_up(row.number)
        return entry

    def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        context: pyfuse3.RequestContext,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> InodeRow:
        """A new inode in `parent`, of the caller, or of the group of a setgid directory."""
        check_name(name)
        group = context.gid
        above = self.namespace.by_number(parent)
        if above.mode & stat.S_ISGID:
            group = above.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return self.namespace.create(
            parent, name, mode, context.uid, group, rdev=rdev, target=target
        )


def check_name(name: bytes) -> None:
    """Raise `NameTooLong`: the kernel would let 1024 bytes pass."""
    if len(name) > NAME_BYTES:
        raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
