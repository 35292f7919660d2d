"""What is still referred to: everything that the local database knows is wanted.

Roots are the content maps (of files with a name, and of unlinked ones that are still open), all
versions that have a row, superseded or not, in the trash or not (who keeps history removes the
rows of what need not be kept), and the entries in the outbox. Stripes that are staged are left
alone as well: the caller knows them.
"""

from collections.abc import Callable, Generator

from aggfs.cache.blocks import Blocks
from aggfs.cache.outbox import Outbox
from aggfs.cache.table import Tables
from aggfs.cache.tree import LmdbTree
from aggfs.sync.collection import stripes_of_unpublished, stripes_of_version

ROWS_AT_ONCE = 64
STRIPES_AT_ONCE = 1000


def unreferenced_steps(tables: Tables) -> Generator[None, None, set[bytes]]:
    """The announced stripes to which nothing in these tables refers. A step is some rows."""
    wanted = yield from referenced_steps(tables)
    found: set[bytes] = set()
    blocks, after = Blocks(tables), None
    while page := blocks.stripes(after, limit=STRIPES_AT_ONCE):
        found.update(one.row.sid for one in page if one.announced and one.row.sid not in wanted)
        after = page[-1].row.sid
        yield
    return found


def referenced_steps(tables: Tables) -> Generator[None, None, set[bytes]]:
    """Every stripe that something in these tables refers to."""
    wanted: set[bytes] = set()
    for count, (_, extent) in enumerate(Blocks(tables).all_extents()):
        wanted.add(extent.sid)
        if count % ROWS_AT_ONCE == 0:
            yield
    tree = LmdbTree(tables)
    moved_to = moves_of(tree)
    for _, _, version in tree.all_versions():
        if version.content is not None:
            for count, sid in enumerate(stripes_of_version(version.content, moved_to)):
                wanted.add(sid)
                if count % ROWS_AT_ONCE == 0:
                    yield
    wanted.update(stripes_of_unpublished(row.entry for _, row in Outbox(tables).rows()))
    return wanted


def moves_of(tree: LmdbTree) -> Callable[[bytes, int], tuple[bytes, int] | None] | None:
    """Where blocks were moved to; None when no block ever was."""
    if next(tree.all_relocations(), None) is None:
        return None

    def moved_to(sid: bytes, index: int) -> tuple[bytes, int] | None:
        row = tree.relocation(sid, index)
        return None if row is None else (row.sid, row.index)

    return moved_to
