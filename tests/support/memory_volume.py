"""A working file system in memory, with the face that the mount expects of a volume.

The plain model: no durability, no accounts, no limits. Mount tests that are about the handlers
and the kernel run on it; those about aggfs as a whole run on the real engine.
"""

import stat
from collections.abc import Callable, Iterator

import msgspec

from aggfs.assemble.world import kernel_ns
from aggfs.errors import (
    Exists,
    InvalidMove,
    IsADirectory,
    NoAttribute,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
)
from aggfs.model import InodeRow

ROOT_NUMBER = 1
FIRST_COOKIE = 3  # 1 and 2 are "." and ".."
UNIT_BYTES = 4096

Children = dict[bytes, tuple[int, int]]  # name -> (number, cookie)


def new_row(number: int, mode: int, uid: int, gid: int, rdev: int, target: bytes) -> InodeRow:
    now = kernel_ns()
    return InodeRow(
        inode=number.to_bytes(16),
        number=number,
        mode=mode,
        uid=uid,
        gid=gid,
        rdev=rdev,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        btime_ns=now,
        size=0,
        target=target,
        nlink=1,
        children=0,
        subdirectories=0,
        heads=(),
        registers=b"",
        generation=0,
    )


class MemoryNamespace:
    """Names and attributes in dictionaries; `after_drop` hears of inodes that are gone."""

    def __init__(self, uid: int = 0, gid: int = 0) -> None:
        root = new_row(ROOT_NUMBER, stat.S_IFDIR | 0o755, uid, gid, 0, b"")
        self.rows = {ROOT_NUMBER: root}
        self.children: dict[int, Children] = {ROOT_NUMBER: {}}
        self.parents = {ROOT_NUMBER: ROOT_NUMBER}
        self.xattrs: dict[int, dict[bytes, bytes]] = {}
        self.next_number = ROOT_NUMBER + 1
        self.next_cookie = FIRST_COOKIE
        self.after_drop: Callable[[int], None] = lambda _number: None

    def by_number(self, number: int) -> InodeRow:
        try:
            return self.rows[number]
        except KeyError:
            raise NoEntry(f"no inode {number}") from None

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        if name == b".":
            return self.by_number(parent)
        if name == b"..":
            return self.by_number(self.parents[parent])
        return self.rows[self._find(parent, name)]

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        *,
        rdev: int = 0,
        target: bytes = b"",
    ) -> InodeRow:
        self._check_free(parent, name)
        number = self.next_number
        self.next_number += 1
        row = self.rows[number] = new_row(number, mode, uid, gid, rdev, target)
        if stat.S_ISDIR(mode):
            self.children[number] = {}
        self._put(parent, name, number)
        return row

    def link(self, number: int, parent: int, name: bytes) -> InodeRow:
        row = self.by_number(number)
        self._check_free(parent, name)
        if stat.S_ISDIR(row.mode):
            raise NotPermitted("a directory has one name")
        if not row.nlink:
            raise NoEntry("its last name is gone")
        self._put(parent, name, number)
        return self._change(number, nlink=row.nlink + 1)

    def unlink(self, parent: int, name: bytes) -> InodeRow:
        row = self.rows[self._find(parent, name)]
        if stat.S_ISDIR(row.mode):
            raise IsADirectory("rmdir removes directories")
        self._take(parent, name)
        return self._change(row.number, nlink=row.nlink - 1)

    def rmdir(self, parent: int, name: bytes) -> InodeRow:
        number = self._find(parent, name)
        self._check_empty_directory(number)
        self._take(parent, name)
        return self._change(number, nlink=0)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, wait_for_content: bool
    ) -> InodeRow | None:
        number = self._find(parent, name)
        self._check_move(number, new_parent)
        over = self._children(new_parent).get(new_name)
        if over is None:
            self._move(parent, name, new_parent, new_name)
            return None
        target = self.rows[over[0]]
        if target.number == number:
            return None
        if stat.S_ISDIR(target.mode):
            if self._is_inside(parent, target.number):
                raise NotEmpty("what is moved lies in it")
            if not stat.S_ISDIR(self.rows[number].mode):
                raise IsADirectory("a file does not replace a directory")
            self._check_empty_directory(target.number)
        elif stat.S_ISDIR(self.rows[number].mode):
            raise NotADirectory("a directory does not replace a file")
        self._take(new_parent, new_name)
        self._move(parent, name, new_parent, new_name)
        is_directory = stat.S_ISDIR(target.mode)
        return self._change(target.number, nlink=0 if is_directory else target.nlink - 1)

    def rename_noreplace(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        moved = self._find(parent, name)
        self._check_free(new_parent, new_name)
        self._check_move(moved, new_parent)
        self._move(parent, name, new_parent, new_name)

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        one, other = self._find(parent, name), self._find(new_parent, new_name)
        self._check_move(one, new_parent)
        self._check_move(other, parent)
        if one == other:
            return
        self._take(parent, name)
        self._take(new_parent, new_name)
        self._put(new_parent, new_name, one)
        self._put(parent, name, other)

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
        row = self.by_number(number)
        wanted = {
            "mode": None if mode is None else stat.S_IFMT(row.mode) | mode,
            "uid": uid,
            "gid": gid,
            "atime_ns": atime_ns,
            "mtime_ns": mtime_ns,
            "ctime_ns": kernel_ns() if ctime_ns is None else ctime_ns,
        }
        return self._change(number, **{k: v for k, v in wanted.items() if v is not None})

    def get_xattr(self, number: int, name: bytes) -> bytes:
        try:
            return self.xattrs[number][name]
        except KeyError:
            raise NoAttribute(repr(name)) from None

    def list_xattrs(self, number: int) -> list[bytes]:
        return sorted(self.xattrs.get(number, ()))

    def set_xattr(self, number: int, name: bytes, value: bytes) -> None:
        self.by_number(number)
        self.xattrs.setdefault(number, {})[name] = value
        self._change(number, ctime_ns=kernel_ns())

    def remove_xattr(self, number: int, name: bytes) -> None:
        self.get_xattr(number, name)
        del self.xattrs[number][name]
        self._change(number, ctime_ns=kernel_ns())

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        row = self.by_number(number)
        if not row.nlink:
            return
        if after_cookie < 1:
            yield b".", row, 1
        if after_cookie < 2:
            yield b"..", self.by_number(self.parents[number]), 2
        # Cookies only grow and dictionaries keep the order of insertion: already sorted.
        for name, (child, cookie) in list(self.children[number].items()):
            if cookie > after_cookie:
                yield name, self.rows[child], cookie

    def drop_unlinked(self, number: int) -> None:
        if self.by_number(number).nlink:
            raise NotPermitted("it has a name")
        del self.rows[number]
        self.xattrs.pop(number, None)
        self.children.pop(number, None)
        self.parents.pop(number, None)
        self.after_drop(number)

    def set_size(self, number: int, size: int) -> None:
        """For the files: what `touch_local` is to the real one."""
        now = kernel_ns()
        self._change(number, size=size, mtime_ns=now, ctime_ns=now)

    # --- parts ------------------------------------------------------------------------------

    def _children(self, parent: int) -> Children:
        row = self.by_number(parent)
        if not stat.S_ISDIR(row.mode):
            raise NotADirectory("the parent is no directory")
        if not row.nlink:
            raise NoEntry("the directory is removed")
        return self.children[parent]

    def _find(self, parent: int, name: bytes) -> int:
        try:
            return self._children(parent)[name][0]
        except KeyError:
            raise NoEntry(f"no {name!r} in {parent}") from None

    def _check_free(self, parent: int, name: bytes) -> None:
        if name in self._children(parent):
            raise Exists(repr(name))

    def _check_empty_directory(self, number: int) -> None:
        if not stat.S_ISDIR(self.rows[number].mode):
            raise NotADirectory("no directory")
        if self.children[number]:
            raise NotEmpty("entries are left")

    def _check_move(self, number: int, new_parent: int) -> None:
        self._children(new_parent)
        if self._is_inside(new_parent, number):
            raise InvalidMove("into itself")

    def _is_inside(self, number: int, above: int) -> bool:
        while number not in (above, ROOT_NUMBER):
            number = self.parents[number]
        return number == above

    def _move(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        self._put(new_parent, new_name, self._take(parent, name))

    def _put(self, parent: int, name: bytes, number: int) -> None:
        self.children[parent][name] = (number, self.next_cookie)
        self.next_cookie += 1
        if number in self.children:
            self.parents[number] = parent
        self._touch_directory(parent)
        self._change(number, ctime_ns=kernel_ns())

    def _take(self, parent: int, name: bytes) -> int:
        number, _ = self.children[parent].pop(name)
        self._touch_directory(parent)
        self._change(number, ctime_ns=kernel_ns())
        return number

    def _touch_directory(self, number: int) -> None:
        children = self.children[number]
        row = self.rows[number]
        now = max(kernel_ns(), row.mtime_ns + 1)
        below = row.subdirectories
        if len(children) < 1000:  # counting is fine for a model, not for 100,000 entries
            below = sum(child in self.children for child, _ in children.values())
        self._change(
            number, mtime_ns=now, ctime_ns=now, children=len(children), subdirectories=below
        )

    def _change(self, number: int, **fields: object) -> InodeRow:
        row = self.rows[number] = msgspec.structs.replace(self.rows[number], **fields)
        return row


class MemoryFiles:
    """Contents as units of 4 KiB, those that were never written left out."""

    def __init__(self, namespace: MemoryNamespace) -> None:
        self.namespace = namespace
        self.units: dict[int, dict[int, bytes]] = {}
        self.handles: dict[int, int] = {}
        namespace.after_drop = self._dropped

    async def opened(self, number: int, *, truncate: bool) -> None:
        self.handles[number] = self.handles.get(number, 0) + 1
        if truncate:
            await self.truncate(number, 0)

    async def released(self, number: int) -> None:
        self.handles[number] -= 1

    async def read(self, number: int, offset: int, length: int) -> bytes:
        length = min(length, self.namespace.by_number(number).size - offset)
        if length <= 0:
            return b""
        units = self.units.get(number, {})
        first, last = offset // UNIT_BYTES, (offset + length - 1) // UNIT_BYTES
        data = b"".join(units.get(unit, bytes(UNIT_BYTES)) for unit in range(first, last + 1))
        start = offset - first * UNIT_BYTES
        return data[start : start + length]

    async def write(self, number: int, offset: int, data: bytes) -> int:
        units = self.units.setdefault(number, {})
        end = offset + len(data)
        for unit in range(offset // UNIT_BYTES, -(-end // UNIT_BYTES)):
            begin = unit * UNIT_BYTES
            piece = data[max(0, begin - offset) : begin + UNIT_BYTES - offset]
            if len(piece) < UNIT_BYTES:
                whole = bytearray(units.get(unit, bytes(UNIT_BYTES)))
                place = max(0, offset - begin)
                whole[place : place + len(piece)] = piece
                piece = bytes(whole)
            units[unit] = piece
        self.namespace.set_size(number, max(end, self.namespace.by_number(number).size))
        return len(data)

    async def truncate(self, number: int, size: int) -> None:
        units = self.units.setdefault(number, {})
        for unit in [unit for unit in units if unit * UNIT_BYTES >= size]:
            del units[unit]
        kept = size % UNIT_BYTES
        if kept and size // UNIT_BYTES in units:
            whole = units[size // UNIT_BYTES]
            units[size // UNIT_BYTES] = whole[:kept] + bytes(UNIT_BYTES - kept)
        self.namespace.set_size(number, size)

    async def fsync(self, number: int) -> None:
        self.namespace.by_number(number)

    async def fsync_directory(self) -> None:
        return None

    async def flush(self, number: int) -> None:
        return None

    def is_dirty(self, number: int) -> bool:
        return bool(self.units.get(number))

    def sync_before_commit(self, number: int) -> None:
        return None

    def allocated_bytes(self, row: InodeRow) -> int:
        return len(self.units.get(row.number, ())) * UNIT_BYTES

    def _dropped(self, number: int) -> None:
        self.units.pop(number, None)
        self.handles.pop(number, None)


class MemoryVolume:
    """The memory file system as one volume."""

    def __init__(self, uid: int = 0, gid: int = 0) -> None:
        self.namespace = MemoryNamespace(uid, gid)
        self.files = MemoryFiles(self.namespace)

    def watched_by(self, kernel: object) -> None:
        """Nothing changes here by itself."""

    async def turn(self, *, adds: bool) -> None:
        del adds

    async def look_back(self, number: int) -> None:
        del number

    def statfs(self) -> tuple[int, int, int]:
        return 1 << 40, 1 << 39, len(self.namespace.rows)

    def xattr(self, number: int, name: bytes) -> bytes | None:
        self.namespace.by_number(number)
        return b"local" if name == b"user.aggfs.state" else None
