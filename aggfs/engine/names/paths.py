"""Looking at the tree as POSIX sees it: numbers, names, directories, attributes.

Numbers are FUSE inode numbers. A directory that is merged into another one of the same path is
seen as that one, also by who still holds its own number.
"""

from collections.abc import Iterator
from stat import S_ISDIR

from aggfs.cache.tree import LmdbTree
from aggfs.errors import Damaged, NameTooLong, NoAttribute, NoEntry, NotADirectory
from aggfs.model import NAME_BYTES, ROOT, Content, InodeRow, LinkRow
from aggfs.sync.names import CLAIM_BYTES, Shown, find, shown_names
from aggfs.sync.view import place_of

READDIR_ROWS = 256
DEPTH_LIMIT = 100_000
SELF_COOKIE, PARENT_COOKIE = 1, 2


class Paths:
    """What can be seen of a volume's tree. Nothing here changes it."""

    def __init__(self, tree: LmdbTree) -> None:
        self._tree = tree

    # --- inodes -------------------------------------------------------------------------------

    def by_number(self, number: int) -> InodeRow:
        """The inode's row, also while it has no name. Raises `NoEntry`."""
        inode = self._tree.inode_of_number(number)
        row = None if inode is None else self._tree.inode(inode)
        if row is None:
            raise NoEntry(f"there is no inode {number}")
        return row

    def has_number(self, number: int) -> bool:
        """Whether there is such an inode."""
        return self._tree.inode_of_number(number) is not None

    def by_inode(self, inode: bytes) -> InodeRow:
        """As `by_number`, by inode id. Raises `NoEntry`."""
        row = self._tree.inode(inode)
        if row is None:
            raise NoEntry("there is no such inode")
        return row

    def content_of(self, inode: bytes) -> Content | None:
        """The entry of the content version that is shown."""
        row = self._tree.inode(inode)
        if row is None or not row.heads:
            return None
        version = self._tree.version(inode, row.heads[0])
        return None if version is None else version.content

    @property
    def inode_count(self) -> int:
        """About how many inodes there are."""
        return self._tree.numbers_given

    # --- names --------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        """The inode under a name. Raises `NoEntry`, `NotADirectory`, `NameTooLong`."""
        directory = self._directory(parent)
        if name == b".":
            return directory
        if name == b"..":
            return self._parent_of(directory)
        return self.by_inode(self._find(directory, name).inode)

    def _directory(self, number: int) -> InodeRow:
        """The directory that is seen under a number."""
        row = self.by_number(number)
        if not S_ISDIR(row.mode):
            raise NotADirectory("not a directory")
        return self.by_inode(row.merged_into) if row.merged_into else row

    def _parent_of(self, row: InodeRow) -> InodeRow:
        link = self._shown_link(row.inode)
        return row if link is None else self.by_inode(place_of(self._tree, link.was_parent))

    def _find(self, directory: InodeRow, name: bytes) -> Shown:
        check_length(name)
        shown = find(self._tree, directory.inode, name)
        if shown is None:
            raise NoEntry("no such file or directory")
        return shown

    def _shown_link(self, inode: bytes) -> LinkRow | None:
        """One of the links under which an inode is seen."""
        if inode == ROOT:
            return None
        return next((link for link in self._tree.links_of(inode) if link.shown), None)

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        """(name, row, cookie) of every entry with a cookie above `after_cookie`, in order. Each
        entry that is there the whole time comes exactly once, whatever comes and goes."""
        directory = self._directory(number)
        if after_cookie < SELF_COOKIE:
            yield b".", directory, SELF_COOKIE
        if after_cookie < PARENT_COOKIE:
            yield b"..", self._parent_of(directory), PARENT_COOKIE
        after = max(after_cookie, PARENT_COOKIE)
        while children := self._tree.children(directory.inode, after, READDIR_ROWS):
            after = children[-1].cookie
            now = self._tree.inode(directory.inode)
            plain = now is None or not now.clashes
            for child in children:
                shown = plain or self._shown_name(directory.inode, child.name, child.link)
                row = self._tree.inode(child.inode)
                if shown and row is not None:
                    yield child.name if shown is True else shown, row, child.cookie

    def _shown_name(self, place: bytes, name: bytes, link: bytes) -> bytes | None:
        """How a link is seen that claims a name; None when another directory stands for it."""
        claims = self._tree.claims(place, name)
        if len(claims) == CLAIM_BYTES:
            return name
        shown = shown_names(self._tree, place, name, claims)
        return next((one.name for one in shown if one.link == link), None)

    # --- paths --------------------------------------------------------------------------------

    def place_of(self, number: int) -> tuple[bytes, bytes]:
        """(parent inode, name) under which an inode is seen; (ROOT, b"") for the root and for
        what has no name left."""
        row = self.by_number(number)
        link = self._shown_link(row.merged_into or row.inode)
        if link is None:
            return ROOT, b""
        place = place_of(self._tree, link.was_parent)
        return place, self._shown_name(place, link.name, link.link) or link.name

    def path_of(self, number: int) -> bytes:
        """One absolute path of an inode. Raises `NoEntry` when it has no name left."""
        row = self.by_number(number)
        parts: list[bytes] = []
        while row.inode != ROOT:
            if not row.nlink or len(parts) > DEPTH_LIMIT:
                raise NoEntry("this inode has no name")
            parent, name = self.place_of(row.number)
            parts.append(name)
            row = self.by_inode(parent)
        return b"/" + b"/".join(reversed(parts))

    def is_inside(self, directory: InodeRow, ancestor: InodeRow) -> bool:
        """Whether a directory, as it is seen, is another one or lies below it."""
        for _ in range(DEPTH_LIMIT):
            if directory.inode == ancestor.inode:
                return True
            above = self._parent_of(directory)
            if above is directory:
                return False
            directory = above
        raise Damaged("a directory lies inside itself")

    def resolve(self, path: bytes) -> InodeRow:
        """The inode at an absolute path; symbolic links are not followed."""
        row = self.by_inode(ROOT)
        for name in path.split(b"/"):
            if name:
                row = self.lookup(row.number, name)
        return row

    def numbers_under(self, number: int) -> Iterator[int]:
        """An inode and everything below it; what comes or goes on the way may be seen or not.
        Raises `NoEntry`, at the first only."""
        rows: Iterator[InodeRow] = iter((self.by_number(number),))
        levels = [rows]
        while levels:
            try:
                row = next(levels[-1], None)
            except NoEntry:  # a directory that has just gone
                row = None
            if row is None:
                levels.pop()
                continue
            yield row.number
            if S_ISDIR(row.mode):
                levels.append(one for _, one, _ in self.readdir(row.number, PARENT_COOKIE))

    # --- extended attributes ------------------------------------------------------------------

    def get_xattr(self, number: int, name: bytes) -> bytes:
        """Raises `NoAttribute`."""
        row = self._tree.xattr(self.by_number(number).inode, name)
        if row is None or row.value is None:
            raise NoAttribute("no such attribute")
        return row.value

    def nearest_xattr(self, number: int, name: bytes) -> bytes | None:
        """An attribute of an inode, else of the nearest directory above it that has it."""
        row = self.by_number(number)
        for _ in range(DEPTH_LIMIT):
            found = self._tree.xattr(row.inode, name)
            if found is not None and found.value is not None:
                return found.value
            above = self._parent_of(row)
            if above is row:
                break
            row = above
        return None

    def list_xattrs(self, number: int) -> list[bytes]:
        """Names, in order."""
        found = self._tree.xattrs(self.by_number(number).inode)
        return [name for name, row in found if row.value is not None]


def check_length(name: bytes) -> None:
    """Raises `NameTooLong`."""
    if len(name) > NAME_BYTES:
        raise NameTooLong(f"a name has at most {NAME_BYTES} bytes")
