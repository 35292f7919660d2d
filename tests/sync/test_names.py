"""Conflict names: every link is seen under one name, fits, and is found again by it."""

from stat import S_IFREG

from hypothesis import given
from hypothesis import strategies as st

from aggfs.model import ROOT, Create, Placement, Stamp
from aggfs.sync.merge import apply_batch
from aggfs.sync.names import conflict_name, find, shown_names, split_extension
from aggfs.sync.tree import DictTree

name_bytes = st.binary(min_size=1, max_size=255).filter(
    lambda name: not {b"/"[0], 0} & set(name) and name not in (b".", b"..")
)
texts = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)
some_names = name_bytes | texts.map(lambda text: text.encode()[:255]).filter(bool)
links = st.sets(st.binary(min_size=16, max_size=16).filter(any), min_size=1, max_size=6)


def tree_of(name: bytes, link_ids) -> DictTree:
    entries = []
    for at, link in enumerate(sorted(link_ids)):
        inode = bytes(reversed(link))[:15] + b"\x07"
        placement = Placement(link, inode, ROOT, name)
        entries.append((Stamp(at, b"x" * 8), Create(inode, S_IFREG, 0, 0, 0, b"", 1, placement)))
    tree = DictTree()
    apply_batch(tree, entries)
    return tree


@given(some_names, links)
def test_clashing_links_are_seen_under_names_that_lead_back_to_them(name, link_ids) -> None:
    tree = tree_of(name, link_ids)
    claims = tree.claims(ROOT, name)
    if not claims:  # a name that no entry may have
        return
    shown = shown_names(tree, ROOT, name, claims)
    assert shown[0].name == name
    assert len({one.name for one in shown}) == len(shown) == len(claims) // 32
    for one in shown:
        assert len(one.name) <= 255
        assert find(tree, ROOT, one.name) == one


@given(st.sets(st.binary(min_size=8, max_size=8), min_size=2, max_size=4))
def test_links_whose_ids_begin_alike_are_told_apart(ends) -> None:
    tree = tree_of(b"a.txt", {b"\xab" * 8 + end for end in ends})
    shown = shown_names(tree, ROOT, b"a.txt", tree.claims(ROOT, b"a.txt"))
    assert len({one.name for one in shown}) == len(ends)
    assert all(find(tree, ROOT, one.name) == one for one in shown)


def test_a_conflict_name_that_is_really_taken_is_not_given_again() -> None:
    tree = tree_of(b"a.txt", {b"\x01" * 16, b"\x02" * 16})
    taken = conflict_name(b"a.txt", "02020202")
    assert taken is not None
    placement = Placement(b"\x09" * 16, b"\x08" * 16, ROOT, taken)
    create = Create(b"\x08" * 16, S_IFREG, 0, 0, 0, b"", 1, placement)
    apply_batch(tree, [(Stamp(9, b"x" * 8), create)])
    real = find(tree, ROOT, taken)
    assert real is not None
    assert real.link == b"\x09" * 16
    shown = shown_names(tree, ROOT, b"a.txt", tree.claims(ROOT, b"a.txt"))
    assert shown[1].name == b"a (conflict " + b"02" * 16 + b").txt"
    assert find(tree, ROOT, shown[1].name) == shown[1]


def test_what_only_looks_like_a_conflict_name_leads_nowhere() -> None:
    tree = tree_of(b"a.txt", {b"\x01" * 16})
    for token in (b"01010101", b"01" * 16, b"ffffffff"):
        assert find(tree, ROOT, b"a (conflict " + token + b").txt") is None


def test_extensions_are_short_and_do_not_begin_a_name() -> None:
    assert split_extension(b"photo.jpg") == (b"photo", b".jpg")
    assert split_extension(b"a.tar.gz") == (b"a.tar", b".gz")
    for name in (b".bashrc", b"name", b"name.", b"a." + b"x" * 16):
        assert split_extension(name) == (name, b"")
