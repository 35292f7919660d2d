"""What is known of an inode beside its names: attributes, local changes, extended attributes.

Table `orphans`: inode 16 -> UNPUBLISHED or PUBLISHED: inodes that have no name left and may still
be open. They are dropped at the next start if nobody drops them before. Of one that was never
published nobody will hear any more: what is done to it stays here.
"""

from collections.abc import Callable
from stat import S_IMODE

from msgspec.structs import replace

from aggfs.cache.table import Table
from aggfs.cache.tree import LmdbTree
from aggfs.engine.names.paths import Paths, check_length
from aggfs.engine.names.pending import Pending
from aggfs.errors import TooLarge
from aggfs.model import (
    NANOSECONDS_LIMIT,
    NEVER,
    Content,
    InodeRow,
    SetAttributes,
    SetXattr,
    XattrRow,
)

TABLES = ("orphans",)
UNPUBLISHED, PUBLISHED = b"\x01", b"\x00"
XATTR_VALUE_BYTES = 65536
XATTR_LIST_BYTES = 65536


class Attributes(Paths):
    """Attributes of a volume's inodes, and changing them."""

    def __init__(
        self, tree: LmdbTree, pending: Pending, orphans: Table, file_ns: Callable[[], int]
    ) -> None:
        super().__init__(tree)
        self._pending = pending
        self._orphans = orphans
        self._file_ns = file_ns

    def set_attributes(
        self,
        number: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
    ) -> InodeRow:
        """Set some; the ctime becomes now unless it is given."""
        row = self.by_number(number)
        permissions = None if mode is None else S_IMODE(mode)
        ctime_ns = self._file_ns() if ctime_ns is None else ctime_ns
        times = (_kept(atime_ns), _kept(mtime_ns), _kept(ctime_ns))
        entry = SetAttributes(row.inode, permissions, uid, gid, *times)
        if self._is_private(row):
            self._tree.put_inode(_set_here(row, entry))
        else:
            self._pending.do(entry)
        return self.by_inode(row.inode)

    def _is_private(self, row: InodeRow) -> bool:
        """Whether nobody else has heard, or will hear, of an inode that is still open here."""
        return row.nlink == 0 and self._orphans.get(row.inode) == UNPUBLISHED

    def touch_local(
        self,
        number: int,
        *,
        size: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        atime_ns: int | None = None,
        generation: int | None = None,
    ) -> InodeRow:
        """What a write changes here at once and a Content entry tells the others later."""
        row = self.by_number(number)
        row = replace(
            row,
            size=row.size if size is None else size,
            mtime_ns=row.mtime_ns if mtime_ns is None else mtime_ns,
            ctime_ns=row.ctime_ns if ctime_ns is None else ctime_ns,
            atime_ns=row.atime_ns if atime_ns is None else atime_ns,
            generation=row.generation if generation is None else generation,
            unflushed=row.unflushed or size is not None or mtime_ns is not None,
        )
        self._tree.put_inode(row)
        return row

    def add_content(self, content: Content, *, frozen_at: int, unflushed: bool) -> None:
        """A new version of a file: an entry. `unflushed`: newer edits are here already. A file
        that has no name left gets none: it would come back by it."""
        row = self.by_inode(content.inode)
        if row.unflushed != unflushed:
            self._tree.put_inode(replace(row, unflushed=unflushed))
        if row.nlink:
            self._pending.do(content, frozen_at=frozen_at)

    # --- extended attributes ------------------------------------------------------------------

    def set_xattr(self, number: int, name: bytes, value: bytes) -> None:
        """Set or replace one. Raises `NameTooLong`, `TooLarge`."""
        check_length(name)
        if len(value) > XATTR_VALUE_BYTES:
            raise TooLarge(f"an attribute has at most {XATTR_VALUE_BYTES} bytes")
        names = {name, *self.list_xattrs(number)}
        if sum(len(one) + 1 for one in names) > XATTR_LIST_BYTES:
            raise TooLarge(f"the names of all attributes have at most {XATTR_LIST_BYTES} bytes")
        self._put_xattr(self.by_number(number), name, value)

    def remove_xattr(self, number: int, name: bytes) -> None:
        """Raises `NoAttribute`."""
        self.get_xattr(number, name)
        self._put_xattr(self.by_number(number), name, None)

    def _put_xattr(self, row: InodeRow, name: bytes, value: bytes | None) -> None:
        if self._is_private(row):
            self._tree.put_xattr(row.inode, name, XattrRow(NEVER, value))
        else:
            self._pending.do(SetXattr(row.inode, name, value, self._file_ns()))


def _kept(time_ns: int | None) -> int | None:
    """The time as it can be stored: one later than the year 2554 becomes that."""
    return None if time_ns is None else min(time_ns, NANOSECONDS_LIMIT)


def _set_here(row: InodeRow, entry: SetAttributes) -> InodeRow:
    """The row with what an entry says that nobody else will get."""
    given = {
        "uid": entry.uid,
        "gid": entry.gid,
        "atime_ns": entry.atime_ns,
        "mtime_ns": entry.mtime_ns,
        "ctime_ns": entry.ctime_ns,
    }
    mode = row.mode if entry.mode is None else (row.mode & ~0o7777) | entry.mode
    return replace(
        row, mode=mode, **{name: value for name, value in given.items() if value is not None}
    )
