"""What is taken back before it is published, and that nobody can tell."""

from stat import S_IFDIR, S_IFREG, S_ISDIR

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aggfs.errors import NamespaceError
from aggfs.model import Content, Create, Place
from tests.support.namespaces import World, world
from tests.support.plain_fold import assert_is_the_fold, facts

FILE, DIRECTORY = S_IFREG | 0o644, S_IFDIR | 0o755


def content(inode: bytes, version: bytes, *bases: bytes) -> Content:
    return Content(inode, version, bases, 3, 0, (), b"abc", 1, 1)


def shared_facts(tree, forgotten=frozenset()) -> dict:
    """What devices must agree on, but for inodes without a name that only one ever knew."""
    found = facts(tree)
    for key, row in list(found["inodes"].items()):
        if key in forgotten:
            del found["inodes"][key]
        else:
            found["inodes"][key] = replace(row, number=0)
    for table in ("versions", "xattrs"):
        found[table] = [row for row in found[table] if row[0] not in forgotten]
    return found


def test_a_file_made_and_unlinked_before_publication_is_never_published(tmp_path) -> None:
    with world(tmp_path) as w:
        w.namespace.create(1, b"temporary", FILE, 0, 0)
        w.namespace.unlink(1, b"temporary")
        entries = [entry for _, entry in w.entries()]
        assert not any(isinstance(entry, Create | Place) for entry in entries)
        assert len(entries) == 1


def test_many_temporary_files_leave_one_entry_for_the_times_of_their_directory(tmp_path) -> None:
    with world(tmp_path) as w:
        directory = w.namespace.create(1, b"d", DIRECTORY, 0, 0)
        w.publish()
        for _ in range(50):
            w.namespace.create(directory.number, b"t", FILE, 0, 0)
            row = w.namespace.unlink(directory.number, b"t")
            w.namespace.drop_unlinked(row.number)
        assert len(w.outbox) == 1
        assert shared_facts(w.tree) == shared_facts(w.fold())


def test_what_was_published_is_removed_for_everybody(tmp_path) -> None:
    with world(tmp_path) as w:
        w.namespace.create(1, b"a", FILE, 0, 0)
        w.publish()
        row = w.namespace.unlink(1, b"a")
        w.namespace.drop_unlinked(row.number)
        assert [type(entry) for _, entry in w.entries()] == [Create, Place]
        assert facts(w.tree) == facts(w.fold())


def test_saving_twice_before_publication_removes_the_first_file_in_one_step(tmp_path) -> None:
    with world(tmp_path) as w:
        first = w.namespace.create(1, b"x", FILE, 0, 0)
        w.namespace.add_content(content(first.inode, b"1" * 16), frozen_at=1, unflushed=False)
        w.publish()
        for version in (b"2" * 16, b"3" * 16):
            row = w.namespace.create(1, b"x.tmp", FILE, 0, 0)
            frozen_at = w.namespace.next_outbox_sequence()
            w.namespace.add_content(
                content(row.inode, version), frozen_at=frozen_at, unflushed=False
            )
            replaced = w.namespace.rename(1, b"x.tmp", 1, b"x", wait_for_content=True)
            assert replaced is not None
            w.namespace.drop_unlinked(replaced.number)
        waiting = [row.entry for _, row in w.outbox.rows()]
        assert [type(entry) for entry in waiting] == [Create, Content, Place]
        assert {placement.inode for placement in waiting[2].placements} == {first.inode, row.inode}
        assert waiting[2].observed == (b"1" * 16,)
        assert facts(w.tree) == facts(w.fold())
        assert w.namespace.lookup(1, b"x").inode == row.inode


