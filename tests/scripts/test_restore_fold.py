"""The fold of scripts/restore.py, written from the document alone, is the fold of aggfs."""

import importlib.util
import random
from pathlib import Path
from stat import S_IMODE

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.coding.codec import at_once
from aggfs.model import BLOCK_BYTES, ROOT, Content, Extent, Stamp
from aggfs.sync.clock import pack
from aggfs.sync.image import image_of
from aggfs.sync.merge import advance_cut, apply_batch
from aggfs.sync.names import shown_names
from aggfs.sync.tree import DictTree
from aggfs.sync.versions import block_map
from tests.support.devices import ACTIONS, all_entries, simulate

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "restore.py"
numbers = st.integers(0, 40)
step = st.tuples(st.integers(0, 2), st.integers(0, len(ACTIONS) + 3), numbers, numbers)
histories = st.lists(step, min_size=5, max_size=60)
skews = st.tuples(*[st.integers(-30, 30)] * 3)


def the_script():
    spec = importlib.util.spec_from_file_location("restore", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


restore = the_script()


def raw(value):
    """A value as the script gets it: through bytes, and its own decoder."""
    return restore.unpack(msgspec.msgpack.encode(value))


def shown_by_aggfs(tree: DictTree) -> dict[bytes, tuple]:
    found = {}
    todo = [(b"", ROOT)]
    while todo:
        path, directory = todo.pop()
        row = tree.inode(directory)
        found[path] = attributes_of(tree, row)
        for name in {child.name for child in tree.children(directory, 0, 1 << 30)}:
            claims = tree.claims(directory, name)
            for shown in shown_names(tree, directory, name, claims):
                place = path + b"/" + shown.name
                if shown.link == shown.inode:
                    todo.append((place, shown.inode))
                else:
                    found[place] = attributes_of(tree, tree.inode(shown.inode))
    return found


def attributes_of(tree: DictTree, row) -> tuple:
    xattrs = {name: x.value for name, x in tree.xattrs(row.inode) if x.value is not None}
    return (
        *(row.inode, S_IMODE(row.mode), row.uid, row.gid, row.atime_ns, row.mtime_ns),
        xattrs,
        list(row.heads),
    )


def shown_by_script(tree) -> dict[bytes, tuple]:
    children = tree.finish()
    found = {}
    todo = [(b"", ROOT, [ROOT])]
    while todo:
        path, directory, group = todo.pop()
        found[path] = attributes_in_script(tree, directory)
        for name, inode, merged in restore.names_in(tree, children, group):
            place = path + b"/" + name
            if merged:
                todo.append((place, inode, merged))
            else:
                found[place] = attributes_in_script(tree, inode)
    return found


def attributes_in_script(tree, inode: bytes) -> tuple:
    row = tree.inode(inode)
    registers = (row.get(name) for name in ("mode", "uid", "gid", "atime", "mtime"))
    xattrs = {name: value for name, (_, value) in row.xattrs.items() if value is not None}
    return inode, *registers, xattrs, row.heads()


@settings(max_examples=200)
@given(histories, skews, st.randoms(use_true_random=False))
def test_both_show_the_same_tree(history, skew, chance: random.Random) -> None:
    entries = all_entries(simulate(history, skew))
    ours = DictTree()
    apply_batch(ours, entries)
    theirs = restore.Tree({})
    chance.shuffle(entries)
    for stamp, entry in entries:
        theirs.add(pack(stamp), raw(entry))
    assert shown_by_script(theirs) == shown_by_aggfs(ours)
    moved = {(sid, at): (row.sid, row.index) for sid, at, row in ours.all_relocations()}
    assert {place: tuple(to) for place, (_, *to) in theirs.moved.items()} == moved


@given(histories, skews, st.floats(0, 1))
def test_both_begin_with_a_checkpoint_alike(history, skew, share) -> None:
    entries = sorted(all_entries(simulate(history, skew)), key=lambda pair: pair[0])
    below = int(len(entries) * share)
    cut = entries[below][0].clock if below < len(entries) else 1 << 62
    ours = DictTree()
    apply_batch(ours, [pair for pair in entries if pair[0].clock < cut])
    at_once(advance_cut(ours, cut))
    rows = [raw(row) for row in image_of(ours)]
    apply_batch(ours, entries)
    theirs = restore.Tree({})
    theirs.load(cut, rows)
    for stamp, entry in entries:
        theirs.add(pack(stamp), raw(entry))
    assert shown_by_script(theirs) == shown_by_aggfs(ours)


extents = st.builds(
    Extent,
    block=st.integers(0, 9),
    sid=st.binary(min_size=1, max_size=1).map(lambda one: one * 24),
    index=st.integers(0, 9),
    count=st.integers(1, 4),
)


@st.composite
def chains(draw) -> list[Content]:
    """Versions that rest on each other, with cuts at the edges of blocks."""
    chain: list[Content] = []
    for number in range(draw(st.integers(1, 6))):
        size = draw(st.integers(0, 9)) * BLOCK_BYTES
        kept = draw(st.integers(0, min(chain[-1].size if chain else 0, size) // BLOCK_BYTES))
        laid = draw(st.lists(extents, max_size=3, unique_by=lambda one: one.block))
        bases = (number.to_bytes(16),) if chain else ()
        version = (number + 1).to_bytes(16)
        laid = [one for at, one in enumerate(laid) if not overlaps(one, laid[:at])]
        chain.append(
            Content(bytes(16), version, bases, size, kept * BLOCK_BYTES, tuple(laid), b"", 0, 0)
        )
    return chain


def overlaps(one: Extent, others: list[Extent]) -> bool:
    return any(
        one.block < other.block + other.count and other.block < one.block + one.count
        for other in others
    )


@given(chains())
def test_both_find_the_same_blocks_of_a_file(chain) -> None:
    tree = restore.Tree({})
    for number, content in enumerate(chain, 1):
        tree.add(pack(Stamp(number, b"device 1")), raw(content))
    found = restore.block_map(tree, bytes(16), chain[-1].version)
    expected = block_map(chain[-1], {one.version: one for one in chain}.get)
    assert {block: place[:2] for block, place in found.items()} == {
        extent.block + at: (extent.sid, extent.index + at)
        for extent in expected.extents
        for at in range(extent.count)
    }


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 63), (1 << 64) - 1)
        | st.binary()
        | st.text(),
        lambda inner: st.lists(inner, max_size=20),
        max_leaves=40,
    )
)
def test_what_is_packed_is_unpacked(value) -> None:
    assert raw(value) == value


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_bytes_of_no_meaning_are_refused_or_read_and_nothing_else(data) -> None:
    try:
        restore.unpack(data)
    except restore.Lost:
        return
