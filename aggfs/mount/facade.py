"""A volume as it is mounted: what it is now, and behind `/.aggfs` what it was."""

from collections.abc import Iterator, Mapping

from aggfs.engine.reading.oldbytes import OldBytes, OldContent
from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError, Damaged, InThePast
from aggfs.model import ROOT_NUMBER, InodeRow
from aggfs.mount.past import OURS, OURS_NAME, VIEWS, PastRows, is_past
from aggfs.mount.served import ServedFiles, ServedNamespace
from aggfs.stores.base import Buffer


class VolumeWithPast:
    """A `ServedVolume` that runs, too: everything but the two views passes through."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        rows = PastRows(volume)
        parts = volume.parts
        self.namespace: ServedNamespace = NamespaceWithPast(volume.namespace, rows)
        old_bytes = OldBytes(parts.fetcher, parts.blocks, parts.readers)
        self.files: ServedFiles = FilesWithPast(volume.files, rows, old_bytes)
        self.run = volume.run
        self.watched_by = volume.watched_by
        self.statfs = volume.statfs
        self.turn = volume.turn
        self.look_back = rows.look

    async def control(self, verb: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """As of the volume."""
        return await self._volume.control(verb, arguments)

    def xattr(self, number: int, name: bytes) -> bytes | None:
        """As of the volume; views have none of ours."""
        return None if is_past(number) else self._volume.xattr(number, name)


class NamespaceWithPast:
    """Names and attributes: numbers decide whose."""

    def __init__(self, now: ServedNamespace, rows: PastRows) -> None:
        self._now = now
        self._rows = rows

    # --- looking ------------------------------------------------------------------------------

    def by_number(self, number: int) -> InodeRow:
        if is_past(number):
            return self._rows.by_number(number)
        return self._now.by_number(number)

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        if is_past(parent):
            return self._rows.lookup(parent, name)
        if parent == ROOT_NUMBER and name == OURS_NAME:
            return self._rows.by_number(OURS)
        return self._now.lookup(parent, name)

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        if is_past(number):
            return self._rows.readdir(number, after_cookie)
        return self._now.readdir(number, after_cookie)

    def get_xattr(self, number: int, name: bytes) -> bytes:
        return self._now.get_xattr(self._own(number), name)

    def list_xattrs(self, number: int) -> list[bytes]:
        return self._now.list_xattrs(self._own(number))

    def _own(self, number: int) -> int:
        """The number of now: attributes that are not kept are those of now."""
        if not is_past(number):
            return number
        return ROOT_NUMBER if number < VIEWS else self._rows.own_number(number)

    def drop_unlinked(self, number: int) -> None:
        if not is_past(number):
            self._now.drop_unlinked(number)

    # --- changing -----------------------------------------------------------------------------

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
        _check(parent, name)
        return self._now.create(parent, name, mode, uid, gid, rdev=rdev, target=target)

    def link(self, number: int, parent: int, name: bytes) -> InodeRow:
        _check(parent, name)
        _check_number(number)
        return self._now.link(number, parent, name)

    def unlink(self, parent: int, name: bytes) -> InodeRow:
        _check(parent, name)
        return self._now.unlink(parent, name)

    def rmdir(self, parent: int, name: bytes) -> InodeRow:
        _check(parent, name)
        return self._now.rmdir(parent, name)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, wait_for_content: bool
    ) -> InodeRow | None:
        _check(parent, name)
        _check(new_parent, new_name)
        return self._now.rename(
            parent, name, new_parent, new_name, wait_for_content=wait_for_content
        )

    def rename_noreplace(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        _check(parent, name)
        _check(new_parent, new_name)
        self._now.rename_noreplace(parent, name, new_parent, new_name)

    def exchange(self, parent: int, name: bytes, new_parent: int, new_name: bytes) -> None:
        _check(parent, name)
        _check(new_parent, new_name)
        self._now.exchange(parent, name, new_parent, new_name)

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
        _check_number(number)
        return self._now.set_attributes(
            number,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            ctime_ns=ctime_ns,
        )

    def set_xattr(self, number: int, name: bytes, value: bytes) -> None:
        _check_number(number)
        self._now.set_xattr(number, name, value)

    def remove_xattr(self, number: int, name: bytes) -> None:
        _check_number(number)
        self._now.remove_xattr(number, name)


class FilesWithPast:
    """Contents: numbers decide whose. What is open of a view is read where it lay when it was
    opened, as long as that is there."""

    def __init__(self, now: ServedFiles, rows: PastRows, old_bytes: OldBytes) -> None:
        self._now = now
        self._rows = rows
        self._old_bytes = old_bytes
        self._open: dict[int, tuple[int, OldContent | None]] = {}
        self.fsync_directory = now.fsync_directory
        self.sync_before_commit = now.sync_before_commit

    async def opened(self, number: int, *, truncate: bool) -> None:
        if not is_past(number):
            await self._now.opened(number, truncate=truncate)
            return
        if truncate:
            raise InThePast("this is a view of an earlier time")
        count, old = self._open.get(number) or (0, self._rows.old_content(number))
        self._open[number] = count + 1, old

    async def released(self, number: int) -> None:
        if not is_past(number):
            await self._now.released(number)
            return
        count, old = self._open.pop(number)
        if count > 1:
            self._open[number] = count - 1, old

    async def read(self, number: int, offset: int, length: int) -> Buffer:
        if not is_past(number):
            return await self._now.read(number, offset, length)
        _, old = self._open[number]
        if old is None:
            return b""
        try:
            return await self._old_bytes.read(old, offset, length)
        except Damaged:  # it may lie elsewhere by now; or is not kept any more
            now = self._rows.old_content(number)
            if now is None or now.extents == old.extents:
                raise
            self._open[number] = self._open[number][0], now
            return await self._old_bytes.read(now, offset, length)

    async def write(self, number: int, offset: int, data: bytes) -> int:
        _check_number(number)
        return await self._now.write(number, offset, data)

    async def truncate(self, number: int, size: int) -> None:
        _check_number(number)
        await self._now.truncate(number, size)

    async def fsync(self, number: int) -> None:
        if not is_past(number):
            await self._now.fsync(number)

    async def flush(self, number: int) -> None:
        if not is_past(number):
            await self._now.flush(number)

    def is_dirty(self, number: int) -> bool:
        return not is_past(number) and self._now.is_dirty(number)

    def allocated_bytes(self, row: InodeRow) -> int:
        if not is_past(row.number):
            return self._now.allocated_bytes(row)
        try:
            old = self._rows.old_content(row.number)
        except AggfsError:  # reading it says why
            return row.size
        return 0 if old is None else old.allocated_bytes


def _check(parent: int, name: bytes) -> None:
    """Raise `InThePast` for a name that cannot be made, moved or removed."""
    if parent == ROOT_NUMBER and name == OURS_NAME:
        raise InThePast("`.aggfs` is where earlier times are seen")
    _check_number(parent)


def _check_number(number: int) -> None:
    if is_past(number):
        raise InThePast("this is a view of an earlier time")
