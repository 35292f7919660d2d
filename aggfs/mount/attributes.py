"""Handlers of attributes, plain and extended."""

import errno
from collections.abc import Sequence

import pyfuse3

from aggfs.errors import NoAttribute, ReadOnly, TooLarge
from aggfs.model import FILE_BYTES_LIMIT, FSYNC_XATTR
from aggfs.mount.base import Handlers

OURS = b"user.aggfs."
FSYNC_VALUES = (b"cloud", b"local")
SERVED_PREFIXES = (b"user.", b"security.", b"trusted.")


class AttributeHandlers(Handlers):
    """getattr, setattr, readlink, access, and the four of extended attributes.

    Who may do what is checked by the kernel (`default_permissions`). It also takes setuid and
    setgid away on write, truncate and chown: such a request carries the new mode.
    """

    async def getattr(
        self, inode: int, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        return self.replies.attributes(self.namespace.by_number(inode))

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            if attr.st_size > FILE_BYTES_LIMIT:
                raise TooLarge(f"a file has at most {FILE_BYTES_LIMIT} bytes")
            await self.files.truncate(inode, attr.st_size)
        changes = _changes(attr, fields)
        if not changes:
            return self.replies.attributes(self.namespace.by_number(inode))
        return self.replies.attributes(self.namespace.set_attributes(inode, **changes))

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self.namespace.by_number(inode).target

    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        return True  # asked only without default_permissions, which is always on

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._check_xattr_name(name)
        if is_told(name):
            value = self.volume.xattr(inode, name)
            if value is None:
                raise NoAttribute(name.decode(errors="replace"))
            return value
        return self.namespace.get_xattr(inode, name)

    async def setxattr(
        self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        # The binding has asked getxattr before where XATTR_CREATE or XATTR_REPLACE was given.
        self._check_xattr_name(name)
        if is_told(name):
            raise ReadOnly("user.aggfs.* is what aggfs says of the file")
        if name == FSYNC_XATTR and value not in FSYNC_VALUES:
            raise pyfuse3.FUSEError(errno.EINVAL)
        self.namespace.set_xattr(inode, name, value)

    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        # What is told is not listed: who copies all attributes would trip over read-only ones.
        if not self.options.xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        return self.namespace.list_xattrs(inode)

    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._check_xattr_name(name)
        if is_told(name):
            raise ReadOnly("user.aggfs.* is what aggfs says of the file")
        self.namespace.remove_xattr(inode, name)

    def _check_xattr_name(self, name: bytes) -> None:
        """`system.*` is refused: the binding cannot serve POSIX ACLs right (docs/semantics.md)."""
        if not self.options.xattrs:
            raise pyfuse3.FUSEError(errno.ENOSYS)  # the kernel never asks again
        if not name.startswith(SERVED_PREFIXES):
            raise pyfuse3.FUSEError(errno.EOPNOTSUPP)


def is_told(name: bytes) -> bool:
    """Whether an attribute is what aggfs says of a file, and nobody sets."""
    return name.startswith(OURS) and name != FSYNC_XATTR


def _changes(attr: pyfuse3.EntryAttributes, fields: pyfuse3.SetattrFields) -> dict[str, int]:
    """What `fields` marks, as arguments of `set_attributes`; the size is not among them."""
    changes = {}
    if fields.update_mode:
        changes["mode"] = attr.st_mode & 0o7777
    if fields.update_uid:
        changes["uid"] = attr.st_uid
    if fields.update_gid:
        changes["gid"] = attr.st_gid
    if fields.update_atime:
        changes["atime_ns"] = attr.st_atime_ns
    if fields.update_mtime:
        changes["mtime_ns"] = attr.st_mtime_ns
    if fields.update_ctime:
        changes["ctime_ns"] = attr.st_ctime_ns
    return changes
