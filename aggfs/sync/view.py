"""What is shown of the links: the derived tables, kept equal to a function of the facts.

A link is **shown** at its last place when its inode is known and
- it is not removed; or
- it is a directory's, and a shown link has that directory as parent (removed here, filled
  there: the directory is revived); or
- all links of its file are removed, it is the last removed one, and the file has content that
  no remover had seen (delete against edit keeps the edit).

Directories with the same path are shown as **one**: the one that was placed first stands for
all, the others are `merged_into` it, and what they hold is filed under it. Other links that
claim one name of a directory get a suffix where they are shown (`aggfs.sync.names`).

How it is kept up: after facts have changed, `settle` visits the touched links. Whether a link is
shown depends only on links further down, so changes climb (`_queue`); where a link is filed
depends only on directories further up, so changes of merging descend (`_crowds`): first what may
be wrong is parted, then merged from the root down. At each step a link is filed under
`merged_into` of its parent, or its parent, as stored: filing and taking out find the same place.
"""

from collections import deque
from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from stat import S_ISDIR

from msgspec.structs import replace

from aggfs.model import NOWHERE, Child, InodeRow, LinkRow
from aggfs.sync.moves import Touched, was_never_placed
from aggfs.sync.names import CLAIM_BYTES, split_claims
from aggfs.sync.registers import ghost, is_created
from aggfs.sync.tree import Tree

Places = set[tuple[bytes, bytes]]
_CHILDREN_AT_ONCE = 512


def inode_or_ghost(tree: Tree, inode: bytes) -> InodeRow:
    """The row of an inode, if need be a new one for an inode that is only mentioned."""
    return tree.inode(inode) or ghost(inode, tree.new_number())


def place_of(tree: Tree, parent: bytes) -> bytes:
    """The directory in which the links of `parent` are filed."""
    row = tree.inode(parent)
    return parent if row is None or not row.merged_into else row.merged_into


def settle(tree: Tree, touched: Touched, doubtful: Iterable[bytes]) -> Places:
    """Bring the derived tables up to date.

    `touched` are the links that changed with their rows before; `doubtful` are inodes whose
    links may have become shown or hidden for another reason: created, or other content heads.
    Returns the (directory, name) pairs whose claims changed.
    """
    return _Settling(tree, touched, doubtful).run()


