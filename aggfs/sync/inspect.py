"""Is the tree what its facts make of it? Every derived row compared with what it follows from.

The fold keeps counts, claims and children up to date step by step (`aggfs.sync.view`); here each
is counted again from the facts, one row at a time, with no more memory than the directories need.
"""

from collections.abc import Generator, Iterator
from stat import S_ISDIR, S_ISREG

from aggfs.model import NOWHERE, ROOT, InodeRow, LinkRow
from aggfs.sync.names import CLAIM_BYTES, split_claims
from aggfs.sync.registers import is_created
from aggfs.sync.tree import Tree
from aggfs.sync.view import place_of

CHILDREN_AT_ONCE = 512


def inspect_tree(tree: Tree) -> Iterator[str | None]:
    """What is wrong, in words; None where a while has passed and nothing was."""
    for row in tree.all_inodes():
        yield None
        yield from _inode_faults(tree, row)
    yield from _above_faults(tree)
    for link in tree.all_links():
        yield None
        yield from _link_faults(tree, link)


def _name(row: InodeRow) -> str:
    return f"inode {row.inode.hex()}"


# --- inodes ---------------------------------------------------------------------------------------


def _inode_faults(tree: Tree, row: InodeRow) -> Iterator[str]:
    links = tree.links_of(row.inode)
    shown = sum(link.shown for link in links) + (row.inode == ROOT)
    placed = sum(link.parent != NOWHERE for link in links)
    yield from _differs(row, "names", row.nlink, shown)
    yield from _differs(row, "placed links", row.placed, placed)
    if row.inode == ROOT or S_ISDIR(row.mode) or row.children or row.filled:
        yield from _directory_faults(tree, row)
    if row.heads or S_ISREG(row.mode):
        yield from _content_faults(tree, row)


def _differs(row: InodeRow, what: str, known: object, counted: object) -> Iterator[str]:
    if known != counted:
        yield f"{_name(row)}: {what}: the row says {known}, there are {counted}"


def _directory_faults(tree: Tree, row: InodeRow) -> Iterator[str]:
    children = directories = filled = clashes = 0
    names: dict[bytes, None] = {}
    for link in _filed(tree, row.inode):
        children += 1
        directories += link.is_directory
        names[link.name] = None
    for name in names:
        clashes += max(0, len(tree.claims(row.inode, name)) // CLAIM_BYTES - 1)
    place = place_of(tree, row.inode)
    filled = sum(link.was_parent == row.inode for link in _filed(tree, place))
    yield from _differs(row, "entries", row.children, children)
    yield from _differs(row, "directories in it", row.subdirectories, directories)
    yield from _differs(row, "entries of its own", row.filled, filled)
    yield from _differs(row, "clashing names", row.clashes, clashes)


def _filed(tree: Tree, place: bytes) -> Iterator[LinkRow]:
    """The links that are filed in a directory."""
    after = 0
    while children := tree.children(place, after, CHILDREN_AT_ONCE):
        after = children[-1].cookie
        for child in children:
            link = tree.link(child.link)
            if link is not None:
                yield link


def _content_faults(tree: Tree, row: InodeRow) -> Iterator[str]:
    versions = dict(tree.versions(row.inode))
    heads = {v for v, one in versions.items() if one.content is not None and not one.superseded}
    yield from _differs(row, "shown versions", sorted(row.heads), sorted(heads))
    for version, one in versions.items():
        for base in one.content.bases if one.content is not None else ():
            known = versions.get(base)
            if known is not None and not known.superseded:
                text = f"version {version.hex()} replaces one that is not marked so"
                yield f"{_name(row)}: {text}"
    newest = versions.get(row.heads[0]) if row.heads else None
    if newest is not None and newest.content is not None and not row.unflushed:
        yield from _differs(row, "bytes", row.size, newest.content.size)


# --- links ----------------------------------------------------------------------------------------


def _link_faults(tree: Tree, link: LinkRow) -> Iterator[str]:
    name = f"link {link.link.hex()}"
    inode = tree.inode(link.inode)
    if inode is None:
        yield f"{name}: its inode {link.inode.hex()} has no row"
        return
    if link.shown != _is_shown(tree, link, inode):
        yield f"{name}: it is {'shown' if link.shown else 'hidden'}, and should not be"
        return
    place = place_of(tree, link.was_parent)
    claims = split_claims(tree.claims(place, link.name)) if link.was_parent else []
    if link.shown != ((link.link, link.inode) in claims):
        yield f"{name}: its name {link.name!r} {'is not' if link.shown else 'is still'} filed"
    child = next(iter(tree.children(place, link.cookie - 1, 1)), None) if link.was_parent else None
    listed = child is not None and (child.cookie, child.link) == (link.cookie, link.link)
    if link.shown != listed:
        yield f"{name}: {link.name!r} {'is not' if link.shown else 'is still'} in its directory"


def _is_shown(tree: Tree, link: LinkRow, inode: InodeRow) -> bool:
    if not is_created(inode) or link.was_parent == NOWHERE:
        return False
    if S_ISDIR(inode.mode) != link.is_directory:
        return False
    if link.parent != NOWHERE:
        return True
    if link.is_directory:
        return inode.filled > 0
    return not inode.placed and bool(inode.heads) and _keeper(tree, inode) == link.link


def _keeper(tree: Tree, inode: InodeRow) -> bytes | None:
    """The removed link under which an edited file lives on."""
    links = [row for row in tree.links_of(inode.inode) if row.was_parent != NOWHERE]
    observed = {head for row in links for head in row.observed}
    if not links or observed.issuperset(inode.heads):
        return None
    return max(links, key=lambda row: (row.when, row.link)).link


def _above_faults(tree: Tree) -> Generator[str | None, None, None]:
    """Every directory leads up to the root."""
    sound: set[bytes] = {ROOT, NOWHERE}
    for row in tree.all_links():
        yield None
        above: dict[bytes, None] = {}
        link: LinkRow | None = row if row.is_directory else None
        while link is not None and link.link not in sound:
            if link.link in above:
                yield f"directory {link.link.hex()} lies inside itself"
                break
            above[link.link] = None
            link = tree.link(link.was_parent)
        sound.update(above)