def test_an_unlinked_open_file_can_be_changed_and_nobody_hears_of_it(tmp_path) -> None:
    with world(tmp_path) as w:
        row = w.namespace.create(1, b"open", FILE, 0, 0)
        w.namespace.unlink(1, b"open")
        waiting = len(w.outbox)
        w.namespace.set_attributes(row.number, mode=0o600, mtime_ns=7)
        w.namespace.set_xattr(row.number, b"user.a", b"b")
        w.namespace.touch_local(row.number, size=5)
        now = w.namespace.by_number(row.number)
        assert (now.mode, now.mtime_ns, now.size) == (S_IFREG | 0o600, 7, 5)
        assert w.namespace.get_xattr(row.number, b"user.a") == b"b"
        assert len(w.outbox) == waiting
        w.namespace.drop_unlinked(row.number)
        assert [one.inode for one in w.dropped] == [row.inode]
        assert facts(w.tree) == facts(w.fold())


def test_content_of_a_file_without_a_name_does_not_bring_it_back(tmp_path) -> None:
    with world(tmp_path) as w:
        row = w.namespace.create(1, b"open", FILE, 0, 0)
        w.publish()
        w.namespace.unlink(1, b"open")
        w.namespace.add_content(content(row.inode, b"1" * 16), frozen_at=9, unflushed=False)
        assert w.namespace.by_number(row.number).nlink == 0
        assert facts(w.tree) == facts(w.fold())


def test_what_was_unlinked_and_open_is_gone_after_a_restart(tmp_path) -> None:
    with world(tmp_path) as w:
        kept = w.namespace.create(1, b"kept", FILE, 0, 0)
        row = w.namespace.create(1, b"open", FILE, 0, 0)
        w.namespace.unlink(1, b"open")
        w.reopen()
        assert [one.inode for one in w.dropped] == [row.inode]
        assert not w.namespace.has_number(row.number)
        assert w.namespace.by_number(kept.number).nlink == 1
        assert facts(w.tree) == facts(w.fold())


def test_a_restart_still_knows_what_was_never_published(tmp_path) -> None:
    with world(tmp_path) as w:
        w.namespace.create(1, b"a", FILE, 0, 0)
        w.reopen()
        row = w.namespace.unlink(1, b"a")
        w.namespace.drop_unlinked(row.number)
        assert not any(isinstance(entry, Create) for _, entry in w.entries())


NAMES = (b"a", b"b", b"c")
steps = st.lists(
    st.tuples(st.integers(0, 13), st.integers(0, 9), st.integers(0, 2), st.integers(0, 9)),
    max_size=40,
)


def act(w: World, action: int, one: int, name: int, two: int) -> None:
    names = w.namespace
    rows = sorted((row for row in w.tree.all_inodes() if row.nlink), key=lambda row: row.number)
    directories = [row.number for row in rows if S_ISDIR(row.mode)]
    first, second = directories[one % len(directories)], directories[two % len(directories)]
    row = rows[one % len(rows)]
    match action:
        case 0 | 1 | 2:
            names.create(first, NAMES[name], FILE, 0, 0)
        case 3 | 4:
            names.create(first, NAMES[name], DIRECTORY, 0, 0)
        case 5 | 6:
            names.unlink(first, NAMES[name])
        case 7:
            names.rmdir(first, NAMES[name])
        case 8 | 9:
            names.rename(first, NAMES[name], second, NAMES[two % 3], wait_for_content=False)
        case 10:
            names.link(row.number, second, NAMES[name])
        case 11:
            names.exchange(first, NAMES[name], second, NAMES[two % 3])
        case 12 if row.mode == FILE:
            version = bytes([w.namespace.next_outbox_sequence() % 256]) * 16
            names.add_content(content(row.inode, version, *row.heads), frozen_at=1, unflushed=False)
        case _:
            w.publish()


@settings(max_examples=150)
@given(steps)
def test_the_tree_here_is_the_fold_of_what_others_get(tmp_path_factory, history) -> None:
    with world(tmp_path_factory.mktemp("namespace")) as w:
        for step in history:
            try:
                act(w, *step)
            except NamespaceError:
                continue
            forgotten = {inode for inode, _ in w.namespace._orphans.scan(b"")}
            others = shared_facts(w.fold(), forgotten)
            assert shared_facts(w.tree, forgotten) == others
        assert_is_the_fold(w.fold(), dict(w.entries()))
