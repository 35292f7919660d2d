"""The narrow protocol between the fold and what keeps its state, and the dictionary behind it.

The fold (`merge`, `moves`, `view`) is written once against `Tree`; `DictTree` here and `LmdbTree`
in the cache hold rows for it and decide nothing. Everything a tree gives back is frozen.

Tables that are *facts* (a function of the set of entries alone): inodes, links, xattrs, versions,
relocations, control, moves. Tables that are *derived* from them, kept so that a look-up is one
read: claims and children. Claims are the links shown under one name of one directory, 32 bytes
each: link id, inode id; nearly always exactly one. The log of the past (places that links have
left) follows from the moves, and stays for those who look back.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from aggfs.model import (
    NEVER,
    ROOT,
    ROOT_ROW,
    Child,
    ControlRow,
    InodeRow,
    LinkRow,
    MoveRow,
    PastRow,
    RelocationRow,
    VersionRow,
    XattrRow,
)
from aggfs.sync.registers import FIRST_NUMBER

Row = TypeVar("Row")
FIRST_COOKIE = 3  # of readdir: 1 and 2 are `.` and `..`


class Tree(Protocol):
    """Rows for the fold. One writer; no method waits."""

    @property
    def cut(self) -> int:
        """Clock reading below which every entry is folded already: older ones are ignored."""

    @property
    def newest_move(self) -> bytes:
        """No logged move has a higher stamp; NEVER if there was none."""

    def set_cut(self, clock: int) -> None: ...

    # --- facts ------------------------------------------------------------------------------

    def inode(self, inode: bytes) -> InodeRow | None: ...
    def put_inode(self, row: InodeRow) -> None: ...
    def drop_inode(self, inode: bytes) -> None: ...
    def link(self, link: bytes) -> LinkRow | None: ...
    def put_link(self, row: LinkRow) -> None:
        """Add or replace a link. Its inode never changes; drop it first to do that."""

    def drop_link(self, link: bytes) -> None: ...
    def links_of(self, inode: bytes) -> list[LinkRow]:
        """Every link of an inode, removed ones included, in order of their ids."""

    def xattr(self, inode: bytes, name: bytes) -> XattrRow | None: ...
    def put_xattr(self, inode: bytes, name: bytes, row: XattrRow) -> None: ...
    def xattrs(self, inode: bytes) -> list[tuple[bytes, XattrRow]]:
        """All of an inode's, removed ones included, in order of their names."""

    def version(self, inode: bytes, version: bytes) -> VersionRow | None: ...
    def put_version(self, inode: bytes, version: bytes, row: VersionRow) -> None: ...
    def drop_version(self, inode: bytes, version: bytes) -> None: ...
    def versions(self, inode: bytes) -> list[tuple[bytes, VersionRow]]: ...
    def relocation(self, sid: bytes, index: int) -> RelocationRow | None: ...
    def put_relocation(self, sid: bytes, index: int, row: RelocationRow) -> None: ...
    def control(self, key: bytes) -> ControlRow | None: ...
    def put_control(self, key: bytes, row: ControlRow) -> None: ...

    # --- the log of moves ---------------------------------------------------------------------

    def put_move(self, when: bytes, row: MoveRow) -> None: ...
    def drop_move(self, when: bytes) -> None: ...
    def move(self, when: bytes) -> MoveRow | None: ...
    def moves_from(self, when: bytes) -> list[tuple[bytes, MoveRow]]:
        """The moves with this stamp or a later one, in order."""

    def drop_moves_below(self, when: bytes) -> Iterator[None]:
        """Some in a step. What is put on the way is above them."""

    # --- the log of the past ------------------------------------------------------------------

    def put_past(self, place: bytes, until: bytes, link: bytes, row: PastRow) -> None:
        """A link was in directory `place` until the move of that stamp."""

    def drop_past(self, place: bytes, until: bytes, link: bytes) -> None: ...
    def all_past(self) -> Iterator[tuple[bytes, bytes, bytes, PastRow]]:
        """(directory, until, link, row), in order."""

    # --- derived --------------------------------------------------------------------------------

    def claims(self, place: bytes, name: bytes) -> bytes:
        """The claims on a name of a directory, b"" if there are none."""

    def put_claims(self, place: bytes, name: bytes, claims: bytes) -> None: ...
    def put_child(self, place: bytes, child: Child) -> None: ...
    def drop_child(self, place: bytes, cookie: int) -> None: ...
    def children(self, place: bytes, after: int, limit: int) -> list[Child]:
        """Up to `limit` links filed in a directory with a cookie above `after`, in order."""

    # --- local numbers --------------------------------------------------------------------------

    def new_number(self) -> int:
        """A FUSE inode number that was never given before."""

    def new_cookie(self) -> int:
        """A readdir cookie that was never given before."""

    # --- all of it, for checkpoints and comparisons ----------------------------------------------

    def all_inodes(self) -> Iterator[InodeRow]: ...
    def all_links(self) -> Iterator[LinkRow]: ...
    def all_xattrs(self) -> Iterator[tuple[bytes, bytes, XattrRow]]: ...
    def all_versions(self) -> Iterator[tuple[bytes, bytes, VersionRow]]: ...
    def all_relocations(self) -> Iterator[tuple[bytes, int, RelocationRow]]: ...
    def all_control(self) -> Iterator[tuple[bytes, ControlRow]]: ...


