"""The folded tree in LMDB: rows for the fold of `aggfs.sync`, which decides everything.

Tables, see docs/schema.md: `inodes`, `numbers`, `links`, `inode_links`, `xattrs`, `versions`,
`relocations`, `control`, `moves`, `past`, `removed`, `superseded`, `claims`, `children`,
`counters`. (`aggfs.cache.past` reads `past`, `removed`, `superseded`.) Rows that were read or put
lately are kept decoded; the loop is the only writer, so they are always what the tables hold.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from aggfs.cache.table import Table, Tables
from aggfs.errors import Damaged
from aggfs.model import (
    NEVER,
    NOWHERE,
    ROOT,
    ROOT_NUMBER,
    ROOT_ROW,
    Child,
    ControlRow,
    InodeRow,
    LinkRow,
    Member,
    MoveRow,
    PastRow,
    RelocationRow,
    VersionRow,
    XattrRow,
)

TABLES = (
    "inodes",
    "numbers",
    "links",
    "inode_links",
    "xattrs",
    "versions",
    "relocations",
    "control",
    "moves",
    "past",
    "removed",
    "superseded",
    "claims",
    "children",
    "counters",
)
FIRST_NUMBER = ROOT_NUMBER + 1
FIRST_COOKIE = 3  # readdir's 1 and 2 are `.` and `..`
RESERVED = 1024  # numbers are reserved in lots, so that most cost no put
MANY_ROWS, FEW_ROWS = 16384, 256
PAGE_ROWS = 1000
ID_BYTES = 16

Row = TypeVar("Row")
_encode = msgspec.msgpack.Encoder().encode


class _Rows(Generic[Row]):
    """One table of rows of one type, with up to `limit` of the latest kept decoded."""

    def __init__(self, table: Table, kind: type[Row], limit: int) -> None:
        self._table = table
        self._limit = limit
        self._decode: Callable[[bytes], Row] = msgspec.msgpack.Decoder(kind).decode
        self._kept: dict[bytes, Row] = {}

    def get(self, key: bytes) -> Row | None:
        row = self._kept.get(key)
        if row is None:
            value = self._table.get(key)
            if value is None:
                return None
            row = self.decoded(value)
            self._keep(key, row)
        return row

    def decoded(self, value: bytes) -> Row:
        try:
            return self._decode(value)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Damaged(f"the local database holds a damaged row: {error}") from error

    def put(self, key: bytes, row: Row) -> None:
        self._table.put(key, _encode(row))
        self._keep(key, row)

    def _keep(self, key: bytes, row: Row) -> None:
        kept = self._kept
        kept[key] = row
        if len(kept) > self._limit:
            for old in list(islice(kept, self._limit // 4 + 1)):
                del kept[old]

    def delete(self, key: bytes) -> None:
        self._table.delete(key)
        self._kept.pop(key, None)

    def under(self, prefix: bytes) -> Iterator[tuple[bytes, Row]]:
        """All rows whose key starts with `prefix`, in order; changes on the way may be seen."""
        after: bytes | None = None
        while True:
            rows = self._table.scan(prefix, after, limit=PAGE_ROWS)
            for key, value in rows:
                yield key, self.decoded(value)
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]


class LmdbTree:
    """`aggfs.sync.tree.Tree` over a database. On the loop only."""

    def __init__(self, database: Tables) -> None:
        """A tree over a database, or over a snapshot of one, which is only read."""

        def rows(name: str, kind: Any, limit: int = FEW_ROWS) -> _Rows[Any]:
            return _Rows(database.table(name), kind, limit)

        self._inodes: _Rows[InodeRow] = rows("inodes", InodeRow, MANY_ROWS)
        self._links: _Rows[LinkRow] = rows("links", LinkRow, MANY_ROWS)
        self._xattrs: _Rows[XattrRow] = rows("xattrs", XattrRow)
        self._versions: _Rows[VersionRow] = rows("versions", VersionRow)
        self._relocations: _Rows[RelocationRow] = rows("relocations", RelocationRow)
        self._control: _Rows[ControlRow] = rows("control", ControlRow)
        self._moves: _Rows[MoveRow] = rows("moves", MoveRow)
        self._past: _Rows[PastRow] = rows("past", PastRow)
        self._removed = database.table("removed")
        self._superseded = database.table("superseded")
        self._numbers = database.table("numbers")
        self._inode_links = database.table("inode_links")
        self._claims = database.table("claims")
        self._children = database.table("children")
        self._counters = database.table("counters")
        self._moves_table = database.table("moves")
        self._ids: dict[int, bytes] = {}
        self._next = {
            b"number": self._counter(b"number", FIRST_NUMBER),
            b"cookie": self._counter(b"cookie", FIRST_COOKIE),
        }
        self._reserved = dict(self._next)
        self._newest_move = self._last_move()
        if self.inode(ROOT) is None:
            self.put_inode(ROOT_ROW)

    def _counter(self, name: bytes, first: int) -> int:
        value = self._counters.get(name)
        return first if value is None else int.from_bytes(value)

    def _last_move(self) -> bytes:
        last = self._moves_table.last(b"")
        return last[0] if last else NEVER

    @property
    def cut(self) -> int:
        """Clock reading below which every entry is folded already."""
        return self._counter(b"cut", 0)

    def set_cut(self, clock: int) -> None:
        """See `cut`."""
        self._counters.put(b"cut", clock.to_bytes(8))

    # --- inodes -------------------------------------------------------------------------------

    def inode(self, inode: bytes) -> InodeRow | None:
        """The row of an inode."""
        return self._inodes.get(inode)

    def put_inode(self, row: InodeRow) -> None:
        """Add or replace it. Its number never changes."""
        if row.number not in self._ids:
            self._name_number(row)
        self._inodes.put(row.inode, row)

    def _name_number(self, row: InodeRow) -> None:
        if self.inode_of_number(row.number) is None:
            self._numbers.put(row.number.to_bytes(8), row.inode)
            self._ids[row.number] = row.inode

    def inode_of_number(self, number: int) -> bytes | None:
        """The inode with this FUSE number."""
        inode = self._ids.get(number)
        if inode is None:
            inode = self._numbers.get(number.to_bytes(8))
            if inode is not None:
                if len(self._ids) > MANY_ROWS:
                    self._ids.clear()
                self._ids[number] = inode
        return inode

    def drop_inode(self, inode: bytes) -> None:
        """Forget an inode with its attributes and versions."""
        row = self._inodes.get(inode)
        if row is not None:
            self._numbers.delete(row.number.to_bytes(8))
            self._ids.pop(row.number, None)
        self._inodes.delete(inode)
        for rows in (self._xattrs, self._versions):
            for key, _ in list(rows.under(inode)):
                rows.delete(key)

    # --- links --------------------------------------------------------------------------------

    def link(self, link: bytes) -> LinkRow | None:
        """The row of a link."""
        return self._links.get(link)

    def put_link(self, row: LinkRow) -> None:
        """Add or replace a link. Its inode never changes."""
        if self._links.get(row.link) is None:
            self._inode_links.put(row.inode + row.link, b"")
        if row.parent == NOWHERE and row.was_parent != NOWHERE:
            self._removed.put(row.when + row.link, b"")
        self._links.put(row.link, row)

    def drop_link(self, link: bytes) -> None:
        """Forget a link."""
        row = self._links.get(link)
        if row is not None:
            self._links.delete(link)
            self._inode_links.delete(row.inode + link)
            if row.parent == NOWHERE:
                self._removed.delete(row.when + link)

    def links_of(self, inode: bytes) -> list[LinkRow]:
        """Every link of an inode, removed ones included, in order of their ids."""
        found = (self._links.get(key[ID_BYTES:]) for key, _ in self._inode_links.scan(inode))
        return [row for row in found if row is not None]

    # --- attributes, versions, relocations, control -------------------------------------------

    def xattr(self, inode: bytes, name: bytes) -> XattrRow | None:
        """One extended attribute."""
        return self._xattrs.get(inode + name)

    def put_xattr(self, inode: bytes, name: bytes, row: XattrRow) -> None:
        """Set its register."""
        self._xattrs.put(inode + name, row)

    def xattrs(self, inode: bytes) -> list[tuple[bytes, XattrRow]]:
        """All of an inode's, removed ones included, in order of their names."""
        return [(key[ID_BYTES:], row) for key, row in self._xattrs.under(inode)]

    def version(self, inode: bytes, version: bytes) -> VersionRow | None:
        """One content version."""
        return self._versions.get(inode + version)

    def put_version(self, inode: bytes, version: bytes, row: VersionRow) -> None:
        """Add or replace it."""
        if row.superseded:
            self._superseded.put(inode, b"")
        self._versions.put(inode + version, row)

    def drop_version(self, inode: bytes, version: bytes) -> None:
        """Forget it."""
        self._versions.delete(inode + version)

    def versions(self, inode: bytes) -> list[tuple[bytes, VersionRow]]:
        """All content versions of an inode, in order of their ids."""
        return [(key[ID_BYTES:], row) for key, row in self._versions.under(inode)]

    def relocation(self, sid: bytes, index: int) -> RelocationRow | None:
        """Where a block of a stripe lies now, if it was moved."""
        return self._relocations.get(sid + index.to_bytes(8))

    def put_relocation(self, sid: bytes, index: int, row: RelocationRow) -> None:
        """Set its register."""
        self._relocations.put(sid + index.to_bytes(8), row)

    def control(self, key: bytes) -> ControlRow | None:
        """The last word on one stripe, member or account."""
        return self._control.get(key)

    def put_control(self, key: bytes, row: ControlRow) -> None:
        """Set its register."""
        self._control.put(key, row)

    # --- the log of moves ---------------------------------------------------------------------

    @property
    def newest_move(self) -> bytes:
        """No logged move has a higher stamp; NEVER if there was none."""
        return self._newest_move

    def put_move(self, when: bytes, row: MoveRow) -> None:
        """Remember a move, so that it can be taken back."""
        self._moves.put(when, row)
        self._newest_move = max(when, self._newest_move)

    def drop_move(self, when: bytes) -> None:
        """Forget a move."""
        self._moves.delete(when)

    def move(self, when: bytes) -> MoveRow | None:
        """One move of the log."""
        return self._moves.get(when)

    def moves_from(self, when: bytes) -> list[tuple[bytes, MoveRow]]:
        """The moves with this stamp or a later one, in order."""
        if when > self._newest_move:
            return []
        if when == NEVER:
            return list(self._moves.under(b""))
        below = (int.from_bytes(when) - 1).to_bytes(len(when))
        rows = self._moves_table.scan(b"", below)
        return [(key, self._moves.decoded(value)) for key, value in rows]

    def drop_moves_below(self, when: bytes) -> Iterator[None]:
        """Forget the moves below a stamp, some in a step: they will never be taken back."""
        after: bytes | None = None
        while rows := self._moves_table.scan(b"", after, below=when, limit=FEW_ROWS):
            after = rows[-1][0]
            for key, _ in rows:
                self._moves.delete(key)
            yield

    # --- the past -----------------------------------------------------------------------------

    def put_past(self, place: bytes, until: bytes, link: bytes, row: PastRow) -> None:
        """A link was in directory `place` until the move of that stamp."""
        self._past.put(place + until + link, row)

    def drop_past(self, place: bytes, until: bytes, link: bytes) -> None:
        """Forget that."""
        self._past.delete(place + until + link)

    def all_past(self) -> Iterator[tuple[bytes, bytes, bytes, PastRow]]:
        """(directory, until, link, row), in order."""
        return ((k[:16], k[16:32], k[32:], row) for k, row in self._past.under(b""))

    # --- names --------------------------------------------------------------------------------

    def claims(self, place: bytes, name: bytes) -> bytes:
        """The claims on a name of a directory, b"" if there are none."""
        return self._claims.get(place + name) or b""

    def put_claims(self, place: bytes, name: bytes, claims: bytes) -> None:
        """Set them; b"" for none."""
        if claims:
            self._claims.put(place + name, claims)
        else:
            self._claims.delete(place + name)

    def put_child(self, place: bytes, child: Child) -> None:
        """File a link in a directory."""
        key = place + child.cookie.to_bytes(8)
        self._children.put(key, child.link + child.inode + child.name)

    def drop_child(self, place: bytes, cookie: int) -> None:
        """Take a link out of a directory."""
        self._children.delete(place + cookie.to_bytes(8))

    def children(self, place: bytes, after: int, limit: int) -> list[Child]:
        """Up to `limit` links filed in a directory with a cookie above `after`, in order."""
        rows = self._children.scan(place, place + after.to_bytes(8), limit=limit)
        return [
            Child(int.from_bytes(key[ID_BYTES:]), value[:16], value[16:32], value[32:])
            for key, value in rows
        ]

    # --- local numbers ------------------------------------------------------------------------

    def new_number(self) -> int:
        """A FUSE inode number that was never given before."""
        return self._count(b"number")

    def new_cookie(self) -> int:
        """A readdir cookie that was never given before."""
        return self._count(b"cookie")

    @property
    def numbers_given(self) -> int:
        """How many inode numbers were given so far."""
        return self._next[b"number"] - FIRST_NUMBER

    def _count(self, name: bytes) -> int:
        number = self._next[name]
        self._next[name] = number + 1
        if number >= self._reserved[name]:
            self._reserved[name] = number + RESERVED
            self._counters.put(name, self._reserved[name].to_bytes(8))
        return number

    # --- all of it ----------------------------------------------------------------------------

    def all_inodes(self) -> Iterator[InodeRow]:
        """Every inode, in order of id."""
        return (row for _, row in self._inodes.under(b""))

    def all_links(self) -> Iterator[LinkRow]:
        """Every link, in order of id."""
        return (row for _, row in self._links.under(b""))

    def all_xattrs(self) -> Iterator[tuple[bytes, bytes, XattrRow]]:
        """(inode, name, row) of every extended attribute."""
        return ((key[:16], key[16:], row) for key, row in self._xattrs.under(b""))

    def all_versions(self) -> Iterator[tuple[bytes, bytes, VersionRow]]:
        """(inode, version, row) of every content version."""
        return ((key[:16], key[16:], row) for key, row in self._versions.under(b""))

    def all_relocations(self) -> Iterator[tuple[bytes, int, RelocationRow]]:
        """(sid, index, row) of every relocated block."""
        return ((k[:24], int.from_bytes(k[24:]), row) for k, row in self._relocations.under(b""))

    def control_under(self, prefix: bytes) -> Iterator[tuple[bytes, ControlRow]]:
        """(key, row) of what was said under a kind of keys."""
        return self._control.under(prefix)

    def members(self) -> dict[bytes, Member]:
        """The devices of the volume, lapsed ones too."""
        rows = (row.entry for _, row in self.control_under(b"m"))
        return {entry.device: entry for entry in rows if isinstance(entry, Member)}

    def all_control(self) -> Iterator[tuple[bytes, ControlRow]]:
        """(key, row) of everything that control entries said."""
        return self._control.under(b"")
