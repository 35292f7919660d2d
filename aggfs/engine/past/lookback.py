"""Looking back: names, attributes and contents as they were at an instant.

Names come from where links are and from the log of places that they left; contents from the
versions that are kept. Both are whole at the instants of the retention table, and at no other: a
look at any time shows the last such instant before it, and ends when that instant is not kept any
more. Of attributes only those that a content carries are kept (size, times of its change); the
others are those of now, or of the removal.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from stat import S_ISDIR, S_ISREG

from msgspec.structs import replace

from aggfs.cache.past import Past
from aggfs.cache.tree import LmdbTree
from aggfs.coding.codec import at_once
from aggfs.engine.past.versions import Version, Versions
from aggfs.errors import NoEntry, NotADirectory
from aggfs.model import ROOT, InodeRow
from aggfs.sync.clock import milliseconds, reading, unpack
from aggfs.sync.names import conflict_name
from aggfs.sync.registers import is_created
from aggfs.sync.retention import Retention, latest_instant
from aggfs.threads import in_slices

LISTINGS_KEPT = 64
NAMES_AT_ONCE = 64
# A file that was made so shortly before is not there yet if its content came later: it was on
# its way. One that was empty for longer is there, and empty.
ON_ITS_WAY_MS = 120_000
LAST_DEVICE = b"\xff" * 8
UNCOUNTED = -1  # a directory then shows one link, which says that those of others do not count


@dataclass(frozen=True, slots=True)
class Listing:
    """What a directory held: inodes by name, in order of names."""

    inodes: dict[bytes, bytes]


Place = tuple[bytes, bytes, bytes, bytes]  # name, since when, link, inode


class Lookback:
    """The tree at instants. On the loop."""

    def __init__(
        self,
        tree: LmdbTree,
        past: Past,
        versions: Versions,
        table: Retention,
        now_ms: Callable[[], int],
    ) -> None:
        self._tree = tree
        self._past = past
        self._versions = versions
        self._table = table
        self._now_ms = now_ms
        self._listings: OrderedDict[tuple[int, bytes], Listing] = OrderedDict()

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._now_ms()

    def instant(self, at_ms: int) -> int:
        """The last instant not after a time at which everything is kept. Raises `NoEntry` for
        the future, and for what is too long ago."""
        found = latest_instant(at_ms, self._now_ms(), self._table)
        if found is None or at_ms > self._now_ms():
            raise NoEntry("nothing is kept of that time")
        return found

    def check(self, instant: int) -> None:
        """Raises `NoEntry` when an instant is not kept any more."""
        if latest_instant(instant, self._now_ms(), self._table) != instant:
            raise NoEntry("that time is not kept any more: look at it anew")

    # --- names --------------------------------------------------------------------------------

    def children(
        self, instant: int, directory: bytes, skip: int = 0
    ) -> Iterator[tuple[int, bytes, InodeRow]]:
        """(place, name, row) of what a directory held, in order of names, without the first
        `skip`; what was let go of since is left out. Raises `NoEntry`."""
        inodes = self.listing(instant, directory).inodes
        for place, (name, inode) in enumerate(islice(inodes.items(), skip, None), skip):
            if self._tree.inode(inode) is not None:
                yield place, name, self.row(instant, inode)

    async def look(self, instant: int, directory: bytes) -> None:
        """Have the listing of a directory at hand: who asks next takes no long step. Raises as
        `listing`."""
        self.check(instant)
        if self._known(instant, directory) is None:
            self._keep(instant, directory, await in_slices(self._list_steps(instant, directory)))

    def listing(self, instant: int, directory: bytes) -> Listing:
        """What a directory held. Raises `NoEntry` where the instant is not kept any more."""
        self.check(instant)
        found = self._known(instant, directory)
        if found is None:
            found = at_once(self._list_steps(instant, directory))
            self._keep(instant, directory, found)
        return found

    def _known(self, instant: int, directory: bytes) -> Listing | None:
        known = self._listings.get((instant, directory))
        if known is None or instant >= self._now_ms():
            return None
        self._listings.move_to_end((instant, directory))
        return known

    def _keep(self, instant: int, directory: bytes, found: Listing) -> None:
        self._listings[instant, directory] = found
        if len(self._listings) > LISTINGS_KEPT:
            self._listings.popitem(last=False)

    def _list_steps(self, instant: int, directory: bytes) -> Generator[None, None, Listing]:
        """A step is some names. What moves meanwhile has left its place to the log of the past:
        so that is read last, and one that was met in both is one."""
        last = (reading((instant + 1) * 1_000_000) - 1).to_bytes(8) + LAST_DEVICE
        runs = yield from self._there_still_steps(directory)
        left = (
            (row.name, row.since, link, row.inode) for link, row in self._past.left(directory, last)
        )
        while run := list(islice(left, NAMES_AT_ONCE)):
            runs.append(sorted(run))
            yield
        found: dict[bytes, bytes] = {}
        clashed = False
        met: Place | None = None
        for count, place in enumerate(heapq.merge(*runs)):
            if count % NAMES_AT_ONCE == 0:
                yield
            name, since, link, inode = place
            row = None if since > last or place == met else self._tree.inode(inode)
            met = place
            if row is None or not self._was_there(instant, row, since):
                continue
            if name in found:
                clashed = True
                name = conflict_name(name, link.hex()[:8]) or name
            found[name] = inode
        return Listing(dict(sorted(found.items())) if clashed else found)

    def _there_still_steps(self, directory: bytes) -> Generator[None, None, list[list[Place]]]:
        row = self._tree.inode(directory)
        place = directory if row is None or not row.merged_into else row.merged_into
        runs: list[list[Place]] = []
        after = 0
        while children := self._tree.children(place, after, NAMES_AT_ONCE):
            after = children[-1].cookie
            links = (self._tree.link(child.link) for child in children)
            runs.append(
                sorted(
                    (link.name, link.when, link.link, link.inode)
                    for link in links
                    if link is not None and link.parent == directory
                )
            )
            yield
        return runs

    def _was_there(self, instant: int, row: InodeRow, since: bytes) -> bool:
        if not is_created(row):
            return False
        if not S_ISREG(row.mode) or instant - _milliseconds(since) >= ON_ITS_WAY_MS:
            return True
        return self._versions.at(row.inode, instant) is not None or not self._versions.of(row.inode)

    async def resolve(self, instant: int, path: bytes) -> InodeRow:
        """What was at a path. Raises `NoEntry`, `NotADirectory`."""
        row = self.row(instant, ROOT)
        for name in path.split(b"/"):
            if name:
                await self.look(instant, row.inode)
                row = self.row(instant, self.find(instant, row, name))
        return row

    def find(self, instant: int, directory: InodeRow, name: bytes) -> bytes:
        """The inode that a name in a directory meant. Raises `NoEntry`, `NotADirectory`."""
        if not S_ISDIR(directory.mode):
            raise NotADirectory("not a directory")
        found = self.listing(instant, directory.inode).inodes.get(name)
        if found is None:
            raise NoEntry("no such file or directory at that time")
        return found

    # --- attributes ---------------------------------------------------------------------------

    def row(self, instant: int, inode: bytes) -> InodeRow:
        """An inode's row, with what is known of that time. Raises `NoEntry`."""
        self.check(instant)
        row = self._tree.inode(inode)
        if row is None:
            raise NoEntry("there is nothing left of this")
        if S_ISDIR(row.mode):
            return replace(
                row,
                mtime_ns=min(row.mtime_ns, instant * 1_000_000),
                ctime_ns=min(row.ctime_ns, instant * 1_000_000),
                nlink=1,
                children=0,
                subdirectories=UNCOUNTED,
                merged_into=b"",
            )
        version = self.version(instant, inode) if S_ISREG(row.mode) else None
        if version is None:
            return replace(row, nlink=1, size=0, ctime_ns=min(row.ctime_ns, instant * 1_000_000))
        content = version.content
        return replace(
            row,
            nlink=1,
            size=content.size,
            mtime_ns=content.mtime_ns,
            ctime_ns=content.ctime_ns,
            unflushed=False,
        )

    def version(self, instant: int, inode: bytes) -> Version | None:
        """The content that a file had; None: it was empty and had never had any."""
        return self._versions.at(inode, instant)


def _milliseconds(when: bytes) -> int:
    return milliseconds(unpack(when).clock)
