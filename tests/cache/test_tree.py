"""The tree in LMDB holds what the tree in memory holds, also after it was closed."""

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.cache.database import Database
from aggfs.cache.tree import TABLES, LmdbTree
from aggfs.sync.merge import apply_batch
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
