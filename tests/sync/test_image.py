"""A checkpoint holds what its tree holds, and takes in what comes later as the tree would."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aggfs.coding.codec import at_once
from aggfs.errors import Damaged
from aggfs.formats.checkpoint import (
    EXTENTS_IN_ROW,
    CheckpointHead,
    InodeImage,
    LinkImage,
    VersionImage,
    decode_part,
    encode_parts,
    rows_of,
)
from aggfs.model import ROOT, Content, Create, Extent, Stamp
from aggfs.sync.image import image_of, load_image
from aggfs.sync.merge import advance_cut, apply_batch
from aggfs.sync.tree import DictTree
from tests.support.devices import ACTIONS, all_entries, simulate
from tests.support.plain_fold import facts

VOLUME = bytes(16)
HEAD = CheckpointHead(b"device 1", 1, 0, ())
numbers = st.integers(0, 40)
step = st.tuples(st.integers(0, 2), st.integers(0, len(ACTIONS) + 3), numbers, numbers)
histories = st.lists(step, min_size=5, max_size=50)
skews = st.tuples(*[st.integers(-30, 30)] * 3)


def through_bytes(rows, part_bytes: int = 500) -> list:
    records = encode_parts(HEAD, rows, VOLUME, lambda text: bytes(64), part_bytes=part_bytes)
    parts = [decode_part(record, VOLUME, lambda *signed: True) for record in records]
    return list(rows_of(parts))


def folded(entries) -> DictTree:
    tree = DictTree()
    apply_batch(tree, entries)
    return tree


@given(histories, skews)
def test_a_loaded_checkpoint_is_the_tree_that_was_saved(history, skew) -> None:
    tree = folded(all_entries(simulate(history, skew)))
    loaded = DictTree()
    load_image(loaded, through_bytes(image_of(tree)), tree.cut)
    assert facts(loaded) == facts(tree)


@given(histories, skews, st.floats(0, 1), st.randoms(use_true_random=False))
def test_entries_above_the_cut_may_come_before_and_after_a_checkpoint(
    history, skew, share, chance
) -> None:
    entries = sorted(all_entries(simulate(history, skew)), key=lambda pair: pair[0])
    below = int(len(entries) * share)
    cut = entries[below][0].clock if below < len(entries) else 1 << 62
    early, late = [], []
    for pair in entries:
        (early if pair[0].clock < cut or chance.random() < 0.5 else late).append(pair)
    tree = folded(early)
    at_once(advance_cut(tree, cut))
    loaded = DictTree()
    load_image(loaded, through_bytes(image_of(tree)), tree.cut)
    assert loaded.cut == cut
    chance.shuffle(late)
    apply_batch(loaded, late)
    expected = folded(entries)
    at_once(advance_cut(expected, cut))
    assert facts(loaded) == facts(expected)


@given(histories, skews, st.floats(0, 1))
def test_moves_below_the_cut_that_are_still_there_mean_nothing(history, skew, share) -> None:
    entries = sorted(all_entries(simulate(history, skew)), key=lambda pair: pair[0])
    tree = folded(entries)
    tree.set_cut(entries[int((len(entries) - 1) * share)][0].clock if entries else 0)
    rows = list(image_of(tree))
    at_once(tree.drop_moves_below(tree.cut.to_bytes(8)))
    assert rows == list(image_of(tree))


@given(histories, skews)
def test_a_checkpoint_of_the_same_entries_is_the_same_on_each_device(history, skew) -> None:
    entries = all_entries(simulate(history, skew))
    rows = [list(image_of(folded(order))) for order in (entries, entries[::-1])]
    assert rows[0] == rows[1]


def test_what_nobody_else_has_seen_is_left_out() -> None:
    devices = simulate([(0, 0, at, at * 2 + 1) for at in range(4)], (0, 0, 0))
    published = all_entries(devices)
    inode = next(entry.inode for _, entry in published if isinstance(entry, Create))
    first = Content(inode, b"1" * 16, (), 1, 0, (), b"1", 1, 1)
    published.append((Stamp(1 << 62, b"x" * 8), first))
    later = [
        (Stamp((1 << 62) + 1, b"x" * 8), replace(first, version=b"2" * 16, bases=(b"1" * 16,))),
    ]
    loaded = DictTree()
    load_image(loaded, image_of(folded(published + later), later), 0)
    row, expected = loaded.inode(inode), folded(published).inode(inode)
    assert row is not None
    assert expected is not None
    assert row.heads == expected.heads == (b"1" * 16,)
    assert loaded.version(inode, b"2" * 16) is None


def test_a_version_of_many_extents_is_split_over_rows() -> None:
    count = EXTENTS_IN_ROW * 2 + 5
    extents = tuple(Extent(at, bytes(24), at % 16, 1) for at in range(count))
    content = Content(b"i" * 16, b"v" * 16, (), count, 0, extents, b"", 1, 1)
    tree = folded([(Stamp(1, b"x" * 8), content)])
    rows = through_bytes(image_of(tree), 1 << 20)
    assert len(rows) == 5
    loaded = DictTree()
    load_image(loaded, rows, 0)
    assert facts(loaded) == facts(tree)


def test_parts_that_do_not_fit_together_are_damage() -> None:
    rows = list(image_of(folded(all_entries(simulate([(0, 0, at, at) for at in range(9)], (0,))))))
    records = list(encode_parts(HEAD, rows, VOLUME, lambda text: bytes(64), part_bytes=100))
    parts = [decode_part(record, VOLUME, lambda *signed: True) for record in records]
    other = replace(parts[1], head=replace(HEAD, sequence=2))
    for wrong in (parts[1:], parts[:-1], [], [parts[0], *parts], [parts[0], other, *parts[2:]]):
        with pytest.raises(Damaged):
            list(rows_of(wrong))


def test_rows_that_contradict_each_other_are_damage() -> None:
    inode = InodeImage(b"d" * 16, 0o40755, 0, 0, 0, 0, 0, 0, 0, b"", bytes(16))
    link = LinkImage(b"d" * 16, b"d" * 16, b"e" * 16, b"n", b"e" * 16, bytes(16), ())
    back = LinkImage(b"e" * 16, b"e" * 16, b"d" * 16, b"n", b"d" * 16, bytes(16), ())
    lost = VersionImage(b"x" * 16, b"v" * 16, bytes(16), False, None)
    for rows in ([inode, link, link], [link, back], [lost], [replace(inode, registers=bytes(17))]):
        with pytest.raises(Damaged):
            load_image(DictTree(), rows, 0)
    tree = DictTree()
    load_image(tree, [inode, replace(link, parent=ROOT, was_parent=ROOT)], 0)
    assert tree.claims(ROOT, b"n")
