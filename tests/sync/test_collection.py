"""When a stripe may die, decided."""

from hypothesis import given
from hypothesis import strategies as st

from aggfs.model import Content, Extent, Member, Relocate
from aggfs.sync.collection import (
    DyingRow,
    Phase,
    Step,
    active,
    next_step,
    owner_of,
    stripes_of_unpublished,
    stripes_of_version,
)

OURS, THEIRS, THIRD = b"a" * 8, b"b" * 8, b"c" * 8
ONE, OTHER = OURS + b"1" * 16, THEIRS + b"2" * 16


def member(device: bytes, lapsed_after: int | None = None) -> Member:
    return Member(device, "name", bytes(32), bytes(32), lapsed_after)


def members(*known: Member) -> dict[bytes, Member]:
    return {one.device: one for one in known}


@given(
    phase=st.sampled_from(Phase),
    waited=st.integers(-10, 500),
    referenced=st.booleans(),
    published=st.booleans(),
    silent=st.lists(st.just(THEIRS), max_size=1),
)
def test_marks_go_only_when_all_is_said_and_the_grace_is_over(
    phase: Phase, waited: int, referenced: bool, published: bool, silent: list[bytes]
) -> None:
    step = next_step(
        DyingRow(phase, 1000),
        now=1000 + waited,
        grace_seconds=100,
        referenced=referenced,
        published=published,
        silent=silent,
    )
    if step is Step.UNMARK:
        assert phase == Phase.WAITING
        assert waited >= 100
        assert not referenced
        assert not silent
    if step is Step.DELETE:
        assert phase == Phase.DELETING
    if referenced and phase != Phase.DELETING:
        assert step is Step.REVIVE
    if step is Step.BEGIN_GRACE:
        assert published


def test_a_stripe_is_owned_by_who_sealed_it_or_the_first_after_him() -> None:
    assert owner_of(ONE, members(member(OURS), member(THEIRS))) == OURS
    assert owner_of(OTHER, members(member(OURS), member(THEIRS))) == THEIRS
    lapsed = members(member(THIRD), member(OURS), member(THEIRS, lapsed_after=7))
    assert owner_of(OTHER, lapsed) == OURS
    assert active(lapsed) == [THIRD, OURS]
    assert owner_of(OTHER, members(member(OURS))) is None
    assert owner_of(OTHER, members(member(THEIRS, lapsed_after=0))) is None


def test_a_version_refers_to_where_its_blocks_lie_now() -> None:
    content = Content(bytes(16), bytes(16), (), 1, 1, (Extent(0, ONE, 0, 2),), b"", 0, 0)
    assert set(stripes_of_version(content, None)) == {ONE}
    moved = {(ONE, 0): (OTHER, 5), (ONE, 1): (OTHER, 9)}
    found = set(stripes_of_version(content, lambda sid, index: moved.get((sid, index))))
    assert found == {OTHER}
    del moved[ONE, 1]
    found = set(stripes_of_version(content, lambda sid, index: moved.get((sid, index))))
    assert found == {ONE, OTHER}


def test_until_a_move_is_known_both_places_are_referred_to() -> None:
    entries = [Relocate(ONE, 0, 1, OTHER, 0)]
    assert set(stripes_of_unpublished(entries)) == {ONE, OTHER}
