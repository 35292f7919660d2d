"""Names and attributes of one device, and of several that clashed."""

import time
from stat import S_IFDIR, S_IFREG, S_ISGID

import pytest

from aggfs.errors import (
    Exists,
    InvalidMove,
    NameTooLong,
    NoAttribute,
    NoEntry,
    NotADirectory,
    NotEmpty,
    NotPermitted,
    TooLarge,
)
from aggfs.model import Content
from aggfs.sync.merge import apply_batch
from tests.support.namespaces import START_NS, world
from tests.support.plain_fold import facts

FILE, DIRECTORY = S_IFREG | 0o644, S_IFDIR | 0o755


@pytest.fixture
def w(tmp_path):
    with world(tmp_path) as made:
        yield made


def names_in(w, number: int = 1) -> list[bytes]:
    return [name for name, _, cookie in w.namespace.readdir(number, 2)]


# --- attributes -----------------------------------------------------------------------------------


def test_a_new_name_changes_the_times_of_its_directory_and_not_its_atime(w) -> None:
    directory = w.namespace.create(1, b"d", DIRECTORY, 1, 2)
    before = w.namespace.by_number(directory.number)
    row = w.namespace.create(directory.number, b"f", FILE, 3, 4)
    after = w.namespace.by_number(directory.number)
    assert (row.uid, row.gid, row.mode, row.nlink) == (3, 4, FILE, 1)
    assert row.atime_ns == row.mtime_ns == row.ctime_ns == row.btime_ns >= START_NS
    assert after.mtime_ns == after.ctime_ns == row.ctime_ns > before.mtime_ns
    assert after.atime_ns == before.atime_ns


def test_links_unlinks_and_renames_change_the_ctime_of_the_inode_and_the_times_of_directories(
    w,
) -> None:
    names = w.namespace
    one = names.create(1, b"1", DIRECTORY, 0, 0).number
    two = names.create(1, b"2", DIRECTORY, 0, 0).number
    number = names.create(one, b"f", FILE, 0, 0).number
    for change in (
        lambda: names.link(number, two, b"g"),
        lambda: names.rename(one, b"f", two, b"h", wait_for_content=False),
        lambda: names.unlink(two, b"g"),
    ):
        before, old = names.by_number(number), names.by_number(two)
        change()
        after, new = names.by_number(number), names.by_number(two)
        assert after.ctime_ns > before.ctime_ns
        assert after.mtime_ns == before.mtime_ns
        assert new.mtime_ns == new.ctime_ns == after.ctime_ns > old.mtime_ns
    names.rename(two, b"h", one, b"f", wait_for_content=False)
    assert names.by_number(one).mtime_ns == names.by_number(two).mtime_ns


def test_setting_an_attribute_sets_the_ctime_and_nothing_else(w) -> None:
    row = w.namespace.create(1, b"f", FILE, 0, 0)
    after = w.namespace.set_attributes(row.number, mode=S_IFREG | 0o4711, uid=5)
    assert (after.mode, after.uid, after.gid) == (S_IFREG | 0o4711, 5, 0)
    assert after.mtime_ns == row.mtime_ns
    assert after.ctime_ns > row.ctime_ns
    after = w.namespace.set_attributes(row.number, atime_ns=1, mtime_ns=-5, ctime_ns=9)
    assert (after.atime_ns, after.mtime_ns, after.ctime_ns) == (1, -5, 9)


def test_a_setgid_directory_hands_on_its_group_and_directories_the_bit(w) -> None:
    parent = w.namespace.create(1, b"d", DIRECTORY | S_ISGID, 0, 77).number
    assert w.namespace.create(parent, b"f", FILE, 1, 1).gid == 77
    below = w.namespace.create(parent, b"below", DIRECTORY, 1, 1)
    assert (below.gid, below.mode) == (77, DIRECTORY | S_ISGID)


