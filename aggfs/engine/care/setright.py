"""Rows of the local state that follow from others, made anew from these.

That is what `aggfs check --repair` does to a state that nobody has open. Rows that hold what is
nowhere else are never touched.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.tree import LmdbTree
from aggfs.engine.care.consistency import Finding, map_of
from aggfs.engine.care.roots import moves_of
from aggfs.model import ROOT, InodeRow, VersionRow
from aggfs.sync.merge import ranked_heads, shown_size
from aggfs.sync.view import settle

ROWS_AT_ONCE = 1000
ACCOUNT_BYTES, SID_BYTES = 8, 24


def set_right(database: Database, findings: Iterable[Finding]) -> None:
    """Make anew what the findings name, in one transaction of the caller."""
    known = list(findings)
    if any(finding.key == b"tree" for finding in known):
        _set_names_right(database)
    for finding in known:
        if finding.room == "content" and finding.key:
            _set_map_right(database, finding.key)
        elif finding.room == "stripes" and finding.key:
            _set_lists_right(database, finding.key)
        elif finding.room == "ledger":
            account, used = finding.key[:ACCOUNT_BYTES], finding.key[ACCOUNT_BYTES:]
            database.table("ledger").put(account, used)


# --- names ----------------------------------------------------------------------------------------


def _set_names_right(database: Database) -> None:
    """Everything derived goes, and is filed again from the links, as a recovery does it."""
    for name in ("claims", "children"):
        table = database.table(name)
        for key, _ in table.scan(b""):
            table.delete(key)
    tree = LmdbTree(database)
    numbers = database.table("numbers")
    for row in list(tree.all_inodes()):
        numbers.put(row.number.to_bytes(8), row.inode)
        tree.put_inode(_bare(tree, row))
    links = list(tree.all_links())
    for link in links:
        tree.put_link(replace(link, shown=False))
    settle(tree, dict.fromkeys(link.link for link in links), ())


def _bare(tree: LmdbTree, row: InodeRow) -> InodeRow:
    """An inode of whose links nothing is known yet; its versions are in order."""
    versions = dict(tree.versions(row.inode))
    replaced = {base for one in versions.values() if one.content for base in one.content.bases}
    heads = set()
    for version, one in versions.items():
        if version in replaced and not one.superseded:
            tree.put_version(row.inode, version, VersionRow(one.when, True, one.content))
        elif one.content is not None and not one.superseded:
            heads.add(version)
    row = replace(
        row,
        nlink=int(row.inode == ROOT),
        children=0,
        subdirectories=0,
        placed=0,
        filled=0,
        clashes=0,
        merged_into=b"",
        heads=ranked_heads(tree, row.inode, heads),
    )
    return row if row.unflushed or not row.heads else replace(row, size=shown_size(tree, row))


# --- content and stripes --------------------------------------------------------------------------


def _set_map_right(database: Database, inode: bytes) -> None:
    """The content map of the version that is shown; that of an edited file is left, its edits
    rest on it."""
    tree, blocks = LmdbTree(database), Blocks(database)
    if database.table("edits").get(inode) is not None:
        return
    blocks.clear(inode, 0, 1 << 62)
    row = tree.inode(inode)
    if row is None or (row.nlink == 0 and database.table("orphans").get(inode) is None):
        return
    blocks.lay(inode, list(map_of(tree, row, moves_of(tree))))


def _set_lists_right(database: Database, key: bytes) -> None:
    """A stripe is on the lists that its row says; how many rows there are."""
    blocks = Blocks(database)
    if len(key) == SID_BYTES:
        state = blocks.stripe(key)
        if state is not None:
            blocks.put_stripe(state)
        else:
            for name in ("unfinished", "moving"):
                database.table(name).delete(key)
        return
    count, after = 0, None
    while page := blocks.stripes(after, limit=ROWS_AT_ONCE):
        count += len(page)
        after = page[-1].row.sid
    database.table("totals").put(b"stripes", count.to_bytes(8))
