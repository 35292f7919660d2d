"""A tree that the fold has made is in order; one that was tampered with is not."""

from stat import S_IFDIR

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aggfs.model import ROOT, Content, Create, Placement, Stamp, VersionRow
from aggfs.sync.inspect import inspect_tree
from aggfs.sync.merge import apply_batch
from aggfs.sync.tree import DictTree, Tree
from tests.support.devices import ACTIONS, all_entries, simulate

histories = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, len(ACTIONS) - 1),
        st.integers(0, 1 << 16),
        st.integers(0, 1 << 16),
    ),
    max_size=40,
)


def faults(tree: Tree) -> list[str]:
    return [text for text in inspect_tree(tree) if text is not None]


@settings(max_examples=60)
@given(histories)
def test_what_the_fold_makes_is_in_order(history: list[tuple[int, int, int, int]]) -> None:
    devices = simulate(history, (0, 3, -5))
    for device in devices:
        assert faults(device.tree) == []
    tree = DictTree()
    apply_batch(tree, all_entries(devices))
    assert faults(tree) == []


@settings(max_examples=60)
@given(histories, st.randoms(use_true_random=False))
def test_every_wrong_count_is_found(history: list[tuple[int, int, int, int]], chance) -> None:
    tree = DictTree()
    apply_batch(tree, all_entries(simulate(history, (0, 0, 0))))
    row = chance.choice(sorted(tree.all_inodes(), key=lambda row: row.inode))
    count = chance.choice(["nlink", "placed"])
    tree.put_inode(replace(row, **{count: getattr(row, count) + 1}))
    assert any(row.inode.hex() in text for text in faults(tree))


def test_a_directory_inside_itself_is_found() -> None:
    tree = DictTree()
    inode = b"i" * 16
    entry = Create(inode, S_IFDIR, 0, 0, 0, b"", 0, Placement(inode, inode, ROOT, b"directory"))
    apply_batch(tree, [(Stamp(5, b"d" * 8), entry)])
    assert faults(tree) == []
    link = tree.link(inode)
    tree.put_link(replace(link, parent=inode, was_parent=inode))
    assert any("inside itself" in text for text in faults(tree))


def test_a_version_that_was_replaced_is_no_head() -> None:
    tree = DictTree()
    content = Content(ROOT, b"v" * 16, (), 0, 0, (), b"", 0, 0)
    apply_batch(tree, [(Stamp(5, b"d" * 8), content)])
    assert faults(tree) == []
    tree.put_version(
        ROOT, b"w" * 16, VersionRow(bytes(16), False, replace(content, bases=(b"v" * 16,)))
    )
    assert any("is not marked so" in text for text in faults(tree))