class DictTree:
    """A tree in memory: the plainest one, against which the other is judged."""

    def __init__(self) -> None:
        self.cut = 0
        self._inodes: dict[bytes, InodeRow] = {ROOT: ROOT_ROW}
        self._links: dict[bytes, LinkRow] = {}
        self._inode_links: dict[bytes, dict[bytes, None]] = {}
        self._xattrs: dict[tuple[bytes, bytes], XattrRow] = {}
        self._versions: dict[tuple[bytes, bytes], VersionRow] = {}
        self._relocations: dict[tuple[bytes, int], RelocationRow] = {}
        self._control: dict[bytes, ControlRow] = {}
        self._moves: dict[bytes, MoveRow] = {}
        self._past: dict[tuple[bytes, bytes, bytes], PastRow] = {}
        self._claims: dict[tuple[bytes, bytes], bytes] = {}
        self._children: dict[bytes, dict[int, Child]] = {}
        self._next_number = FIRST_NUMBER
        self._next_cookie = FIRST_COOKIE

    def set_cut(self, clock: int) -> None:
        self.cut = clock

    def inode(self, inode: bytes) -> InodeRow | None:
        return self._inodes.get(inode)

    def put_inode(self, row: InodeRow) -> None:
        self._inodes[row.inode] = row

    def drop_inode(self, inode: bytes) -> None:
        self._inodes.pop(inode, None)
        for key in [key for key in self._xattrs if key[0] == inode]:
            del self._xattrs[key]
        for key in [key for key in self._versions if key[0] == inode]:
            del self._versions[key]

    def link(self, link: bytes) -> LinkRow | None:
        return self._links.get(link)

    def put_link(self, row: LinkRow) -> None:
        self._links[row.link] = row
        self._inode_links.setdefault(row.inode, {})[row.link] = None

    def drop_link(self, link: bytes) -> None:
        row = self._links.pop(link, None)
        if row is not None:
            del self._inode_links[row.inode][link]

    def links_of(self, inode: bytes) -> list[LinkRow]:
        return [self._links[link] for link in sorted(self._inode_links.get(inode, ()))]

    def xattr(self, inode: bytes, name: bytes) -> XattrRow | None:
        return self._xattrs.get((inode, name))

    def put_xattr(self, inode: bytes, name: bytes, row: XattrRow) -> None:
        self._xattrs[inode, name] = row

    def xattrs(self, inode: bytes) -> list[tuple[bytes, XattrRow]]:
        return sorted((key[1], row) for key, row in self._xattrs.items() if key[0] == inode)

    def version(self, inode: bytes, version: bytes) -> VersionRow | None:
        return self._versions.get((inode, version))

    def put_version(self, inode: bytes, version: bytes, row: VersionRow) -> None:
        self._versions[inode, version] = row

    def drop_version(self, inode: bytes, version: bytes) -> None:
        self._versions.pop((inode, version), None)

    def versions(self, inode: bytes) -> list[tuple[bytes, VersionRow]]:
        found = [(key[1], row) for key, row in self._versions.items() if key[0] == inode]
        return sorted(found, key=lambda pair: pair[0])

    def relocation(self, sid: bytes, index: int) -> RelocationRow | None:
        return self._relocations.get((sid, index))

    def put_relocation(self, sid: bytes, index: int, row: RelocationRow) -> None:
        self._relocations[sid, index] = row

    def control(self, key: bytes) -> ControlRow | None:
        return self._control.get(key)

    def put_control(self, key: bytes, row: ControlRow) -> None:
        self._control[key] = row

    @property
    def newest_move(self) -> bytes:
        return max(self._moves, default=NEVER)

    def put_move(self, when: bytes, row: MoveRow) -> None:
        self._moves[when] = row

    def drop_move(self, when: bytes) -> None:
        self._moves.pop(when, None)

    def move(self, when: bytes) -> MoveRow | None:
        return self._moves.get(when)

    def moves_from(self, when: bytes) -> list[tuple[bytes, MoveRow]]:
        return sorted(
            ((at, row) for at, row in self._moves.items() if at >= when), key=lambda pair: pair[0]
        )

    def drop_moves_below(self, when: bytes) -> Iterator[None]:
        self._moves = {at: row for at, row in self._moves.items() if at >= when}
        yield

    def put_past(self, place: bytes, until: bytes, link: bytes, row: PastRow) -> None:
        self._past[place, until, link] = row

    def drop_past(self, place: bytes, until: bytes, link: bytes) -> None:
        self._past.pop((place, until, link), None)

    def all_past(self) -> Iterator[tuple[bytes, bytes, bytes, PastRow]]:
        return ((*key, self._past[key]) for key in sorted(self._past))

    def claims(self, place: bytes, name: bytes) -> bytes:
        return self._claims.get((place, name), b"")

    def put_claims(self, place: bytes, name: bytes, claims: bytes) -> None:
        if claims:
            self._claims[place, name] = claims
        else:
            self._claims.pop((place, name), None)

    def put_child(self, place: bytes, child: Child) -> None:
        self._children.setdefault(place, {})[child.cookie] = child

    def drop_child(self, place: bytes, cookie: int) -> None:
        del self._children[place][cookie]

    def children(self, place: bytes, after: int, limit: int) -> list[Child]:
        found = self._children.get(place, {})
        return [found[at] for at in sorted(at for at in found if at > after)[:limit]]

    def new_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def new_cookie(self) -> int:
        self._next_cookie += 1
        return self._next_cookie - 1

    def all_inodes(self) -> Iterator[InodeRow]:
        return iter(_ordered(self._inodes))

    def all_links(self) -> Iterator[LinkRow]:
        return iter(_ordered(self._links))

    def all_xattrs(self) -> Iterator[tuple[bytes, bytes, XattrRow]]:
        return ((*key, self._xattrs[key]) for key in sorted(self._xattrs))

    def all_versions(self) -> Iterator[tuple[bytes, bytes, VersionRow]]:
        return ((*key, self._versions[key]) for key in sorted(self._versions))

    def all_relocations(self) -> Iterator[tuple[bytes, int, RelocationRow]]:
        return ((*key, self._relocations[key]) for key in sorted(self._relocations))

    def all_control(self) -> Iterator[tuple[bytes, ControlRow]]:
        return ((key, self._control[key]) for key in sorted(self._control))


def _ordered(rows: dict[bytes, Row]) -> Iterable[Row]:
    return [rows[key] for key in sorted(rows)]