def test_directories_count_their_subdirectories(w) -> None:
    parent = w.namespace.create(1, b"d", DIRECTORY, 0, 0).number
    for name in (b"1", b"2"):
        w.namespace.create(parent, name, DIRECTORY, 0, 0)
    w.namespace.create(parent, b"f", FILE, 0, 0)
    assert w.namespace.by_number(parent).subdirectories == 2
    w.namespace.rename(parent, b"1", 1, b"1", wait_for_content=False)
    assert w.namespace.by_number(parent).subdirectories == 1
    assert w.namespace.by_number(1).subdirectories == 2


def test_what_is_written_here_is_not_overwritten_by_an_older_version_of_ours(w) -> None:
    row = w.namespace.create(1, b"f", FILE, 0, 0)
    w.namespace.touch_local(row.number, size=100, mtime_ns=7, ctime_ns=7)
    w.namespace.touch_local(row.number, size=200, mtime_ns=8, ctime_ns=8)
    older = Content(row.inode, b"v" * 16, (), 100, 0, (), b"", 7, 7)
    w.namespace.add_content(older, frozen_at=1, unflushed=True)
    now = w.namespace.by_number(row.number)
    assert (now.size, now.mtime_ns, now.unflushed) == (200, 8, True)
    newer = Content(row.inode, b"w" * 16, now.heads, 200, 100, (), b"", 8, 8)
    w.namespace.add_content(newer, frozen_at=2, unflushed=False)
    now = w.namespace.by_number(row.number)
    assert (now.size, now.mtime_ns, now.unflushed, now.heads) == (200, 8, False, (b"w" * 16,))
    assert facts(w.tree) == facts(w.fold())


# --- names ----------------------------------------------------------------------------------------


def test_names_of_256_bytes_and_taken_names_are_refused(w) -> None:
    w.namespace.create(1, b"n" * 255, FILE, 0, 0)
    for name, error in ((b"n" * 256, NameTooLong), (b"n" * 255, Exists), (b".", Exists)):
        with pytest.raises(error):
            w.namespace.create(1, name, FILE, 0, 0)
    with pytest.raises(NameTooLong):
        w.namespace.lookup(1, b"n" * 256)
    with pytest.raises(NoEntry):
        w.namespace.lookup(1, b"missing")


def test_dots_are_the_directory_and_its_parent(w) -> None:
    number = w.namespace.create(1, b"d", DIRECTORY, 0, 0).number
    below = w.namespace.create(number, b"e", DIRECTORY, 0, 0).number
    assert w.namespace.lookup(below, b".").number == below
    assert w.namespace.lookup(below, b"..").number == number
    assert w.namespace.lookup(1, b"..").number == 1
    assert w.namespace.path_of(below) == b"/d/e"
    assert w.namespace.resolve(b"//d/./e/").number == below
    assert sorted(w.namespace.numbers_under(1)) == [1, number, below]


def test_a_directory_that_goes_while_a_tree_is_walked_ends_no_walk(w) -> None:
    one = w.namespace.create(1, b"1", DIRECTORY, 0, 0).number
    other = w.namespace.create(1, b"2", DIRECTORY, 0, 0).number
    walk = w.namespace.numbers_under(1)
    assert [next(walk), next(walk)] == [1, one]
    w.namespace.drop_unlinked(w.namespace.rmdir(1, b"1").number)
    assert not w.namespace.has_number(one)
    assert list(walk) == [other]


def test_nothing_is_made_in_a_directory_that_was_removed(w) -> None:
    number = w.namespace.create(1, b"d", DIRECTORY, 0, 0).number
    file = w.namespace.create(1, b"f", FILE, 0, 0).number
    w.namespace.rmdir(1, b"d")
    for call in (
        lambda: w.namespace.create(number, b"f", FILE, 0, 0),
        lambda: w.namespace.link(file, number, b"f"),
        lambda: w.namespace.rename(1, b"f", number, b"f", wait_for_content=False),
        lambda: w.namespace.path_of(number),
    ):
        with pytest.raises(NoEntry):
            call()
    assert names_in(w, number) == []


