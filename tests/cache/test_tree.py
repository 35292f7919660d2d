"""The tree in LMDB holds what the tree in memory holds, also after it was closed."""

from stat import S_IFREG

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.cache.database import Database
from aggfs.cache.tree import TABLES, LmdbTree
from aggfs.model import (
    NEVER,
    NOWHERE,
    ROOT,
    Content,
    Create,
    Place,
    Placement,
    SetXattr,
    Stamp,
)
from aggfs.sync.clock import pack
from aggfs.sync.merge import advance_cut, apply, apply_batch
from aggfs.sync.tree import DictTree
from tests.support.devices import ACTIONS, all_entries, simulate
from tests.support.plain_fold import assert_is_the_fold, facts

numbers = st.integers(0, 40)
step = st.tuples(st.integers(0, 2), st.integers(0, len(ACTIONS) + 3), numbers, numbers)
histories = st.lists(step, min_size=5, max_size=60)
skews = st.tuples(*[st.integers(-30, 30)] * 3)


def open_tree(path) -> tuple[Database, LmdbTree]:
    database = Database.open(str(path), tables=TABLES)
    return database, LmdbTree(database)


def close(database: Database) -> None:
    trio.run(database.close)


@settings(max_examples=60)
@given(histories, skews, st.randoms(use_true_random=False))
def test_three_devices_end_alike_in_memory_and_in_lmdb(
    tmp_path_factory, history, skew, chance
) -> None:
    entries = all_entries(simulate(history, skew))
    expected = DictTree()
    apply_batch(expected, entries)
    database, tree = open_tree(tmp_path_factory.mktemp("tree"))
    order = entries + [entry for entry in entries if chance.random() < 0.3]
    chance.shuffle(order)
    while order:
        count = chance.choice((1, 2, 5, 20))
        apply_batch(tree, order[:count])
        order = order[count:]
        if chance.random() < 0.3:
            database.commit_now()
    assert facts(tree) == facts(expected)
    assert_is_the_fold(tree, dict(entries))
    close(database)


def create(inode: bytes, name: bytes) -> Create:
    placement = Placement(b"l" + inode[1:], inode, ROOT, name)
    return Create(inode, S_IFREG | 0o644, 0, 0, 0, b"", 1, placement)


@settings(max_examples=30)
@given(histories, skews, st.integers(0, 40))
def test_a_tree_is_the_same_after_it_was_closed_and_goes_on(
    tmp_path_factory, history, skew, at
) -> None:
    entries = all_entries(simulate(history, skew))
    path = tmp_path_factory.mktemp("tree")
    database, tree = open_tree(path)
    apply_batch(tree, entries[at:])
    before = facts(tree)
    numbers = {row.number: row.inode for row in tree.all_inodes()}
    close(database)
    database, tree = open_tree(path)
    assert facts(tree) == before
    assert all(tree.inode_of_number(number) == inode for number, inode in numbers.items())
    apply_batch(tree, entries[:at])
    assert_is_the_fold(tree, dict(entries))
    assert len({row.number for row in tree.all_inodes()}) == len(list(tree.all_inodes()))
    close(database)


def test_numbers_and_cookies_are_never_given_twice(tmp_path) -> None:
    given_numbers: list[int] = []
    given_cookies: list[int] = []
    for _ in range(3):
        database, tree = open_tree(tmp_path)
        for _ in range(1500):
            given_numbers.append(tree.new_number())
            given_cookies.append(tree.new_cookie())
        close(database)
    assert len(set(given_numbers)) == len(given_numbers)
    assert len(set(given_cookies)) == len(given_cookies)
    assert min(given_numbers) > 1
    assert min(given_cookies) > 2


def test_a_forgotten_inode_leaves_nothing_behind(tmp_path) -> None:
    database, tree = open_tree(tmp_path)
    inode, stamp = b"f" * 16, Stamp(7, b"x" * 8)
    before = facts(tree)
    apply(tree, stamp, create(inode, b"name"))
    apply(tree, Stamp(8, b"x" * 8), SetXattr(inode, b"user.a", b"1", 2))
    apply(tree, Stamp(9, b"x" * 8), Content(inode, b"v" * 16, (), 1, 0, (), b"1", 1, 1))
    number = tree.inode(inode).number
    gone = Placement(b"l" + inode[1:], inode, NOWHERE, b"name")
    apply(tree, Stamp(10, b"x" * 8), Place((gone,), 3, (), (b"v" * 16,)))
    for clock in (7, 10):
        tree.drop_move(pack(Stamp(clock, b"x" * 8)))
    tree.drop_link(gone.link)
    tree.drop_inode(inode)
    assert tree.inode_of_number(number) is None
    after = facts(tree)
    root = {"inodes", "moves"}
    assert {key: after[key] for key in after if key not in root} == {
        key: before[key] for key in before if key not in root
    }
    close(database)


def test_moves_below_the_cut_are_forgotten(tmp_path) -> None:
    database, tree = open_tree(tmp_path)
    for clock in range(1, 2501):
        inode = clock.to_bytes(16)
        apply(tree, Stamp(clock, b"x" * 8), create(inode, b"%d" % clock))
        if clock == 1200:
            database.commit_now()
    assert len(list(advance_cut(tree, 2000))) > 4, "others have no turn meanwhile"
    moves = tree.moves_from(NEVER)
    assert [int.from_bytes(when[:8]) for when, _ in moves] == list(range(2000, 2501))
    assert tree.cut == 2000
    late = create(b"z" * 16, b"late")
    apply_batch(tree, [(Stamp(1999, b"a" * 8), late)])
    assert tree.inode(b"z" * 16) is None
    apply_batch(tree, [(Stamp(2000, b"a" * 8), late)])
    assert tree.inode(ROOT).children == 2501
    close(database)
