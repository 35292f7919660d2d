"""The face that a volume shows to its mount, spoken to by paths: the same calls for a real one and
for the memory volume, which is the plain model of it."""

import os
from collections.abc import Callable, Iterator
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISDIR, S_ISREG

from aggfs.errors import NamespaceError
from aggfs.model import ROOT_NUMBER, InodeRow
from aggfs.mount.errors import errno_of
from aggfs.mount.served import ServedVolume
from tests.support.renaming import EXCHANGE, NOREPLACE
from tests.support.stripes import content_or_zeros

AFTER_DOTS = 2
READ_BYTES = 1 << 20

Shown = dict[bytes, tuple[object, ...]]


class Face:
    """Every call answers what `outcome` makes of it. Open files are kept in slots."""

    def __init__(self, volume: ServedVolume) -> None:
        self._names = volume.namespace
        self._files = volume.files
        self._slots: dict[int, int] = {}

    async def outcome(self, operation: str, *arguments: object) -> object:
        """What an operation returns, or the errno of its error."""
        try:
            return await getattr(self, operation)(*arguments)
        except NamespaceError as error:
            return f"errno {errno_of('any', error)}"

    def _number(self, path: bytes) -> int:
        number = ROOT_NUMBER
        for name in path.split(b"/") if path else ():
            number = self._names.lookup(number, name).number
        return number

    def _place(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self._number(directory), name

    def _file(self, path: bytes) -> int:
        """The number of a regular file: the kernel lets nothing else through."""
        row = self._names.by_number(self._number(path))
        if not S_ISREG(row.mode):
            raise NamespaceError("no regular file")
        return row.number

    def _gone(self, row: InodeRow | None) -> None:
        """What has no name and is not open is dropped."""
        if row is not None and not row.nlink and row.number not in self._slots.values():
            self._names.drop_unlinked(row.number)

    # --- names --------------------------------------------------------------------------------

    async def create(self, path: bytes, mode: int) -> None:
        self._names.create(*self._place(path), S_IFREG | mode, 1, 2)

    async def mkdir(self, path: bytes, mode: int) -> None:
        self._names.create(*self._place(path), S_IFDIR | mode, 1, 2)

    async def symlink(self, path: bytes, target: bytes) -> None:
        self._names.create(*self._place(path), S_IFLNK | 0o777, 1, 2, target=target)

    async def link(self, path: bytes, new: bytes) -> None:
        self._names.link(self._number(path), *self._place(new))

    async def unlink(self, path: bytes) -> None:
        self._gone(self._names.unlink(*self._place(path)))

    async def rmdir(self, path: bytes) -> None:
        self._gone(self._names.rmdir(*self._place(path)))

    async def rename(self, path: bytes, new: bytes, flags: int) -> None:
        moved = self._number(path)
        places = (*self._place(path), *self._place(new))
        if flags == NOREPLACE:
            self._names.rename_noreplace(*places)
        elif flags == EXCHANGE:
            self._names.exchange(*places)
        else:
            is_dirty = self._files.is_dirty(moved)
            replaced = self._names.rename(*places, wait_for_content=is_dirty)
            if is_dirty and replaced is not None:
                self._files.sync_before_commit(moved)
            self._gone(replaced)

    # --- attributes ---------------------------------------------------------------------------

    async def chmod(self, path: bytes, mode: int) -> None:
        self._names.set_attributes(self._number(path), mode=mode)

    async def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        number = self._number(path)
        self._names.set_attributes(number, atime_ns=atime_ns, mtime_ns=mtime_ns)

    async def set_xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self._names.set_xattr(self._number(path), name, value)

    async def remove_xattr(self, path: bytes, name: bytes) -> None:
        self._names.remove_xattr(self._number(path), name)

    # --- contents -----------------------------------------------------------------------------

    async def write(self, path: bytes, offset: int, length: int, seed: int) -> None:
        number = self._file(path)
        await self._files.opened(number, truncate=False)
        await self._files.write(number, offset, content_or_zeros(length, seed))
        await self._files.released(number)

    async def write_anew(self, path: bytes, length: int, seed: int) -> None:
        number = self._file(path)
        await self._files.opened(number, truncate=True)
        await self._files.write(number, 0, content_or_zeros(length, seed))
        await self._files.released(number)

    async def truncate(self, path: bytes, size: int) -> None:
        await self._files.truncate(self._file(path), size)

    # --- open files ---------------------------------------------------------------------------

    async def open(self, slot: int, path: bytes) -> None:
        number = self._file(path)
        await self.close(slot)
        await self._files.opened(number, truncate=False)
        self._slots[slot] = number

    async def close(self, slot: int) -> None:
        number = self._slots.pop(slot, None)
        if number is not None:
            await self._files.released(number)
            self._gone(self._names.by_number(number))

    async def write_open(self, slot: int, offset: int, length: int, seed: int) -> None:
        if slot in self._slots:
            await self._files.write(self._slots[slot], offset, content_or_zeros(length, seed))

    async def read_open(self, slot: int, offset: int, length: int) -> bytes:
        if slot not in self._slots:
            return b""
        return bytes(await self._files.read(self._slots[slot], offset, length))

    async def truncate_open(self, slot: int, size: int) -> None:
        if slot in self._slots:
            await self._files.truncate(self._slots[slot], size)

    async def close_all(self) -> None:
        for slot in list(self._slots):
            await self.close(slot)

    # --- the whole ----------------------------------------------------------------------------

    def walk(self, number: int = ROOT_NUMBER, above: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Every path below, and the number behind it."""
        for name, row, _ in self._names.readdir(number, AFTER_DOTS):
            path = os.path.join(above, name)
            yield path, row.number
            if S_ISDIR(row.mode):
                yield from self.walk(row.number, path)

    def shown(self, moment: Callable[[int], object]) -> Shown:
        """Names, attributes and links; hard links share the first of their names. `moment` makes
        comparable what is a time."""
        first: dict[int, bytes] = {}
        found: Shown = {}
        for path, number in sorted(self.walk()):
            row = self._names.by_number(number)
            names = self._names.list_xattrs(number)
            found[path] = (
                *(row.mode, row.uid, row.gid, row.size, row.nlink, row.target),
                *(row.children, row.subdirectories, moment(row.mtime_ns)),
                first.setdefault(number, path),
                {name: self._names.get_xattr(number, name) for name in names},
            )
        return found

    async def sync(self) -> None:
        """Everything survives a crash."""
        for _, number in self.walk():
            if S_ISREG(self._names.by_number(number).mode):
                await self._files.fsync(number)
        await self._files.fsync_directory()

    async def contents(self) -> dict[bytes, bytes]:
        """The bytes of every regular file."""
        found: dict[bytes, bytes] = {}
        for path, number in self.walk():
            row = self._names.by_number(number)
            if S_ISREG(row.mode):
                found[path] = bytes(await self._files.read(number, 0, row.size + 1))
        return found
