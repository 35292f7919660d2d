"""Content maps compared run by run, as if it were block by block."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from aggfs.engine.care.consistency import joined, lies_within
from aggfs.model import Extent

Places = dict[int, tuple[bytes, int]]
SIDS = st.sampled_from([bytes(24), bytes([1]) * 24])


@st.composite
def maps(draw: st.DrawFn) -> list[Extent]:
    """Runs that do not overlap, in any order; many of them are neighbours."""
    found, block, index = [], draw(st.integers(0, 2)), 0
    for _ in range(draw(st.integers(0, 6))):
        count, sid = draw(st.integers(1, 4)), draw(SIDS)
        index = draw(st.sampled_from([index, 0]))
        found.append(Extent(block, sid, index, count))
        block += count + draw(st.integers(0, 1))
        index += count
    return draw(st.permutations(found))


def by_block(extents: Iterable[Extent]) -> Places:
    return {
        extent.block + step: (extent.sid, extent.index + step)
        for extent in extents
        for step in range(extent.count)
    }


@given(maps(), maps())
def test_joined_maps_are_the_same_when_every_block_is(one: list[Extent], other: list[Extent]):
    assert by_block(joined(one)) == by_block(one)
    assert (joined(one) == joined(other)) == (by_block(one) == by_block(other))


@given(maps(), maps(), st.data())
def test_a_map_lies_within_another_when_every_block_does(
    whole: list[Extent], other: list[Extent], data: st.DataObject
):
    kept = data.draw(st.lists(st.sampled_from(whole), unique=True)) if whole else []
    part = [Extent(one.block, one.sid, one.index, 1) for one in kept]
    assert lies_within(joined(part), joined(whole))
    found = lies_within(joined(other), joined(whole))
    assert found == (by_block(other).items() <= by_block(whole).items())
