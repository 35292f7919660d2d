"""Two devices work apart through their namespaces and meet again: one tree, every name usable."""

from stat import S_ISDIR

from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.errors import NamespaceError
from aggfs.sync.merge import apply_batch
from tests.engine.test_pending import act, shared_facts
from tests.support.namespaces import World, world
from tests.support.plain_fold import assert_is_the_fold

steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 15),
        st.integers(0, 9),
        st.integers(0, 2),
        st.integers(0, 9),
    ),
    max_size=60,
)


def hear(one: World, other: World) -> None:
    """`one` takes in what `other` has published."""
    apply_batch(one.tree, other.published)
    for stamp, _ in other.published:
        one.clock.observe(stamp)


def listing(w: World) -> dict[bytes, bytes]:
    """Path -> inode of everything that is seen; each entry checked by looking it up."""
    found: dict[bytes, bytes] = {}
    todo = [(b"", 1)]
    while todo:
        path, number = todo.pop()
        seen = [(name, row) for name, row, cookie in w.namespace.readdir(number, 2)]
        assert len({name for name, _ in seen}) == len(seen)
        for name, row in seen:
            assert len(name) <= 255
            assert w.namespace.lookup(number, name).inode == row.inode
            found[path + b"/" + name] = row.inode
            if S_ISDIR(row.mode):
                assert w.namespace.path_of(row.number) == path + b"/" + name
                assert w.namespace.lookup(row.number, b"..").number == number
                todo.append((path + b"/" + name, row.number))
    return found


@settings(max_examples=100)
@given(steps)
def test_two_devices_that_met_see_the_same_and_can_use_what_they_see(
    tmp_path_factory, history
) -> None:
    with (
        world(tmp_path_factory.mktemp("one")) as one,
        world(tmp_path_factory.mktemp("two"), device=2) as two,
    ):
        pair = (one, two)
        for who, action, a, b, c in history:
            device, other = pair[who], pair[1 - who]
            if action >= 14:
                hear(device, other)
                continue
            try:
                before = listing(device)
                act(device, action, a, b, c)
            except NamespaceError:
                assert listing(device) == before
        for device in pair:
            device.publish()
        for device, other in (pair, pair[::-1]):
            hear(device, other)
        assert listing(one) == listing(two)
        gone = {row.inode for w in pair for row in w.tree.all_inodes() if not row.nlink}
        assert shared_facts(one.tree, gone) == shared_facts(two.tree, gone)
        assert_is_the_fold(one.fold_with(two), dict(one.entries() + two.entries()))
