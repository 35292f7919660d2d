"""From the versions of a file to the map of its blocks: what an extents table must say.

Every `Content` names what it changed against its first base, and how much of that base it keeps.
So the content is found by walking from a version to its first base, to the first base of that,
and so on: of each block the newest version that has it counts, and a version that kept less hides
what its bases had behind the cut. (A cut through the middle of a block is followed by that block
among the extents: whoever cuts there seals it anew.)
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from aggfs.model import BLOCK_BYTES, Content, Extent
from aggfs.sync.holes import Ranges

EXTENT_BLOCKS = 1 << 16

VersionOf = Callable[[bytes], Content | None]
MovedTo = Callable[[bytes, int], tuple[bytes, int] | None]


@dataclass(frozen=True, slots=True)
class BlockMap:
    """The blocks of one version. What no extent covers is a gap, except `unknown`: ranges of
    blocks that lie in a base which nobody has shown us."""

    extents: tuple[Extent, ...]
    unknown: tuple[tuple[int, int], ...]


def block_map(version: Content, version_of: VersionOf) -> BlockMap:
    """The map of a version, from it and its bases, which `version_of` gives (None: not known).

    An inline version has no map. Looks no further back than any block needs.
    """
    found: list[Extent] = []
    covered = Ranges()
    limit = blocks_of(version.size)
    seen = {version.version}
    content = version
    while not content.inline:
        for extent in content.extents:
            end = min(extent.block + extent.count, limit)
            found += _parts(extent, covered.missing(extent.block, end))
            covered.add(extent.block, end)
        limit = min(limit, blocks_of(content.kept_bytes))
        if not content.bases or covered.contains(0, limit):
            return _map(found)
        base = version_of(content.bases[0])
        if base is None or base.version in seen:
            return _map(found, covered.missing(0, limit))
        seen.add(base.version)
        limit = min(limit, blocks_of(base.size))
        content = base
    # Nothing builds on inline bytes: an edit makes all of them dirty (`Files`).
    unknown = covered.missing(0, limit) if content is not version else []
    return _map(found, unknown)


def folded(newer: Content, older: Content) -> Content | None:
    """`newer`, whose first base is `older`, resting on the first base of `older` instead: the same
    content without it. None where that cannot be said: a content rests on inline bytes."""
    if newer.inline:
        return _resting_on(newer, older.bases[:1], 0, ())
    covered = Ranges()
    for extent in newer.extents:
        covered.add(extent.block, extent.block + extent.count)
    limit = min(blocks_of(newer.size), blocks_of(newer.kept_bytes), blocks_of(older.size))
    if older.inline:
        if not covered.contains(0, limit):
            return None
        return _resting_on(newer, (), 0, newer.extents)
    below: list[Extent] = []
    for extent in older.extents:
        end = min(extent.block + extent.count, limit)
        below += _parts(extent, covered.missing(extent.block, end))
        covered.add(extent.block, end)
    kept_bytes = min(newer.kept_bytes, older.size, older.kept_bytes)
    return _resting_on(newer, older.bases[:1], kept_bytes, (*newer.extents, *below))


def _resting_on(
    content: Content, bases: tuple[bytes, ...], kept_bytes: int, extents: tuple[Extent, ...]
) -> Content:
    return replace(content, bases=bases, kept_bytes=kept_bytes if bases else 0, extents=extents)


def blocks_of(size_bytes: int) -> int:
    """How many blocks a size takes, the last one perhaps in part."""
    return -(-size_bytes // BLOCK_BYTES)


def _parts(extent: Extent, ranges: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """The parts of an extent that lie in these ranges of blocks."""
    for start, end in ranges:
        yield Extent(start, extent.sid, extent.index + start - extent.block, end - start)


def _map(found: list[Extent], unknown: Iterable[tuple[int, int]] = ()) -> BlockMap:
    return BlockMap(tuple(sorted(found, key=lambda extent: extent.block)), tuple(unknown))


def follow_moves(extents: Iterable[Extent], moved_to: MovedTo) -> Iterator[Extent]:
    """The extents as relocate entries have moved them: `moved_to(sid, index)` is where that block
    lies now, None where it was. Moves may follow moves."""
    for extent in extents:
        run: Extent | None = None
        for step in range(extent.count):
            sid, index = _last_place(extent.sid, extent.index + step, moved_to)
            if run is not None and (sid, index) == (run.sid, run.index + run.count):
                run = Extent(run.block, sid, run.index, run.count + 1)
                continue
            if run is not None:
                yield run
            run = Extent(extent.block + step, sid, index, 1)
        if run is not None:
            yield run


def _last_place(sid: bytes, index: int, moved_to: MovedTo) -> tuple[bytes, int]:
    seen = {(sid, index)}
    while (place := moved_to(sid, index)) is not None and place not in seen:
        seen.add(place)
        sid, index = place
    return sid, index


def placeholders(unknown: Iterable[tuple[int, int]]) -> Iterator[Extent]:
    """Extents of a stripe that does not exist, for blocks that are not known: reading them must
    fail, not give zeros."""
    for start, end in unknown:
        for first in range(start, end, EXTENT_BLOCKS):
            yield Extent(first, NO_STRIPE, 0, min(EXTENT_BLOCKS, end - first))


NO_STRIPE = bytes(24)
