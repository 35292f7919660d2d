"""`/.aggfs/at/TIME`: the whole volume as it was, beside what it is.

A wrapper around a volume: numbers from `FIRST_PAST` on are inodes of views, all others pass
through. The number of an inode in a view is that of the view and that of the inode itself, so
that nothing must be remembered for what the kernel knows. `.aggfs` is found in the root and never
listed there; nothing else can have that name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from stat import S_IFDIR

from msgspec.structs import replace

from aggfs.cache.past import Past
from aggfs.engine.past.lookback import Lookback
from aggfs.engine.past.versions import Versions
from aggfs.engine.reading.oldbytes import OldContent
from aggfs.engine.volume import Volume
from aggfs.errors import NoEntry
from aggfs.model import ROOT_NUMBER, InodeRow
from aggfs.sync.moments import format_moment, parse_moment
from aggfs.sync.retention import grid_instants

FIRST_PAST = 1 << 62
VIEW_BITS = 40
VIEWS = FIRST_PAST + (1 << VIEW_BITS)  # numbers below it are of directories of ours
OURS, TIMES = FIRST_PAST + 1, FIRST_PAST + 2  # `.aggfs` and `.aggfs/at`
OURS_NAME, TIMES_NAME = b".aggfs", b"at"
DOTS = (b".", b"..")


def is_past(number: int) -> bool:
    """Whether an inode number is one of a view."""
    return number >= FIRST_PAST


@dataclass(slots=True)
class Views:
    """The instants that were looked at since the mount, numbered from 1."""

    instants: list[int] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)

    def number_of(self, instant: int, inode_number: int) -> int:
        """The number of an inode at an instant."""
        view = self.numbers.get(instant)
        if view is None:
            self.instants.append(instant)
            view = self.numbers[instant] = len(self.instants)
        return FIRST_PAST | view << VIEW_BITS | inode_number

    def split(self, number: int) -> tuple[int, int]:
        """The instant and the inode's own number. Raises `NoEntry`."""
        view, inode_number = divmod(number - FIRST_PAST, 1 << VIEW_BITS)
        if not 0 < view <= len(self.instants):
            raise NoEntry(f"there is no inode {number}")
        return self.instants[view - 1], inode_number


class PastRows:
    """What the views show of names and attributes."""

    def __init__(self, volume: Volume) -> None:
        parts = volume.parts
        self._namespace = parts.namespace
        self._table = parts.history
        self.views = Views()
        self.versions = Versions(parts.database, parts.tree, parts.blocks)
        self.lookback = Lookback(
            parts.tree,
            Past(parts.database),
            self.versions,
            parts.history,
            lambda: parts.wall_ns() // 1_000_000,
        )

    def by_number(self, number: int) -> InodeRow:
        """As of a namespace."""
        if number in (OURS, TIMES):
            root = self._namespace.by_number(ROOT_NUMBER)
            return replace(root, number=number, mode=S_IFDIR | 0o555, children=1, subdirectories=1)
        instant, own = self.views.split(number)
        row = self.lookback.row(instant, self._namespace.by_number(own).inode)
        return replace(row, number=number)

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        """As of a namespace."""
        if name in (b".", b".."):
            return self.by_number(parent)
        if parent == OURS:
            if name != TIMES_NAME:
                raise NoEntry("there is nothing here but `at`")
            return self.by_number(TIMES)
        if parent == TIMES:
            return self._root_at(name)
        instant, own = self.views.split(parent)
        above = self.lookback.row(instant, self._namespace.by_number(own).inode)
        return self._numbered(instant, self.lookback.find(instant, above, name))

    def _root_at(self, name: bytes) -> InodeRow:
        try:
            asked = parse_moment(name.decode())
        except ValueError as error:
            raise NoEntry(str(error)) from None
        instant = self.lookback.instant(asked)
        return self._numbered(instant, self._namespace.by_number(ROOT_NUMBER).inode)

    def _numbered(self, instant: int, inode: bytes) -> InodeRow:
        row = self.lookback.row(instant, inode)
        return replace(row, number=self.views.number_of(instant, row.number))

    async def look(self, number: int) -> None:
        """Have what a directory of a view held at hand, so that looking at it takes no long step.
        Raises `NoEntry`."""
        if number not in (OURS, TIMES):
            instant, own = self.views.split(number)
            await self.lookback.look(instant, self._namespace.by_number(own).inode)

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        """As of a namespace."""
        above = self.by_number(number)
        for cookie, name in enumerate(DOTS, 1):
            if cookie > after_cookie:
                yield name, above, cookie
        first = len(DOTS) + 1
        for place, name, row in self._entries(number, above, max(0, after_cookie - len(DOTS))):
            yield name, row, first + place

    def _entries(
        self, number: int, above: InodeRow, skip: int
    ) -> Iterator[tuple[int, bytes, InodeRow]]:
        if number == OURS:
            if not skip:
                yield 0, TIMES_NAME, self.by_number(TIMES)
        elif number == TIMES:
            instants = grid_instants(self.lookback.now_ms, self._table)
            for place, instant in enumerate(instants[skip:], skip):
                row = self._numbered(instant, self._namespace.by_number(ROOT_NUMBER).inode)
                yield place, format_moment(instant).encode(), row
        else:
            instant, _ = self.views.split(number)
            for place, name, row in self.lookback.children(instant, above.inode, skip):
                own = self.views.number_of(instant, row.number)
                yield place, name, replace(row, number=own)

    def old_content(self, number: int) -> OldContent | None:
        """The content of a file in a view; None: it is empty."""
        instant, own = self.views.split(number)
        self.lookback.check(instant)
        version = self.lookback.version(instant, self._namespace.by_number(own).inode)
        if version is None:
            return None
        return OldContent(version.content, self.versions.extents(version.content))

    def own_number(self, number: int) -> int:
        """The number that the inode has outside of the view."""
        return self.views.split(number)[1]
