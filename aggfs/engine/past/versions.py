"""The versions of files: which are kept, what each holds, and letting go of the rest.

A version is a delta over its first base, so what one holds is found by folding
(`aggfs.sync.versions`). A version whose time has come is folded into those that rest on it, and
its row goes: what only it referred to is then referred to by nothing, and is collected.

Only what lies below the cut is let go of: no entry will come any more that could name it.
"""

from dataclasses import dataclass

import trio
from msgspec.structs import replace

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.past import Past
from aggfs.cache.tree import LmdbTree
from aggfs.errors import Damaged, NoEntry
from aggfs.model import Content, Extent, InodeRow, Stamp, VersionRow
from aggfs.sync.clock import milliseconds, unpack
from aggfs.sync.retention import Retention, kept
from aggfs.sync.versions import block_map, folded, follow_moves

FILES_AT_ONCE = 64
EXTENTS_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Version:
    """A content that a file has or had. `when` is its stamp's 16 bytes."""

    when: bytes
    content: Content

    @property
    def stamp(self) -> Stamp:
        """When it became a version, and at which device."""
        return unpack(self.when)

    @property
    def time_ms(self) -> int:
        """That time, in milliseconds since 1970."""
        return milliseconds(self.stamp.clock)


class Versions:
    """The versions of all files. On the loop."""

    def __init__(self, database: Database, tree: LmdbTree, blocks: Blocks) -> None:
        self._database = database
        self._tree = tree
        self._blocks = blocks
        self._past = Past(database)

    # --- looking ------------------------------------------------------------------------------

    def of(self, inode: bytes) -> list[Version]:
        """All that are kept, in the order of their stamps; the last of all heads is shown."""
        rows = (row for _, row in self._tree.versions(inode))
        found = [Version(row.when, row.content) for row in rows if row.content is not None]
        return sorted(found, key=lambda one: (one.when, one.content.version))

    def at(self, inode: bytes, time_ms: int) -> Version | None:
        """The one that was current at a time, as far as it is kept."""
        return max(
            (one for one in self.of(inode) if one.time_ms <= time_ms),
            key=lambda one: (one.when, one.content.version),
            default=None,
        )

    def named(self, inode: bytes, prefix: str) -> Version:
        """The one whose id begins so, in hexadecimal digits. Raises `NoEntry`."""
        found = [one for one in self.of(inode) if one.content.version.hex().startswith(prefix)]
        if not prefix or not found:
            raise NoEntry(f"this file has no version {prefix!r}: `aggfs versions` lists them")
        if len(found) > 1:
            raise NoEntry(f"{len(found)} versions of this file begin with {prefix!r}")
        return found[0]

    def extents(self, content: Content) -> tuple[Extent, ...]:
        """Where the blocks of a version lie now. Raises `Damaged` where they do not any more."""
        if content.inline:
            return ()
        found = block_map(content, lambda version: self._content(content.inode, version))
        if found.unknown:
            raise Damaged("a part of this version rests on content that is not known")
        extents = tuple(follow_moves(found.extents, self._moved_to))
        if any(self._blocks.stripe(sid) is None for sid in {one.sid for one in extents}):
            raise Damaged("a part of this version is not stored any more")
        return extents

    def extents_of_head(self, row: InodeRow) -> tuple[Content, tuple[Extent, ...]]:
        """The content that a file shows when it has no local edit, and where it lies. Raises
        `Damaged` where that is not known."""
        content = self._content(row.inode, row.heads[0]) if row.heads else None
        if content is None:
            raise Damaged("the content of this file is not known")
        return content, self.extents(content)

    def _content(self, inode: bytes, version: bytes) -> Content | None:
        row = self._tree.version(inode, version)
        return None if row is None else row.content

    def _moved_to(self, sid: bytes, index: int) -> tuple[bytes, int] | None:
        row = self._tree.relocation(sid, index)
        return None if row is None else (row.sid, row.index)

    # --- letting go ---------------------------------------------------------------------------

    async def trim(self, now_ms: int, table: Retention) -> int:
        """Let go of the versions of all files that the table does not keep; how many went. May be
        cancelled: the rest goes the next time."""
        gone = 0
        for count, inode in enumerate(self._past.superseded(), 1):
            gone += self._trim_file(inode, now_ms, table)
            if count % FILES_AT_ONCE == 0:
                await self._database.throttle()
                await trio.lowlevel.checkpoint()
        return gone

    def _trim_file(self, inode: bytes, now_ms: int, table: Retention) -> int:
        found = self.of(inode)
        row = self._tree.inode(inode)
        heads = () if row is None else row.heads
        stays = kept([one.time_ms for one in found], now_ms, table)
        cut = self._tree.cut.to_bytes(8)
        old = [
            one
            for one, keep in zip(found, stays, strict=True)
            if not keep and one.when < cut and one.content.version not in heads
        ]
        gone = sum(self._let_go(inode, one.content.version, cut) for one in old)
        if len(found) - gone <= len(heads):
            self._past.forget_superseded(inode)
        return gone

    def _let_go(self, inode: bytes, gone: bytes, cut: bytes) -> bool:
        """Whether it could go: what rests on it must be settled, and hold without it."""
        base = self._content(inode, gone)  # as it is now: what it rested on may just have gone
        if base is None:
            return False
        resting = [
            (name, row, row.content)
            for name, row in self._tree.versions(inode)
            if row.content is not None and gone in row.content.bases
        ]
        made: list[tuple[bytes, VersionRow]] = []
        for name, row, content in resting:
            without = _without(content, base)
            if row.when >= cut or without is None:
                return False
            made.append((name, replace(row, content=without)))
        for name, row in made:
            self._tree.put_version(inode, name, row)
        self._tree.drop_version(inode, gone)
        return True


def _without(content: Content, base: Content) -> Content | None:
    """A content that names `base` among its bases, and does not any more."""
    if content.bases[0] == base.version:
        found = folded(content, base)
        return found if found is not None and len(found.extents) <= EXTENTS_LIMIT else None
    return replace(content, bases=tuple(one for one in content.bases if one != base.version))
