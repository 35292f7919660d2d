"""What commands ask of the past of files: their versions, and an old content again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from stat import S_IMODE, S_ISREG

from msgspec.structs import replace

from aggfs.engine.past.versions import Version, Versions
from aggfs.engine.reading.openfiles import OpenFile
from aggfs.engine.volume import Volume
from aggfs.errors import BadConfig, Busy, Damaged, IsADirectory, NoEntry
from aggfs.model import Content, Extent, InodeRow, Member
from aggfs.sync.moments import format_moment, parse_moment

Answer = dict[str, object]
Arguments = Mapping[str, object]

EDITED_TRIES = 20


class History:
    """See the module's text."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._parts = volume.parts
        parts = volume.parts
        self.versions = Versions(parts.database, parts.tree, parts.blocks)

    # --- verbs --------------------------------------------------------------------------------

    async def list_versions(self, volume: Volume, arguments: Arguments) -> Answer:
        """`versions`: what is kept of a file, the newest first."""
        row = self._file(volume.row_at(arguments))
        return {
            "path": str(arguments.get("path")),
            "versions": [self._told(one, row) for one in reversed(self.versions.of(row.inode))],
        }

    def _told(self, version: Version, row: InodeRow) -> Answer:
        return {
            "version": version.content.version.hex(),
            "time": format_moment(version.time_ms),
            "time_ms": version.time_ms,
            "mtime_ns": version.content.mtime_ns,
            "size": version.content.size,
            "device": self._device_name(version.stamp.device),
            "current": version.content.version in row.heads[:1],
            "gone": self._is_gone(version),
        }

    def _is_gone(self, version: Version) -> bool:
        """Whether its content was let go of, on the device that this one was recovered from."""
        try:
            self.versions.extents(version.content)
        except Damaged:
            return True
        return False

    def _device_name(self, device: bytes) -> str:
        row = self._parts.tree.control(b"m" + device)
        return row.entry.name if row and isinstance(row.entry, Member) else device.hex()

    async def restore(self, volume: Volume, arguments: Arguments) -> Answer:
        """`restore`: an old content of `path` becomes its newest version, or a file `to`. What
        the file held until now is a version, too. No data moves."""
        row = self._file(volume.row_at(arguments))
        version = self._meant(row.inode, arguments)
        extents = self.versions.extents(version.content)
        if "to" in arguments:
            parent, name = self.place_meant(str(arguments["to"]))
            like = replace(row, mtime_ns=version.content.mtime_ns)
            self.make_file(parent, name, like, version.content, extents)
            await self._parts.database.durable()
            await volume.tell_name(parent.number, name)
        else:
            await self._put_back(row, version.content)
        return {"version": version.content.version.hex(), "time": format_moment(version.time_ms)}

    def _meant(self, inode: bytes, arguments: Arguments) -> Version:
        if "version" in arguments:
            return self.versions.named(inode, str(arguments["version"]))
        found = self.versions.at(inode, moment_of(arguments))
        if found is None:
            raise NoEntry("no version that old is kept: `aggfs versions` lists them")
        return found

    @staticmethod
    def _file(row: InodeRow) -> InodeRow:
        if not S_ISREG(row.mode):
            raise IsADirectory("only regular files have versions")
        return row

    # --- putting back -------------------------------------------------------------------------

    async def _put_back(self, row: InodeRow, content: Content) -> None:
        number, volume = row.number, self._volume
        await volume.tell_content(number)
        with self._held(number) as file:
            for _ in range(EDITED_TRIES):
                await volume.stage({number})  # what was written until now is a version of its own
                async with file.reshape():
                    if not (file.edited or file.frozen):
                        self._replace(file, content, self.versions.extents(content))
                        break
            else:
                raise Busy("the file is being written: try again when that has ended")
        await self._parts.database.durable()
        await volume.tell_content(number)

    @contextmanager
    def _held(self, number: int) -> Iterator[OpenFile]:
        open_files = self._parts.open_files
        open_files.opened(number)
        try:
            yield open_files.use(number)
        finally:
            open_files.released(number)

    def _replace(self, file: OpenFile, content: Content, extents: tuple[Extent, ...]) -> None:
        """One transaction, no await."""
        row = self._parts.namespace.by_number(file.number)
        self._put_content(row, content, extents)
        self._parts.open_files.adopt(file)

    def _put_content(self, row: InodeRow, content: Content, extents: tuple[Extent, ...]) -> None:
        namespace = self._parts.namespace
        new = Content(
            inode=row.inode,
            version=self._parts.random_bytes(16),
            bases=row.heads,
            size=content.size,
            kept_bytes=0,
            extents=extents,
            inline=content.inline,
            mtime_ns=content.mtime_ns,
            ctime_ns=self._parts.wall_ns(),
        )
        namespace.add_content(new, frozen_at=namespace.next_outbox_sequence(), unflushed=False)
        self._parts.blocks.apply(new)

    def make_file(
        self,
        parent: InodeRow,
        name: bytes,
        like: InodeRow,
        content: Content,
        extents: tuple[Extent, ...],
    ) -> InodeRow:
        """A new file with the attributes of `like` and this content, under a free name. One
        transaction, no await. Raises what `Namespace.create` does."""
        namespace = self._parts.namespace
        row = namespace.create(parent.number, name, like.mode, like.uid, like.gid)
        self._put_content(row, content, extents)
        namespace.set_attributes(
            row.number,
            mode=S_IMODE(like.mode),
            uid=like.uid,
            gid=like.gid,
            atime_ns=like.atime_ns,
            mtime_ns=like.mtime_ns,
        )
        return namespace.by_inode(row.inode)

    def place_meant(self, path: str) -> tuple[InodeRow, bytes]:
        """The directory and the name that a path means. Raises `NoEntry`, `BadConfig`."""
        above, _, name = path.encode(errors="surrogateescape").rstrip(b"/").rpartition(b"/")
        if not name:
            raise BadConfig("a name is needed for what is made")
        return self._parts.namespace.resolve(above), name


def moment_of(arguments: Arguments) -> int:
    """The argument `at`, in milliseconds. Raises `BadConfig`."""
    try:
        return parse_moment(str(arguments.get("at") or ""))
    except ValueError as error:
        raise BadConfig(str(error)) from None
