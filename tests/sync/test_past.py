"""The log of the past tells where each link was at any time, in whatever order entries came."""

from stat import S_IFREG

from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding.codec import at_once
from aggfs.model import NOWHERE, ROOT, Create, DeviceId, Place, Placement, Stamp
from aggfs.sync.clock import pack
from aggfs.sync.image import image_of, load_image
from aggfs.sync.merge import advance_cut, apply_batch
from aggfs.sync.tree import DictTree
from tests.support.devices import ACTIONS, all_entries, simulate

numbers = st.integers(0, 40)
step = st.tuples(st.integers(0, 2), st.integers(0, len(ACTIONS) + 3), numbers, numbers)
histories = st.lists(step, min_size=5, max_size=40)
skews = st.tuples(*[st.integers(-30, 30)] * 3)


def by_definition(entries) -> set:
    """Each place that a link had after one entry and no more after the next."""
    found, places = set(), {}
    for count, (stamp, _) in enumerate(entries, 1):
        tree = DictTree()
        apply_batch(tree, entries[:count])
        now = {row.link: row for row in tree.all_links() if row.parent != NOWHERE}
        for link, row in places.items():
            if link not in now or now[link].when != row.when:
                found.add((row.parent, pack(stamp), link, row.name, row.inode, row.when))
        places = now
    return found


def logged(tree: DictTree) -> set:
    return {
        (place, until, link, row.name, row.inode, row.since)
        for place, until, link, row in tree.all_past()
    }


@given(histories, skews, st.randoms(use_true_random=False))
def test_every_place_that_was_left_is_logged_once(history, skew, chance) -> None:
    entries = sorted(all_entries(simulate(history, skew)), key=lambda pair: pair[0])
    expected = by_definition(entries)
    chance.shuffle(entries)
    tree = DictTree()
    while entries:
        some = chance.randint(1, 5)
        apply_batch(tree, entries[:some])
        entries = entries[some:]
    assert logged(tree) == expected


@given(histories, skews, st.floats(0, 1))
def test_the_log_stays_below_the_cut_and_in_a_checkpoint(history, skew, share) -> None:
    entries = sorted(all_entries(simulate(history, skew)), key=lambda pair: pair[0])
    tree = DictTree()
    apply_batch(tree, entries)
    before = logged(tree)
    at_once(advance_cut(tree, entries[int((len(entries) - 1) * share)][0].clock if entries else 0))
    assert logged(tree) == before
    loaded = DictTree()
    load_image(loaded, list(image_of(tree)), tree.cut)
    assert logged(loaded) == before


def test_a_move_that_comes_late_ends_an_earlier_place_and_begins_a_later_one() -> None:
    device = DeviceId(b"device 1")
    inode, link, folders = b"i" * 16, b"l" * 16, [bytes([at]) * 16 for at in (1, 2, 3)]
    create = Create(inode, S_IFREG | 0o644, 0, 0, 0, b"", 1, Placement(link, inode, ROOT, b"a"))
    moves = [Place((Placement(link, inode, folder, b"a"),), 1) for folder in folders]
    entries = [(Stamp(clock, device), entry) for clock, entry in enumerate((create, *moves), 1)]
    expected = by_definition(entries)
    assert {row[0] for row in expected} == {ROOT, *folders[:2]}
    for order in ((0, 3, 1, 2), (3, 0, 2, 1), (1, 3, 2, 0)):
        tree = DictTree()
        for at in order:
            apply_batch(tree, [entries[at]])
        assert logged(tree) == expected
