"""Which blocks of stripes are live: what content maps, versions and waiting entries refer to."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

from aggfs.cache.blocks import Blocks
from aggfs.cache.outbox import Outbox
from aggfs.cache.table import Tables
from aggfs.cache.tree import LmdbTree
from aggfs.engine.care.roots import moves_of
from aggfs.model import Content, Extent
from aggfs.sync.versions import MovedTo, follow_moves

ROWS_AT_ONCE = 64


@dataclass(slots=True)
class Live:
    """Bit i of `blocks[sid]`: block i of the stripe is referred to. `inodes[sid]` are the files
    whose content map does so."""

    blocks: dict[bytes, int] = field(default_factory=dict)
    inodes: dict[bytes, set[bytes]] = field(default_factory=dict)

    def add(self, extents: Iterable[Extent]) -> None:
        """These runs are referred to, as far as anybody asked for their stripes."""
        for extent in extents:
            if extent.sid in self.blocks:
                self.blocks[extent.sid] |= ((1 << extent.count) - 1) << extent.index


def live_steps(tables: Tables, sids: Iterable[bytes]) -> Generator[None, None, Live]:
    """The live blocks of these stripes. A step is some rows."""
    live = Live(dict.fromkeys(sids, 0))
    for count, (inode, extent) in enumerate(Blocks(tables).all_extents()):
        if extent.sid in live.blocks:
            live.add((extent,))
            live.inodes.setdefault(extent.sid, set()).add(inode)
        if count % ROWS_AT_ONCE == 0:
            yield
    tree = LmdbTree(tables)
    moved_to = moves_of(tree)
    for _, _, version in tree.all_versions():
        if version.content is not None:
            for count, extent in enumerate(_where(version.content, moved_to)):
                live.add((extent,))
                if count % ROWS_AT_ONCE == 0:
                    yield
    for _, row in Outbox(tables).rows():
        if isinstance(row.entry, Content):
            live.add(row.entry.extents)
    return live


def _where(content: Content, moved_to: MovedTo | None) -> Iterable[Extent]:
    return content.extents if moved_to is None else follow_moves(content.extents, moved_to)