def test_a_directory_is_not_moved_into_itself_nor_over_what_holds_it(w) -> None:
    names = w.namespace
    one = names.create(1, b"1", DIRECTORY, 0, 0).number
    two = names.create(one, b"2", DIRECTORY, 0, 0).number
    for target in (one, two):
        with pytest.raises(InvalidMove):
            names.rename(1, b"1", target, b"x", wait_for_content=False)
    with pytest.raises(InvalidMove):
        names.exchange(one, b"2", 1, b"1")
    with pytest.raises(NotEmpty):
        names.rename(one, b"2", 1, b"1", wait_for_content=False)
    with pytest.raises(NotADirectory):
        names.lookup(names.create(1, b"f", FILE, 0, 0).number, b"x")


def test_a_rename_over_another_name_of_the_same_inode_does_nothing(w) -> None:
    row = w.namespace.create(1, b"a", FILE, 0, 0)
    w.namespace.link(row.number, 1, b"b")
    before = len(w.outbox)
    assert w.namespace.rename(1, b"a", 1, b"b", wait_for_content=False) is None
    assert names_in(w) == [b"a", b"b"]
    assert len(w.outbox) == before


def test_a_directory_has_one_name_only(w) -> None:
    number = w.namespace.create(1, b"d", DIRECTORY, 0, 0).number
    with pytest.raises(NotPermitted):
        w.namespace.link(number, 1, b"e")


# --- many -----------------------------------------------------------------------------------------


