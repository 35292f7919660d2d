"""The fold once more, as plainly as it can be said, and dumps by which trees are compared."""

from dataclasses import dataclass, field
from stat import S_ISDIR

from msgspec.structs import replace

from aggfs.model import NEVER, NOWHERE, ROOT, Content, Create, Place
from aggfs.sync.clock import pack
from aggfs.sync.registers import is_created
from aggfs.sync.tree import Tree


@dataclass
class PlainLink:
    link: bytes
    inode: bytes
    parent: bytes
    name: bytes
    was_parent: bytes
    when: bytes
    observed: tuple[bytes, ...]


@dataclass
class PlainFold:
    """Where links are and what is shown, from a set of (stamp, entry), by definition."""

    entries: dict
    links: dict[bytes, PlainLink] = field(default_factory=dict)
    types: dict[bytes, int] = field(default_factory=dict)
    heads: dict[bytes, set[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stamp in sorted(self.entries):
            self._apply(pack(stamp), self.entries[stamp])
        contents = [entry for entry in self.entries.values() if isinstance(entry, Content)]
        named = {(entry.inode, base) for entry in contents for base in entry.bases}
        for entry in contents:
            if (entry.inode, entry.version) not in named:
                self.heads.setdefault(entry.inode, set()).add(entry.version)

    def _apply(self, when, entry) -> None:
        if isinstance(entry, Create):
            self.types[entry.inode] = entry.mode
            self._move(when, (entry.placement,), ())
        elif isinstance(entry, Place):
            self._move(when, entry.placements, entry.observed)

    def _move(self, when, placements, observed) -> None:
        saved = {p.link: self.links.get(p.link) for p in placements}
        for p in placements:
            row = self.links.get(p.link)
            wrong = row is not None and row.inode != p.inode
            if wrong or (p.link == p.inode and p.parent and self._is_inside(p.parent, p.link)):
                for link, old in saved.items():
                    self.links[link] = old
                    if old is None:
                        del self.links[link]
                return
            if p.parent != NOWHERE:
                new = PlainLink(p.link, p.inode, p.parent, p.name, p.parent, when, ())
            else:
                name = row.name if row else p.name
                was = row.was_parent if row else NOWHERE
                new = PlainLink(p.link, p.inode, NOWHERE, name, was, when, observed)
            self.links[p.link] = new

    def _is_inside(self, directory, ancestor) -> bool:
        while directory != ancestor and directory in self.links:
            directory = self.links[directory].was_parent
        return directory == ancestor

    # --- what is shown --------------------------------------------------------------------------

    def shown(self) -> set[bytes]:
        candidates = {
            row.link: row
            for row in self.links.values()
            if row.was_parent != NOWHERE
            and row.inode in self.types
            and S_ISDIR(self.types[row.inode]) == (row.link == row.inode)
        }
        shown = {link for link, row in candidates.items() if row.parent != NOWHERE}
        shown |= {link for link in candidates if self._keeps(candidates[link])}
        while True:
            filled = {self.links[link].was_parent for link in shown}
            more = {link for link in candidates if link in filled} - shown
            if not more:
                return shown
            shown |= more

    def _keeps(self, row) -> bool:
        heads = self.heads.get(row.inode, set())
        links = [other for other in self.links.values() if other.inode == row.inode]
        if not heads or any(other.parent != NOWHERE for other in links):
            return False
        links = [other for other in links if other.was_parent != NOWHERE]
        observed = {head for other in links for head in other.observed}
        last = max(links, key=lambda other: (other.when, other.link), default=None)
        return last is row and not heads <= observed

    def directories(self, shown) -> dict[bytes, bytes]:
        """Each shown directory -> the one that stands for its path."""
        groups: dict[tuple, list] = {}
        for link in shown:
            row = self.links[link]
            if row.link == row.inode:
                groups.setdefault(self._path(row, shown), []).append((row.when, row.link))
        return {link: min(group)[1] for group in groups.values() for _, link in group}

    def _path(self, row, shown) -> tuple:
        names = [row.name]
        while row.was_parent in shown:
            row = self.links[row.was_parent]
            names.append(row.name)
        return (row.was_parent, *reversed(names))

    def claims(self) -> dict[tuple[bytes, bytes], list[bytes]]:
        shown = self.shown()
        standing = self.directories(shown)
        claims: dict[tuple[bytes, bytes], list[bytes]] = {}
        for link in shown:
            row = self.links[link]
            place = standing.get(row.was_parent, row.was_parent)
            claims.setdefault((place, row.name), []).append(link)
        return {key: sorted(links) for key, links in claims.items()}


def facts(tree: Tree) -> dict:
    """Everything in a tree that all devices must agree on."""
    inodes = {}
    for row in tree.all_inodes():
        inodes[row.inode] = replace(row, number=0, generation=0, unflushed=False)
    links = {row.link: replace(row, cookie=0) for row in tree.all_links()}
    return {
        "inodes": inodes,
        "links": links,
        "claims": claims_of(tree),
        "xattrs": list(tree.all_xattrs()),
        "versions": list(tree.all_versions()),
        "relocations": list(tree.all_relocations()),
        "control": list(tree.all_control()),
        "moves": [(when, row.placements) for when, row in tree.moves_from(NEVER)],
    }


def claims_of(tree: Tree) -> dict[tuple[bytes, bytes], list[bytes]]:
    """The derived tables, checked against each other."""
    found: dict[tuple[bytes, bytes], list[bytes]] = {}
    for place in [ROOT, *(row.inode for row in tree.all_inodes() if row.inode != ROOT)]:
        children = tree.children(place, 0, 1 << 30)
        for child in children:
            found.setdefault((place, child.name), []).append(child.link)
        row = tree.inode(place)
        assert row is not None
        assert row.children == len(children)
        assert row.subdirectories == sum(child.link == child.inode for child in children)
        assert row.clashes == len(children) - len({child.name for child in children})
    for (place, name), links in found.items():
        claims = tree.claims(place, name)
        assert sorted(claims[at : at + 16] for at in range(0, len(claims), 32)) == sorted(links)
    return {key: sorted(links) for key, links in found.items()}


def assert_is_the_fold(tree: Tree, entries: dict) -> None:
    """The tree says what the plain fold of these entries says."""
    plain = PlainFold(entries)
    shown = plain.shown()
    links = {row.link: row for row in tree.all_links()}
    assert {link: row.parent for link, row in links.items()} == {
        link: row.parent for link, row in plain.links.items()
    }
    assert {link for link, row in links.items() if row.shown} == shown
    assert claims_of(tree) == plain.claims()
    standing = plain.directories(shown)
    for row in tree.all_inodes():
        assert set(row.heads) == plain.heads.get(row.inode, set())
        stands = standing.get(row.inode, row.inode)
        assert row.merged_into == (b"" if stands == row.inode else stands)
        if row.inode != ROOT:
            assert is_created(row) == (row.inode in plain.types)
            assert row.nlink == sum(plain.links[link].inode == row.inode for link in shown)
