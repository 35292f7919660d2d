"""The trash: what was removed, as long as its rows are kept.

Removing takes a name away and nothing else: the inode's row, its versions and the link's last
place stay. So the trash is no place of its own but the links without a place, by the time of
their removal (`aggfs.cache.past`). A file comes back by getting its place again. It is gone for
good when its rows go: after the time that the retention says, the oldest first; before that
where its room is needed. What only it referred to is collected then.

What nobody else ever heard of is no case for the trash (`engine.names.pending` takes it back).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from stat import S_ISREG

import trio

from aggfs.cache.past import Past
from aggfs.engine.past.versions import Versions
from aggfs.engine.volume import Parts
from aggfs.model import BLOCK_BYTES, NOWHERE, ROOT, Content, InodeRow, LinkRow
from aggfs.sync.clock import milliseconds, unpack
from aggfs.sync.registers import is_created

ENTRIES_AT_ONCE = 64
COUNTED_AT_ONCE = 500
DEPTH_LIMIT = 4096


@dataclass(frozen=True, slots=True)
class Removed:
    """Something in the trash."""

    link: LinkRow
    row: InodeRow

    @property
    def time_ms(self) -> int:
        """When it was removed, in milliseconds since 1970."""
        return milliseconds(unpack(self.link.when).clock)


class Trash:
    """What was removed. On the loop."""

    def __init__(self, parts: Parts, versions: Versions) -> None:
        self._parts = parts
        self._tree = parts.tree
        self._versions = versions
        self._past = Past(parts.database)
        self._counted: tuple[bytes, bytes] | None = None  # how far `size_bytes` has looked
        self._size_bytes = 0

    # --- looking ------------------------------------------------------------------------------

    def entries(self) -> Iterator[Removed]:
        """What may be brought back, the oldest first."""
        found = (self._removed(when, link) for when, link in self._past.removed())
        return (one for one in found if one is not None)

    def still(self, one: Removed) -> Removed | None:
        """What it is now; None if it is not in the trash any more."""
        return self._removed(one.link.when, one.link.link)

    def _removed(self, when: bytes, link_id: bytes) -> Removed | None:
        link = self._tree.link(link_id)
        if link is None or link.parent != NOWHERE or link.when != when:
            return None
        row = self._tree.inode(link.inode)
        if row is None or row.nlink or not is_created(row) or not _is_of_use(row):
            return None
        return Removed(link, row) if self._last_link(row).link == link_id else None

    def path_of(self, link: LinkRow) -> bytes:
        """Where it was; what is above it may be in the trash, too, or gone for good."""
        parts = [link.name]
        above = link.was_parent
        while above != ROOT and len(parts) < DEPTH_LIMIT:
            row = self._tree.link(above)
            if row is None:
                return b"/?/" + b"/".join(reversed(parts))
            parts.append(row.name)
            above = row.was_parent
        return b"/" + b"/".join(reversed(parts))

    def size_of(self, row: InodeRow) -> int:
        """How many bytes of content go with an inode, at most: what it shares is counted too."""
        return sum(_held(one.content) for one in self._versions.of(row.inode))

    def size_bytes(self) -> int:
        """About how much room the whole trash holds. Looks only at what came since the last
        time, and at no more than some of it: the rest counts the next time."""
        for when, link in islice(self._past.removed(self._counted), COUNTED_AT_ONCE):
            found = self._removed(when, link)
            self._size_bytes += self.size_of(found.row) if found is not None else 0
            self._counted = when, link
        return max(0, self._size_bytes)

    # --- taking out ---------------------------------------------------------------------------

    def taken_out(self, found: Removed) -> None:
        """It was brought back, or goes for good: before its rows change."""
        self._past.forget_removed(found.link.when, found.link.link)
        if self._counted is not None and (found.link.when, found.link.link) <= self._counted:
            self._size_bytes -= self.size_of(found.row)

    async def trim(self, before_ms: int) -> int:
        """Let go of what was removed before a time; how many inodes went. May be cancelled."""
        return (await self._let_go(before_ms, None))[0]

    async def make_room(self, wanted_bytes: int) -> int:
        """Let go of the oldest until about so many bytes are given up; how many were."""
        return (await self._let_go(None, wanted_bytes))[1]

    async def _let_go(self, before_ms: int | None, wanted_bytes: int | None) -> tuple[int, int]:
        """What is not below the cut stays: somebody may still mention it."""
        gone = freed = 0
        cut = self._tree.cut.to_bytes(8)
        for count, (when, link) in enumerate(self._past.removed(), 1):
            late = before_ms is not None and milliseconds(unpack(when).clock) >= before_ms
            if when >= cut or late or (wanted_bytes is not None and freed >= wanted_bytes):
                break
            found = self._removed(when, link)
            if found is not None and not self._parts.namespace.is_open(found.row.inode):
                size = self.size_of(found.row)
                self.taken_out(found)
                self._drop(found.row)
                gone, freed = gone + 1, freed + size
            elif found is None:
                self._tidy(when, link)
            if count % ENTRIES_AT_ONCE == 0:
                await self._parts.database.throttle()
                await trio.lowlevel.checkpoint()
        return gone, freed

    def _drop(self, row: InodeRow) -> None:
        for link in self._tree.links_of(row.inode):
            self._tree.drop_link(link.link)
        self._tree.drop_inode(row.inode)
        self._past.forget_superseded(row.inode)

    def _tidy(self, when: bytes, link_id: bytes) -> None:
        """A removed link that is nothing in the trash: rows that are of no use go."""
        link = self._tree.link(link_id)
        if link is None or link.parent != NOWHERE or link.when != when:
            self._past.forget_removed(when, link_id)
            return
        row = self._tree.inode(link.inode)
        if row is None or (row.nlink and not link.shown):  # the file has other names
            self._tree.drop_link(link_id)
        elif not row.nlink and is_created(row) and not self._parts.namespace.is_open(row.inode):
            if self._last_link(row).link == link_id:
                self._drop(row)
            else:
                self._tree.drop_link(link_id)

    def _last_link(self, row: InodeRow) -> LinkRow:
        return max(self._tree.links_of(row.inode), key=lambda one: (one.when, one.link))


def _is_of_use(row: InodeRow) -> bool:
    """Whether there is something to bring back: what was written and never stored is no more."""
    return bool(row.heads) or not (S_ISREG(row.mode) and row.unflushed)


def _held(content: Content) -> int:
    if content.inline:
        return len(content.inline)
    blocks = sum(extent.count for extent in content.extents)
    return min(blocks * BLOCK_BYTES, content.size)