def test_a_listing_has_what_stays_exactly_once_while_names_come_and_go(w) -> None:
    for number in range(1000):
        w.namespace.create(1, b"stays %d" % number, FILE, 0, 0)
        w.namespace.create(1, b"goes %d" % number, FILE, 0, 0)
    seen = []
    after = 0
    for step in range(1, 10_000):
        entry = next(w.namespace.readdir(1, after), None)
        if entry is None:
            break
        name, _, after = entry
        seen.append(name)
        if step % 2 and step < 1900:
            w.namespace.unlink(1, b"goes %d" % (999 - step // 2))
            w.namespace.create(1, b"new %d" % step, FILE, 0, 0)
        if step % 100 == 0:
            w.database.commit_now()
    stays = [name for name in seen if name.startswith(b"stays")]
    assert sorted(stays) == sorted(b"stays %d" % number for number in range(1000))
    assert seen[:2] == [b".", b".."]
    assert len(set(seen)) == len(seen)


def test_a_renamed_entry_keeps_its_place_in_the_listing(w) -> None:
    for name in (b"a", b"b", b"c"):
        w.namespace.create(1, name, FILE, 0, 0)
    w.namespace.rename(1, b"b", 1, b"z", wait_for_content=False)
    assert names_in(w) == [b"a", b"z", b"c"]


def seconds_for(count: int, call) -> float:
    start = time.thread_time()
    for number in range(count):
        call(number)
    return time.thread_time() - start


def test_ten_thousand_names_of_one_file_cost_ten_times_a_thousand(w) -> None:
    row = w.namespace.create(1, b"f", FILE, 0, 0)
    w.publish()
    w.database.commit_now()
    few = seconds_for(1000, lambda at: w.namespace.link(row.number, 1, b"few %d" % at))
    w.database.commit_now()
    many = seconds_for(10_000, lambda at: w.namespace.link(row.number, 1, b"many %d" % at))
    assert w.namespace.by_number(row.number).nlink == 11_001
    assert many < 40 * few
    w.database.commit_now()
    gone = seconds_for(10_000, lambda at: w.namespace.unlink(1, b"many %d" % at))
    assert gone < 80 * few


def test_fifty_thousand_entries_cost_ten_times_five_thousand(w) -> None:
    def make(number: int) -> None:
        w.namespace.create(1, b"entry %d" % number, FILE, 0, 0)
        if number % 1000 == 999:
            w.publish()
            w.database.commit_now()

    few = seconds_for(5_000, make)
    many = seconds_for(50_000, lambda number: make(number + 5_000))
    assert w.namespace.by_number(1).children == 55_000
    assert many < 30 * few
    start = time.thread_time()
    assert len(names_in(w)) == 55_000
    assert time.thread_time() - start < 3 * many


# --- extended attributes --------------------------------------------------------------------------


def test_extended_attributes_are_set_replaced_listed_and_removed(w) -> None:
    number = w.namespace.create(1, b"f", FILE, 0, 0).number
    w.namespace.set_xattr(number, b"user.b", b"1")
    w.namespace.set_xattr(number, b"user.a", b"")
    w.namespace.set_xattr(number, b"user.b", b"2")
    assert w.namespace.list_xattrs(number) == [b"user.a", b"user.b"]
    assert w.namespace.get_xattr(number, b"user.b") == b"2"
    w.namespace.remove_xattr(number, b"user.b")
    assert w.namespace.list_xattrs(number) == [b"user.a"]
    for call in (w.namespace.get_xattr, w.namespace.remove_xattr):
        with pytest.raises(NoAttribute):
            call(number, b"user.b")


def test_extended_attributes_have_the_limits_of_linux(w) -> None:
    number = w.namespace.create(1, b"f", FILE, 0, 0).number
    w.namespace.set_xattr(number, b"user." + b"n" * 250, b"v" * 65536)
    with pytest.raises(NameTooLong):
        w.namespace.set_xattr(number, b"user." + b"n" * 251, b"")
    with pytest.raises(TooLarge):
        w.namespace.set_xattr(number, b"user.v", b"v" * 65537)
    for count in range(260):
        w.namespace.set_xattr(number, b"user.%0245d" % count, b"")
    with pytest.raises(TooLarge):
        w.namespace.set_xattr(number, b"user." + b"m" * 250, b"")


# --- where devices clashed ------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path_factory):
    with world(tmp_path_factory.mktemp("other"), device=2) as made:
        yield made


def exchange_entries(w, other) -> None:
    """Both devices learn what the other has done."""
    for one, two in ((w, other), (other, w)):
        one.publish()
        apply_batch(two.tree, one.published)
        for stamp, _ in one.published:
            two.clock.observe(stamp)


def test_two_files_of_one_name_are_both_seen_the_same_on_both_devices(w, other) -> None:
    first = w.namespace.create(1, b"report.odt", FILE, 0, 0)
    second = other.namespace.create(1, b"report.odt", FILE, 0, 0)
    exchange_entries(w, other)
    assert names_in(w)[0] == names_in(other)[-1] == b"report.odt"
    assert sorted(names_in(w)) == sorted(names_in(other))
    suffixed = min(names_in(w))
    assert suffixed.startswith(b"report (conflict ")
    assert suffixed.endswith(b").odt")
    for device in (w, other):
        assert device.namespace.lookup(1, b"report.odt").inode == first.inode
        assert device.namespace.lookup(1, suffixed).inode == second.inode
        assert device.namespace.path_of(device.namespace.lookup(1, suffixed).number) == (
            b"/" + suffixed
        )


def test_a_conflict_name_fits_255_bytes_and_ends_with_a_whole_character(w, other) -> None:
    name = "é".encode() * 125 + b".txt"
    for device in (w, other):
        device.namespace.create(1, name, FILE, 0, 0)
    exchange_entries(w, other)
    shown = names_in(w)
    assert max(map(len, shown)) <= 255
    for one in shown:
        assert one.decode().endswith(".txt")
        assert w.namespace.lookup(1, one).nlink == 1


def test_removing_or_replacing_the_plain_name_leaves_the_other_file_where_it_was_seen(
    w, other
) -> None:
    for name in (b"removed", b"replaced", b"moved"):
        w.namespace.create(1, name, FILE, 0, 0)
        other.namespace.create(1, name, FILE, 0, 0)
    exchange_entries(w, other)
    suffixed = {name: w.namespace.lookup(1, name).inode for name in names_in(w) if b"(" in name}
    assert len(suffixed) == 3
    w.namespace.unlink(1, b"removed")
    new = w.namespace.create(1, b"new", FILE, 0, 0)
    w.namespace.rename(1, b"new", 1, b"replaced", wait_for_content=False)
    w.namespace.rename(1, b"moved", 1, b"elsewhere", wait_for_content=False)
    assert sorted(names_in(w)) == sorted([*suffixed, b"replaced", b"elsewhere"])
    assert w.namespace.lookup(1, b"replaced").inode == new.inode
    for name, inode in suffixed.items():
        assert w.namespace.lookup(1, name).inode == inode
    with pytest.raises(NoEntry):
        w.namespace.lookup(1, b"removed")
    exchange_entries(w, other)
    assert sorted(names_in(other)) == sorted(names_in(w))


def test_two_directories_of_one_name_are_one_directory(w, other) -> None:
    for device in (w, other):
        number = device.namespace.create(1, b"docs", DIRECTORY, 0, 0).number
        below = device.namespace.create(number, b"sub", DIRECTORY, 0, 0).number
        device.namespace.create(below, b"from %d" % device.device[0], FILE, 0, 0)
    own_number = other.namespace.lookup(1, b"docs").number
    exchange_entries(w, other)
    for device in (w, other):
        assert names_in(device) == [b"docs"]
        sub = device.namespace.resolve(b"/docs/sub")
        assert sorted(names_in(device, sub.number)) == [b"from 1", b"from 2"]
    assert other.namespace.lookup(own_number, b"sub").children == 2
    with pytest.raises(NotEmpty):
        w.namespace.rmdir(1, b"docs")
    w.namespace.rename(1, b"docs", 1, b"papers", wait_for_content=False)
    assert names_in(w) == [b"papers"]
    assert len(names_in(w, w.namespace.resolve(b"/papers/sub").number)) == 2
    for name in (b"from 1", b"from 2"):
        w.namespace.unlink(w.namespace.resolve(b"/papers/sub").number, name)
    w.namespace.rmdir(w.namespace.resolve(b"/papers").number, b"sub")
    w.namespace.rmdir(1, b"papers")
    assert names_in(w) == []
    exchange_entries(w, other)
    assert names_in(other) == []


def test_a_directory_removed_here_and_filled_there_is_back(w, other) -> None:
    number = w.namespace.create(1, b"d", DIRECTORY, 0, 0).number
    exchange_entries(w, other)
    w.namespace.rmdir(1, b"d")
    there = other.namespace.lookup(1, b"d").number
    other.namespace.create(there, b"f", FILE, 0, 0)
    exchange_entries(w, other)
    for device in (w, other):
        assert names_in(device, device.namespace.resolve(b"/d").number) == [b"f"]
    assert w.namespace.by_number(number).nlink == 1


def test_delete_against_edit_keeps_the_edit(w, other) -> None:
    row = w.namespace.create(1, b"f", FILE, 0, 0)
    first = Content(row.inode, b"1" * 16, (), 1, 0, (), b"1", 1, 1)
    w.namespace.add_content(first, frozen_at=1, unflushed=False)
    exchange_entries(w, other)
    edit = Content(row.inode, b"2" * 16, (b"1" * 16,), 2, 0, (), b"22", 2, 2)
    other.namespace.add_content(edit, frozen_at=1, unflushed=False)
    w.namespace.unlink(1, b"f")
    exchange_entries(w, other)
    for device in (w, other):
        assert device.namespace.lookup(1, b"f").size == 2
    w.namespace.unlink(1, b"f")
    exchange_entries(w, other)
    for device in (w, other):
        assert names_in(device) == []


def test_concurrent_edits_are_both_kept_and_the_later_is_seen(w, other) -> None:
    row = w.namespace.create(1, b"f", FILE, 0, 0)
    exchange_entries(w, other)
    for device in (w, other):
        version = device.device[:1] * 16
        edit = Content(row.inode, version, (), device.device[0], 0, (), b"x", 1, 1)
        device.namespace.add_content(edit, frozen_at=1, unflushed=False)
    exchange_entries(w, other)
    seen = [device.namespace.lookup(1, b"f") for device in (w, other)]
    assert seen[0].heads == seen[1].heads
    assert len(seen[0].heads) == 2
    assert seen[0].size == seen[1].size == seen[0].heads[0][0]
