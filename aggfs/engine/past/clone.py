"""Clones: another file or tree with the same contents, which shares all that lies in the accounts.

A tree is built under a name of its own beside its place and renamed into it at the end, so it is
there whole or not at all. What a stop leaves half built is noted in the table `clones`, and
removed at the next start.
"""

from collections.abc import Iterator, Mapping
from stat import S_IMODE, S_ISDIR, S_ISREG
from typing import Self

import trio

from aggfs.engine.names.paths import PARENT_COOKIE
from aggfs.engine.past.history import History
from aggfs.engine.past.lookback import Lookback
from aggfs.engine.volume import Volume
from aggfs.errors import Exists, InvalidMove, NoEntry
from aggfs.model import Content, Extent, InodeRow
from aggfs.sync.moments import parse_moment
from aggfs.sync.names import find

TABLES = ("clones",)
FILES_AT_ONCE = 16
PAST_PREFIX = b"/.aggfs/at/"

Answer = dict[str, object]
Arguments = Mapping[str, object]
Held = tuple[Content, tuple[Extent, ...]] | None


class Source:
    """What is cloned: a file or tree as it is now, or as it was."""

    def __init__(
        self,
        volume: Volume,
        history: History,
        lookback: Lookback,
        row: InodeRow,
        instant: int | None,
    ) -> None:
        self._namespace = volume.parts.namespace
        self._versions = history.versions
        self._lookback = lookback
        self._instant = instant
        self.row = row

    @classmethod
    async def at(cls, volume: Volume, history: History, lookback: Lookback, path: bytes) -> Self:
        """What is at a path. Raises `NoEntry`."""
        if not path.startswith(PAST_PREFIX):
            row = volume.parts.namespace.resolve(path)
            return cls(volume, history, lookback, row, None)
        text, _, rest = path.removeprefix(PAST_PREFIX).partition(b"/")
        try:
            asked = parse_moment(text.decode())
        except ValueError as error:
            raise NoEntry(str(error)) from None
        instant = lookback.instant(asked)
        return cls(volume, history, lookback, await lookback.resolve(instant, rest), instant)

    @property
    def is_past(self) -> bool:
        """Whether it is as it was."""
        return self._instant is not None

    async def look(self, row: InodeRow) -> None:
        """Before `children`, which takes no long step then."""
        if self._instant is not None:
            await self._lookback.look(self._instant, row.inode)

    def children(self, row: InodeRow) -> Iterator[tuple[bytes, InodeRow]]:
        """What a directory holds."""
        if self._instant is not None:
            for _, name, child in self._lookback.children(self._instant, row.inode):
                yield name, child
            return
        for name, child, _ in self._namespace.readdir(row.number, PARENT_COOKIE):
            yield name, child

    def content(self, row: InodeRow) -> Held:
        """What a file holds, and where; None: it is empty."""
        if self._instant is None:
            return self._versions.extents_of_head(row) if row.heads else None
        version = self._lookback.version(self._instant, row.inode)
        return (
            None if version is None else (version.content, self._versions.extents(version.content))
        )


