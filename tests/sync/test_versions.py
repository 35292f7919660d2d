"""The map of a file's blocks, judged by the plainest model: a dictionary of blocks."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.model import BLOCK_BYTES, Content, Extent
from aggfs.sync.versions import (
    EXTENT_BLOCKS,
    NO_STRIPE,
    block_map,
    blocks_of,
    folded,
    follow_moves,
    placeholders,
)

INODE = bytes(16)
LIMIT = 12

extents = st.builds(
    Extent,
    block=st.integers(0, LIMIT),
    sid=st.binary(min_size=1, max_size=1).map(lambda one: one * 24),
    index=st.integers(0, 9),
    count=st.integers(1, 5),
)


def name(number: int) -> bytes:
    return number.to_bytes(16)


@st.composite
def chains(draw) -> list[Content]:
    """Versions of one file, each resting on the one before; some are inline."""
    chain: list[Content] = []
    for number in range(draw(st.integers(1, 7))):
        inline = draw(st.sampled_from((b"", b"", b"", b"whole")))
        size = len(inline) or draw(st.integers(0, LIMIT * BLOCK_BYTES))
        before = chain[-1].size if chain and not chain[-1].inline else 0
        kept = draw(st.integers(0, min(before, size)))
        bases = (name(number - 1),) if chain else ()
        laid = () if inline else tuple(draw(st.lists(extents, max_size=4)))
        chain.append(Content(INODE, name(number), bases, size, kept, laid, inline, 0, 0))
    return chain


def plain_map(chain: list[Content]) -> dict[int, tuple[bytes, int]]:
    blocks: dict[int, tuple[bytes, int]] = {}
    for content in chain:
        kept = 0 if content.inline else blocks_of(content.kept_bytes)
        blocks = {block: place for block, place in blocks.items() if block < kept}
        mine: dict[int, tuple[bytes, int]] = {}
        for extent in content.extents:
            for step in range(extent.count):
                mine.setdefault(extent.block + step, (extent.sid, extent.index + step))
        blocks |= mine
        blocks = {b: place for b, place in blocks.items() if b < blocks_of(content.size)}
    return blocks


def as_blocks(found) -> dict[int, tuple[bytes, int]]:
    blocks: dict[int, tuple[bytes, int]] = {}
    for extent in found:
        for step in range(extent.count):
            assert extent.block + step not in blocks, "extents overlap"
            blocks[extent.block + step] = (extent.sid, extent.index + step)
    return blocks


@given(chains())
def test_the_map_is_what_laying_version_over_version_gives(chain):
    known = {content.version: content for content in chain}
    found = block_map(chain[-1], known.get)
    assert as_blocks(found.extents) == plain_map(chain)
    assert [one.block for one in found.extents] == sorted(one.block for one in found.extents)
    assert found.unknown == ()


@given(chains(), st.integers(0, 6))
def test_blocks_of_a_base_that_is_missing_are_unknown_and_no_gap(chain, missing):
    known = {content.version: content for content in chain}
    known.pop(name(missing), None)
    found = block_map(chain[-1], known.get)
    whole = plain_map(chain)
    mine = as_blocks(found.extents)
    unknown = {block for start, end in found.unknown for block in range(start, end)}
    assert not unknown & mine.keys()
    assert all(mine[block] == whole[block] for block in mine)
    assert whole.keys() - mine.keys() <= unknown


@given(chains(), st.data())
def test_a_version_may_be_folded_into_those_that_rest_on_it(chain, data):
    known = {content.version: content for content in chain}
    maps = {one.version: block_map(one, known.get) for one in chain}
    for gone in data.draw(st.permutations(chain[:-1])):
        resting = [one for one in known.values() if one.bases[:1] == (gone.version,)]
        made = [folded(one, known[gone.version]) for one in resting]
        if all(made):
            known |= {one.version: one for one in made}
            del known[gone.version]
    for version, content in known.items():
        assert block_map(content, known.get).unknown == ()
        found = block_map(content, known.get).extents
        assert as_blocks(found) == as_blocks(maps[version].extents)


def test_versions_that_rest_on_each_other_are_unknown_and_end():
    one = Content(INODE, name(1), (name(2),), BLOCK_BYTES, BLOCK_BYTES, (), b"", 0, 0)
    two = Content(INODE, name(2), (name(1),), BLOCK_BYTES, BLOCK_BYTES, (), b"", 0, 0)
    known = {one.version: one, two.version: two}
    assert block_map(one, known.get).unknown == ((0, 1),)


def test_what_a_later_version_cut_off_does_not_come_back():
    sid = b"s" * 24
    laid = (Extent(0, sid, 0, 3),)
    first = Content(INODE, name(1), (), 3 * BLOCK_BYTES, 0, laid, b"", 0, 0)
    cut = Content(INODE, name(2), (name(1),), BLOCK_BYTES, BLOCK_BYTES, (), b"", 0, 0)
    longer = Content(INODE, name(3), (name(2),), 3 * BLOCK_BYTES, BLOCK_BYTES, (), b"", 0, 0)
    known = {one.version: one for one in (first, cut, longer)}
    assert block_map(longer, known.get).extents == (Extent(0, sid, 0, 1),)


places = st.tuples(st.sampled_from([b"a" * 24, b"b" * 24, b"c" * 24]), st.integers(0, 6))


@given(st.lists(extents, max_size=4), st.dictionaries(places, places, max_size=12))
def test_moved_blocks_are_found_where_the_last_move_put_them(runs, moves):
    def last(place):
        seen = {place}
        while place in moves and moves[place] not in seen:
            place = moves[place]
            seen.add(place)
        return place

    expected = [
        (run.block + step, *last((run.sid, run.index + step)))
        for run in runs
        for step in range(run.count)
    ]
    found = follow_moves(runs, lambda sid, index: moves.get((sid, index)))
    assert [
        (run.block + step, run.sid, run.index + step) for run in found for step in range(run.count)
    ] == expected


def test_unknown_blocks_get_extents_of_no_stripe():
    found = list(placeholders([(3, 5), (10, 10 + EXTENT_BLOCKS + 1)]))
    assert found == [
        Extent(3, NO_STRIPE, 0, 2),
        Extent(10, NO_STRIPE, 0, EXTENT_BLOCKS),
        Extent(10 + EXTENT_BLOCKS, NO_STRIPE, 0, 1),
    ]