class _Settling:
    """One run of `settle`."""

    def __init__(self, tree: Tree, touched: Touched, doubtful: Iterable[bytes]) -> None:
        self._tree = tree
        self._filed: Touched = dict(touched)  # as filed, where that is not the row of now
        self._queue: deque[bytes] = deque(touched)
        self._crowds: deque[tuple[bytes, bytes]] = deque()
        self._keepers: dict[bytes, bytes | None] = {}
        self._changed: Places = set()
        self._count_placed(touched)
        for inode in doubtful:
            self._queue.extend(row.link for row in tree.links_of(inode))

    def run(self) -> Places:
        while self._queue:
            self._visit(self._queue.popleft())
        self._merge_directories(self._part_directories())
        return self._changed

    # --- is it shown? -------------------------------------------------------------------------

    def _count_placed(self, touched: Touched) -> None:
        changes: dict[bytes, int] = {}
        for link, before in touched.items():
            now = self._tree.link(link)
            for link_row, sign in ((before, -1), (now, 1)):
                if link_row is not None:
                    step = sign if link_row.parent != NOWHERE else 0
                    changes[link_row.inode] = changes.get(link_row.inode, 0) + step
        for inode, change in changes.items():
            row = inode_or_ghost(self._tree, inode)
            if change:
                self._tree.put_inode(replace(row, placed=row.placed + change))
            if row.heads and 0 in (row.placed, row.placed + change):
                self._queue.extend(link.link for link in self._tree.links_of(inode))

    def _visit(self, link: bytes) -> None:
        now = self._tree.link(link)
        if now is None:
            return
        filed = self._filed.pop(link, now)
        was_shown = filed is not None and filed.shown
        shown = self._is_shown(now)
        if was_shown and shown and filed is not None and _same_place(filed, now):
            self._note_crowd(now)
        else:
            if was_shown and filed is not None:
                self._take_out(filed)
            if shown:
                self._file(now)
        if was_never_placed(now):
            self._tree.drop_link(link)
        elif now.shown != shown:
            self._tree.put_link(replace(now, shown=shown))

    def _is_shown(self, link: LinkRow) -> bool:
        inode = self._tree.inode(link.inode)
        if inode is None or not is_created(inode) or link.was_parent == NOWHERE:
            return False
        if S_ISDIR(inode.mode) != link.is_directory:
            return False
        if link.parent != NOWHERE:
            return True
        if link.is_directory:
            return inode.filled > 0
        return self._keeper(inode) == link.link

    def _keeper(self, inode: InodeRow) -> bytes | None:
        """The removed link under which a file lives on, None if the file has none."""
        if inode.placed or not inode.heads:
            return None
        if inode.inode not in self._keepers:
            self._keepers[inode.inode] = self._find_keeper(inode)
        return self._keepers[inode.inode]

    def _find_keeper(self, inode: InodeRow) -> bytes | None:
        links = [row for row in self._tree.links_of(inode.inode) if row.was_parent != NOWHERE]
        observed = {head for row in links for head in row.observed}
        if not links or observed.issuperset(inode.heads):
            return None
        return max(links, key=lambda row: (row.when, row.link)).link

    # --- filing -------------------------------------------------------------------------------

    def _file(self, link: LinkRow) -> None:
        parent = inode_or_ghost(self._tree, link.was_parent)
        self._tree.put_inode(replace(parent, filled=parent.filled + 1))
        if parent.filled == 0:
            self._queue.append(link.was_parent)
        inode = inode_or_ghost(self._tree, link.inode)
        self._tree.put_inode(replace(inode, nlink=inode.nlink + 1))
        self._add_claim(parent.merged_into or link.was_parent, link)

    def _take_out(self, link: LinkRow) -> None:
        parent = inode_or_ghost(self._tree, link.was_parent)
        self._tree.put_inode(replace(parent, filled=parent.filled - 1))
        if parent.filled == 1:
            self._queue.append(link.was_parent)
        inode = inode_or_ghost(self._tree, link.inode)
        self._tree.put_inode(replace(inode, nlink=inode.nlink - 1))
        self._drop_claim(parent.merged_into or link.was_parent, link)
        if link.is_directory and inode.merged_into:
            self._stand_under(link.inode, link.inode)

    def _add_claim(self, place: bytes, link: LinkRow) -> None:
        claims = self._tree.claims(place, link.name)
        self._tree.put_claims(place, link.name, claims + link.link + link.inode)
        child = Child(link.cookie, link.link, link.inode, link.name)
        self._tree.put_child(place, child)
        self._count(place, link, 1, clash=1 if claims else 0)
        self._changed.add((place, link.name))
        inode = self._tree.inode(link.inode) if link.is_directory else None
        if claims or (inode is not None and inode.merged_into):
            self._crowds.append((place, link.name))

    def _drop_claim(self, place: bytes, link: LinkRow) -> None:
        claims = self._tree.claims(place, link.name)
        claim = link.link + link.inode
        left = b"".join(
            claims[at : at + CLAIM_BYTES]
            for at in range(0, len(claims), CLAIM_BYTES)
            if claims[at : at + CLAIM_BYTES] != claim
        )
        self._tree.put_claims(place, link.name, left)
        self._tree.drop_child(place, link.cookie)
        self._count(place, link, -1, clash=-1 if left else 0)
        self._changed.add((place, link.name))
        if left:
            self._crowds.append((place, link.name))

    def _count(self, place: bytes, link: LinkRow, change: int, clash: int) -> None:
        row = inode_or_ghost(self._tree, place)
        self._tree.put_inode(
            replace(
                row,
                children=row.children + change,
                subdirectories=row.subdirectories + (change if link.is_directory else 0),
                clashes=row.clashes + clash,
            )
        )

    # --- directories of one path ---------------------------------------------------------------

    def _note_crowd(self, link: LinkRow) -> None:
        """A link moved to where it was: its rank among those of its name may differ."""
        place = place_of(self._tree, link.was_parent)
        if len(self._tree.claims(place, link.name)) > CLAIM_BYTES:
            self._crowds.append((place, link.name))

    def _part_directories(self) -> set[tuple[bytes, bytes]]:
        """Undo every merging that a change may have made wrong, and what rests on it further
        down. Returns the crowds to be looked at again."""
        crowds: set[tuple[bytes, bytes]] = set()
        while self._crowds:
            crowd = self._crowds.popleft()
            crowds.add(crowd)
            for directory in self._directories_of(crowd):
                self._stand_under(directory, directory)
        return crowds

    def _merge_directories(self, crowds: set[tuple[bytes, bytes]]) -> None:
        """Let the first of the directories that claim one name stand for the others, from the
        root down: so groups only grow, and each level is final before the next."""
        heap = [(self._depth(crowd[0]), *crowd) for crowd in crowds]
        heapify(heap)
        while heap:
            _, place, name = heappop(heap)
            ranked = self._directories_of((place, name))
            for directory in ranked[1:]:
                self._stand_under(directory, ranked[0])
            while self._crowds:
                crowd = self._crowds.popleft()
                heappush(heap, (self._depth(crowd[0]), *crowd))

    def _directories_of(self, crowd: tuple[bytes, bytes]) -> list[bytes]:
        """The directories that claim a name, the first one first."""
        claims = split_claims(self._tree.claims(*crowd))
        rows = [self._tree.link(link) for link, inode in claims if link == inode]
        return [link for _, link in sorted((row.when, row.link) for row in rows if row)]

    def _depth(self, directory: bytes) -> int:
        depth = 0
        while (row := self._tree.link(directory)) is not None:
            directory = row.was_parent
            depth += 1
        return depth

    def _stand_under(self, directory: bytes, target: bytes) -> None:
        """File what `directory` holds under `target`, which may be itself."""
        row = inode_or_ghost(self._tree, directory)
        old_place = row.merged_into or directory
        if old_place == target:
            return
        held = list(self._held(directory, old_place))
        merged_into = b"" if target == directory else target
        self._tree.put_inode(replace(row, merged_into=merged_into))
        for link in held:
            self._drop_claim(old_place, link)
            self._add_claim(target, link)

    def _held(self, directory: bytes, place: bytes) -> Iterable[LinkRow]:
        after = 0
        while children := self._tree.children(place, after, _CHILDREN_AT_ONCE):
            after = children[-1].cookie
            for child in children:
                row = self._filed.get(child.link) or self._tree.link(child.link)
                if row is not None and row.was_parent == directory:
                    yield row


def _same_place(one: LinkRow, other: LinkRow) -> bool:
    return (one.was_parent, one.name, one.inode) == (other.was_parent, other.name, other.inode)
