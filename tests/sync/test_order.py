"""What may be published, and what must wait for what."""

from stat import S_IFDIR, S_IFREG

from hypothesis import given
from hypothesis import strategies as st

from aggfs.model import (
    NOWHERE,
    ROOT,
    AccountEntry,
    Content,
    Create,
    Extent,
    OutboxRow,
    Place,
    Placement,
    SetAttributes,
    Stamp,
)
from aggfs.sync.order import ready

A, B, C, D = (letter * 16 for letter in (b"a", b"b", b"c", b"d"))


def link_of(inode: bytes) -> bytes:
    return b"l" + inode[1:]


class Rows:
    """An outbox under construction."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, OutboxRow]] = []
        self.unflushed: set[bytes] = set()
        self.stored: set[bytes] = set()

    def add(self, entry, waits_for: bytes = b"", frozen_at: int = 0, frees=()) -> int:
        number = len(self.rows) + 1
        stamp = Stamp(number, b"x" * 8)
        self.rows.append((number, OutboxRow(stamp, entry, waits_for, frozen_at, tuple(frees))))
        return number

    def create(self, inode: bytes, name: bytes, parent: bytes = ROOT, mode: int = S_IFREG) -> int:
        link = inode if mode == S_IFDIR else link_of(inode)
        placement = Placement(link, inode, parent, name)
        waits_for = inode if mode == S_IFREG else b""
        return self.add(Create(inode, mode, 0, 0, 0, b"", 1, placement), waits_for)

    def content(self, inode: bytes, version: bytes, frozen_at: int) -> int:
        extents = (Extent(0, bytes(24), 0, 1),)
        entry = Content(inode, version, (), 1, 0, extents, b"", 1, 1)
        return self.add(entry, frozen_at=frozen_at)

    def rename(self, inode: bytes, name: bytes, *gone: bytes, wait: bool = True, frees=()) -> int:
        moved = Placement(link_of(inode), inode, ROOT, name)
        removed = [Placement(link_of(other), other, NOWHERE, name) for other in gone]
        entry = Place((moved, *removed), 1, (ROOT,))
        return self.add(entry, inode if wait else b"", frees=frees)

    def unlink(self, inode: bytes, name: bytes) -> int:
        gone = Placement(link_of(inode), inode, NOWHERE, name)
        return self.add(Place((gone,), 1, (ROOT,)), frees=((ROOT, name),))

    def ready(self, window: int = 1000) -> list[int]:
        chosen = ready(
            self.rows,
            window=window,
            unflushed=lambda inode: inode in self.unflushed,
            stored=lambda content: content.version in self.stored,
        )
        return [number for number, _ in chosen]


def test_a_new_file_is_published_with_its_content_not_before() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.unflushed = {A}
    assert rows.ready() == []
    rows.content(A, b"1" * 16, frozen_at=2)
    rows.unflushed = set()
    assert rows.ready() == []
    rows.stored = {b"1" * 16}
    assert rows.ready() == [1, 2]


def test_a_file_that_stays_empty_is_published_as_it_is() -> None:
    rows = Rows()
    rows.create(A, b"a")
    assert rows.ready() == [1]


def test_other_files_overtake_one_that_waits() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.create(B, b"b")
    rows.unflushed = {A}
    assert rows.ready() == [2]


def test_entries_on_an_inode_that_waits_wait_with_it() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.add(SetAttributes(A, 0o600, None, None, None, None, None))
    rows.add(SetAttributes(B, 0o600, None, None, None, None, None))
    rows.unflushed = {A}
    assert rows.ready() == [3]


def test_what_lies_in_a_directory_waits_for_the_directory() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.rename(A, b"old", wait=False)
    rows.create(D, b"a", mode=S_IFDIR)
    rows.create(B, b"b", parent=D)
    rows.unflushed = {A}
    rows.rows[1] = (2, OutboxRow(*_fields(rows.rows[1][1], frees=((ROOT, b"a"),))))
    assert rows.ready() == []


def _fields(row: OutboxRow, frees) -> tuple:
    return row.stamp, row.entry, row.waits_for, row.frozen_at, frees


def test_a_rename_over_a_file_waits_for_the_content_of_what_it_brings() -> None:
    rows = Rows()
    rows.create(B, b"temporary")
    rows.rename(B, b"x", A)
    rows.unflushed = {B}
    assert rows.ready() == []
    rows.content(B, b"1" * 16, frozen_at=3)
    rows.stored = {b"1" * 16}
    assert rows.ready() == [1, 2, 3]


def test_a_rename_waits_for_content_that_was_on_its_way_when_it_was_made() -> None:
    rows = Rows()
    rows.rename(B, b"x", A)
    rows.content(B, b"1" * 16, frozen_at=1)
    assert rows.ready() == []
    rows.stored = {b"1" * 16}
    assert rows.ready() == [1, 2]


def test_content_frozen_before_a_rename_does_not_let_it_go() -> None:
    rows = Rows()
    rows.create(B, b"temporary")
    rows.content(B, b"1" * 16, frozen_at=2)
    rows.rename(B, b"x", A)
    rows.stored = {b"1" * 16}
    rows.unflushed = {B}
    assert rows.ready() == [1, 2]
    rows.content(B, b"2" * 16, frozen_at=4)
    assert rows.ready() == [1, 2]
    rows.stored |= {b"2" * 16}
    assert rows.ready() == [1, 2, 3, 4]


def test_a_version_is_not_published_before_the_version_it_rests_on() -> None:
    rows = Rows()
    rows.content(A, b"1" * 16, frozen_at=1)
    rows.content(A, b"2" * 16, frozen_at=2)
    rows.stored = {b"2" * 16}
    assert rows.ready() == []


def test_a_name_that_is_made_free_is_not_taken_before() -> None:
    rows = Rows()
    rows.rename(A, b"log.1", frees=((ROOT, b"log"),))
    rows.create(B, b"log")
    rows.unflushed = {A}
    assert rows.ready() == []


def test_a_replaced_replacement_without_content_is_seen_with_its_successor_only() -> None:
    rows = Rows()
    rows.rename(B, b"x", A)
    rows.rename(C, b"x", B)
    rows.unflushed = {C}
    assert rows.ready() == []
    rows.unflushed = set()
    assert rows.ready() == [1, 2]


def test_content_beyond_the_window_comes_along() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.create(B, b"b")
    rows.create(C, b"c")
    rows.content(A, b"1" * 16, frozen_at=4)
    rows.content(C, b"2" * 16, frozen_at=4)
    assert rows.ready(window=2) == [2]
    rows.stored = {b"1" * 16}
    assert rows.ready(window=2) == [1, 2, 4]


def test_control_entries_wait_for_nothing() -> None:
    rows = Rows()
    rows.create(A, b"a")
    rows.add(AccountEntry(b"x" * 8, "name", "provider", 0, removed=False))
    rows.unflushed = {A}
    assert rows.ready() == [2]


def test_an_unlink_waits_for_the_file_and_frees_its_name_after_it() -> None:
    rows = Rows()
    rows.content(A, b"1" * 16, frozen_at=1)
    rows.unlink(A, b"x")
    rows.create(B, b"x")
    assert rows.ready() == []
    rows.stored = {b"1" * 16}
    assert rows.ready() == [1, 2, 3]


actions = st.lists(
    st.tuples(
        st.sampled_from(["create", "content", "rename", "over", "unlink"]), *[st.integers(0, 3)] * 2
    ),
    max_size=15,
)


@given(actions, st.sets(st.integers(0, 15)), st.sets(st.integers(0, 3)))
def test_what_is_chosen_never_overtakes_and_never_lacks_its_content(
    steps, stored, unflushed
) -> None:
    inodes = [A, B, C, D]
    rows = Rows()
    for at, (action, one, two) in enumerate(steps):
        inode, other = inodes[one], inodes[two]
        if action == "create":
            rows.create(inode, b"%d" % two)
        elif action == "content":
            rows.content(inode, bytes([at]) * 16, frozen_at=max(1, at + 1 - two))
        elif action == "rename":
            rows.rename(inode, b"%d" % two)
        elif action == "over" and inode != other:
            rows.rename(inode, b"%d" % two, other)
        else:
            rows.unlink(inode, b"%d" % two)
    rows.stored = {bytes([at]) * 16 for at in stored}
    rows.unflushed = {inodes[at] for at in unflushed}
    chosen = [pair for pair in rows.rows if pair[0] in rows.ready()]
    held_back = [pair for pair in rows.rows if pair not in chosen]
    for number, row in chosen:
        assert not isinstance(row.entry, Content) or row.entry.version in rows.stored
        assert row.waits_for not in rows.unflushed or any(
            isinstance(other.entry, Content)
            and other.entry.inode == row.waits_for
            and other.frozen_at > number
            for _, other in chosen
        )
        subjects = _subjects(row.entry)
        assert all(
            subjects.isdisjoint(_subjects(other.entry))
            for earlier, other in held_back
            if earlier < number
        )


def _subjects(entry) -> set[bytes]:
    if isinstance(entry, Place):
        return {placement.inode for placement in entry.placements}
    return {entry.inode}