class Cloning:
    """The verb, and the removal of what a stop left. On the loop."""

    def __init__(self, volume: Volume, history: History, lookback: Lookback) -> None:
        self._volume = volume
        self._parts = volume.parts
        self._namespace = volume.parts.namespace
        self._history = history
        self._lookback = lookback
        self._table = volume.parts.database.table("clones")
        self._unfinished = [inode for inode, _ in self._table.scan(b"")]  # of the last run

    async def clone(self, volume: Volume, arguments: Arguments) -> Answer:
        """`clone`: make `to` of `path`. Raises `NoEntry`, `Exists`, `InvalidMove`. A later write
        to either is not seen in the other. May be cancelled: nothing is there then."""
        path = str(arguments.get("path") or "/").encode(errors="surrogateescape")
        source = await Source.at(volume, self._history, self._lookback, path)
        parent, name = self._history.place_meant(str(arguments.get("to") or ""))
        if find(self._parts.tree, parent.inode, name) is not None:
            raise Exists("there is something of that name already")
        if not source.is_past:
            if S_ISDIR(source.row.mode) and self._namespace.is_inside(parent, source.row):
                raise InvalidMove("a tree cannot be cloned into itself")
            await volume.stage(set(self._namespace.numbers_under(source.row.number)))
            source = await Source.at(volume, self._history, self._lookback, path)
        with self._parts.writers.work():
            if S_ISDIR(source.row.mode):
                count = await self._clone_tree(source, parent, name)
            else:
                self._clone_one(source, source.row, parent, name)
                count = 1
        await self._parts.database.durable()
        await volume.tell_name(parent.number, name)
        return {"cloned": count}

    # --- building -----------------------------------------------------------------------------

    async def _clone_tree(self, source: Source, parent: InodeRow, name: bytes) -> int:
        top_name = b".aggfs-clone-" + self._parts.random_bytes(8).hex().encode()
        row = source.row
        top = self._namespace.create(parent.number, top_name, row.mode, row.uid, row.gid)
        self._table.put(top.inode, b"")
        try:
            count = await self._fill(source, row, top)
            self._namespace.rename_noreplace(parent.number, top_name, parent.number, name)
            self._table.delete(top.inode)
        except BaseException:
            self._remove(parent, top_name, top)
            raise
        return count

    async def _fill(self, source: Source, row: InodeRow, top: InodeRow) -> int:
        """Everything below a directory, some files between two looks at the clock."""
        count, made = 1, dict[bytes, InodeRow]()
        await source.look(row)
        levels = [(row, top, source.children(row))]
        while levels:
            above, target, children = levels[-1]
            name, child = next(children, (b"", None))
            if child is None:
                levels.pop()
                self._copy_attributes(above, target)
                continue
            if child.inode != top.inode:
                known = made.get(child.inode)
                if known is not None:
                    self._namespace.link(known.number, target.number, name)
                else:
                    known = self._clone_one(source, child, target, name)
                    if child.nlink > 1:
                        made[child.inode] = known
                if S_ISDIR(child.mode):
                    await source.look(child)
                    levels.append((child, known, source.children(child)))
                count += 1
            if count % FILES_AT_ONCE == 0:
                await self._parts.database.throttle()
                await trio.lowlevel.checkpoint()
        return count

    def _clone_one(self, source: Source, row: InodeRow, parent: InodeRow, name: bytes) -> InodeRow:
        """One inode, without what is in it if it is a directory. No await."""
        held = source.content(row) if S_ISREG(row.mode) else None
        if held is not None:
            made = self._history.make_file(parent, name, row, *held)
            self._copy_xattrs(row, made)
            return made
        made = self._namespace.create(
            parent.number, name, row.mode, row.uid, row.gid, rdev=row.rdev, target=row.target
        )
        if not S_ISDIR(row.mode):
            self._copy_attributes(row, made)
        return made

    def _copy_xattrs(self, row: InodeRow, made: InodeRow) -> None:
        for name in self._namespace.list_xattrs(row.number):
            value = self._namespace.get_xattr(row.number, name)
            self._namespace.set_xattr(made.number, name, value)

    def _copy_attributes(self, row: InodeRow, made: InodeRow) -> None:
        self._copy_xattrs(row, made)
        self._namespace.set_attributes(
            made.number,
            mode=S_IMODE(row.mode),
            uid=row.uid,
            gid=row.gid,
            atime_ns=row.atime_ns,
            mtime_ns=row.mtime_ns,
        )

    # --- what was not finished ----------------------------------------------------------------

    async def remove_unfinished(self) -> None:
        """What the last stop left half built goes; not what is being built now."""
        for inode in self._unfinished:
            top = self._parts.tree.inode(inode)
            if top is None or not top.nlink:
                self._table.delete(inode)
                continue
            parent, name = self._namespace.place_of(top.number)
            self._remove(self._namespace.by_inode(parent), name, top)
            await self._parts.database.durable()
            await self._volume.tell_name(self._namespace.by_inode(parent).number, name)
        self._unfinished.clear()

    def _remove(self, parent: InodeRow, name: bytes, top: InodeRow) -> None:
        levels = [(parent, name, top)]
        while levels:
            above, its_name, row = levels[-1]
            child = next(iter(self._namespace.readdir(row.number, PARENT_COOKIE)), None)
            if child is not None and S_ISDIR(child[1].mode):
                levels.append((row, child[0], child[1]))
            elif child is not None:
                gone = self._namespace.unlink(row.number, child[0])
                self._namespace.drop_unlinked(gone.number)
            else:
                levels.pop()
                self._namespace.drop_unlinked(self._namespace.rmdir(above.number, its_name).number)
        self._table.delete(top.inode)
