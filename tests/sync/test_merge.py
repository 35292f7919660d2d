"""Three devices, entries in any order, more than once, with clocks that are wrong: one tree."""

import random
from stat import S_IFDIR, S_IFREG

from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.model import NOWHERE, ROOT, Create, Place, Placement, Stamp
from aggfs.sync.merge import apply, apply_batch, is_acceptable, restamp
from aggfs.sync.tree import DictTree
from tests.support.devices import ACTIONS, all_entries, simulate
from tests.support.plain_fold import assert_is_the_fold, facts

numbers = st.integers(0, 40)
step = st.tuples(st.integers(0, 2), st.integers(0, len(ACTIONS) + 3), numbers, numbers)
histories = st.lists(step, min_size=5, max_size=60)
skews = st.tuples(*[st.integers(-30, 30)] * 3)


def deliver(tree, entries, chance: random.Random) -> None:
    """All entries in random order, a third of them twice, in batches of random size."""
    order = entries + [entry for entry in entries if chance.random() < 0.3]
    chance.shuffle(order)
    while order:
        count = chance.choice((1, 1, 2, 5, 20))
        batch, order = order[:count], order[count:]
        apply_batch(tree, batch)


@settings(max_examples=200, deadline=None)
@given(histories, skews, st.randoms(use_true_random=False))
def test_devices_that_heard_everything_show_the_same(history, skew, chance) -> None:
    devices = simulate(history, skew)
    entries = all_entries(devices)
    fresh = DictTree()
    apply_batch(fresh, entries)
    assert_is_the_fold(fresh, dict(entries))
    expected = facts(fresh)
    shuffled = DictTree()
    deliver(shuffled, entries, chance)
    assert facts(shuffled) == expected
    for device in devices:
        deliver(device.tree, entries, chance)
        assert facts(device.tree) == expected


@settings(max_examples=100, deadline=None)
@given(histories, skews)
def test_a_tree_is_the_plain_fold_after_every_step(history, skew) -> None:
    tree = DictTree()
    known = {}
    for stamp, entry in all_entries(simulate(history, skew)):
        known[stamp] = entry
        apply_batch(tree, [(stamp, entry)])
        assert_is_the_fold(tree, known)


@settings(max_examples=100, deadline=None)
@given(histories, skews, st.randoms(use_true_random=False))
def test_taking_a_batch_in_twice_changes_nothing(history, skew, chance) -> None:
    entries = all_entries(simulate(history, skew))
    tree = DictTree()
    deliver(tree, entries, chance)
    before = facts(tree)
    apply_batch(tree, entries)
    assert facts(tree) == before


@settings(max_examples=100, deadline=None)
@given(histories, skews, st.integers(0, 100))
def test_two_batches_may_come_in_either_order(history, skew, at) -> None:
    entries = all_entries(simulate(history, skew))
    one, two = entries[:at], entries[at:]
    forth, back = DictTree(), DictTree()
    for batch in (one, two):
        apply_batch(forth, batch)
    for batch in (two, one):
        apply_batch(back, batch)
    assert facts(forth) == facts(back)


@settings(max_examples=100, deadline=None)
@given(histories, skews)
def test_new_stamps_for_unseen_entries_are_as_if_the_old_had_never_been(history, skew) -> None:
    devices = simulate(history, skew)
    own, others = devices[0].written, all_entries(devices[1:])
    tree = DictTree()
    apply_batch(tree, others)
    apply_batch(tree, own)
    top = max((stamp.clock for stamp, _ in own + others), default=0)
    moved = [
        (stamp, Stamp(top + 1 + at, stamp.device), entry) for at, (stamp, entry) in enumerate(own)
    ]
    restamp(tree, moved)
    expected = DictTree()
    apply_batch(expected, others + [(new, entry) for _, new, entry in moved])
    assert facts(tree) == facts(expected)


# --- single cases, told one by one ----------------------------------------------------------------


def test_what_no_honest_device_writes_is_left_out() -> None:
    file, directory = b"f" * 16, b"d" * 16
    good = Create(file, S_IFREG | 0o644, 0, 0, 0, b"", 1, Placement(b"l" * 16, file, ROOT, b"name"))
    assert is_acceptable(good)
    for name in (b"", b".", b"..", b"a/b", b"a\0b"):
        placement = Placement(b"l" * 16, file, ROOT, name)
        assert not is_acceptable(Create(file, S_IFREG, 0, 0, 0, b"", 1, placement))
        assert not is_acceptable(Place((placement,), 1))
    rootless = Placement(ROOT, ROOT, directory, b"name")
    assert not is_acceptable(Place((rootless,), 1))
    linked = Placement(b"l" * 16, directory, ROOT, b"name")
    assert not is_acceptable(Create(directory, S_IFDIR, 0, 0, 0, b"", 1, linked))
    assert not is_acceptable(Create(file, 0o644, 0, 0, 0, b"", 1, good.placement))
    tree = DictTree()
    apply_batch(tree, [(Stamp(5, b"x" * 8), Place((rootless,), 1))])
    assert facts(tree) == facts(DictTree())


def test_entries_below_the_cut_are_left_out() -> None:
    tree = DictTree()
    tree.set_cut(100)
    placement = Placement(b"l" * 16, b"f" * 16, ROOT, b"name")
    create = Create(b"f" * 16, S_IFREG, 0, 0, 0, b"", 1, placement)
    apply_batch(tree, [(Stamp(99, b"x" * 8), create)])
    assert tree.claims(ROOT, b"name") == b""
    apply_batch(tree, [(Stamp(100, b"x" * 8), create)])
    assert tree.claims(ROOT, b"name")


def test_a_batch_tells_which_names_and_inodes_it_changed() -> None:
    tree = DictTree()
    placement = Placement(b"l" * 16, b"f" * 16, ROOT, b"name")
    create = Create(b"f" * 16, S_IFREG, 0, 0, 0, b"", 1, placement)
    changes = apply_batch(tree, [(Stamp(1, b"x" * 8), create)])
    assert changes.names == {(ROOT, b"name")}
    assert changes.inodes == {ROOT, b"f" * 16}
    gone = Placement(b"l" * 16, b"f" * 16, NOWHERE, b"name")
    changes = apply_batch(tree, [(Stamp(2, b"x" * 8), Place((gone,), 1, (ROOT,)))])
    assert changes.names == {(ROOT, b"name")}


def test_thousands_of_moves_that_come_late_are_merged_in_one_pass() -> None:
    tree = DictTree()
    for clock in range(10, 3010):
        inode = clock.to_bytes(16)
        placement = Placement(bytes(8) + inode[8:], inode, ROOT, b"%d" % clock)
        link = Placement(b"l" * 8 + inode[8:], inode, ROOT, b"%d" % clock)
        assert placement.link == inode
        apply(tree, Stamp(clock, b"x" * 8), Create(inode, S_IFREG, 0, 0, 0, b"", 1, link))
    late = []
    for clock in range(10, 3010):
        inode = (clock << 32).to_bytes(16)
        link = Placement(b"m" * 8 + inode[8:], inode, ROOT, b"late %d" % clock)
        late.append((Stamp(clock, b"a" * 8), Create(inode, S_IFREG, 0, 0, 0, b"", 1, link)))
    apply_batch(tree, late)
    root = tree.inode(ROOT)
    assert root is not None
    assert root.children == 6000
