"""The outbox: what is done and not published is there after every stop, in order."""

import pytest
import trio

from aggfs.cache.database import Database
from aggfs.cache.outbox import TABLE, Outbox
from aggfs.errors import Damaged
from aggfs.model import (
    Content,
    Create,
    DropStripe,
    Extent,
    OutboxRow,
    Place,
    Placement,
    Relocate,
    SetAttributes,
    SetXattr,
    Stamp,
)

INODE, LINK, SID = bytes(16), b"l" * 16, b"s" * 24
PLACEMENT = Placement(LINK, INODE, INODE, b"name")
ENTRIES = [
    Create(INODE, 0o100644, 1, 2, 0, b"", -5, PLACEMENT),
    Place((PLACEMENT, Placement(LINK, INODE, b"", b"")), 17),
    SetAttributes(INODE, None, 3, None, None, 5, None),
    SetXattr(INODE, b"user.x", None, 8),
    Content(INODE, LINK, (INODE,), 9, 3, (Extent(0, SID, 1, 2),), b"", 1, 2),
    Relocate(SID, 0, 1, SID, 2),
    DropStripe(SID),
]


def restart(database):
    path = database._environment.path()
    database.abandon()
    return Database.open(path, tables=(TABLE,))


@pytest.fixture
def database(tmp_path):
    return Database.open(str(tmp_path), tables=(TABLE,))


def test_rows_come_back_as_they_were_and_in_order(database):
    outbox = Outbox(database)
    for number, entry in enumerate(ENTRIES):
        sequence = outbox.append(Stamp(number, b"d" * 8), entry, LINK, frozen_at=number)
        assert sequence == number + 1
    rows = outbox.rows()
    assert [row.entry for _, row in rows] == ENTRIES
    database.commit_now()
    again = Outbox(restart(database))
    assert again.rows() == rows
    assert again.first() == (1, OutboxRow(Stamp(0, b"d" * 8), ENTRIES[0], LINK, 0))
    assert len(again) == len(ENTRIES)


def test_a_row_can_be_stamped_anew_and_keeps_its_place(database):
    outbox = Outbox(database)
    first = outbox.append(Stamp(1, b"d" * 8), ENTRIES[0], LINK)
    outbox.append(Stamp(2, b"d" * 8), ENTRIES[1])
    outbox.put(first, OutboxRow(Stamp(9, b"d" * 8), ENTRIES[0]))
    assert [sequence for sequence, _ in outbox.rows()] == [1, 2]
    assert outbox.get(first) == OutboxRow(Stamp(9, b"d" * 8), ENTRIES[0])


def test_no_sequence_comes_twice(database):
    outbox = Outbox(database)
    numbers = [outbox.append(Stamp(1, b"d" * 8), ENTRIES[0]) for _ in range(3)]
    for number in numbers:
        outbox.drop(number)
        outbox.drop(number)
    assert outbox.first() is None
    database.commit_now()
    outbox = Outbox(restart(database))
    assert outbox.rows() == []
    assert outbox.next_sequence == 4
    assert outbox.append(Stamp(1, b"d" * 8), ENTRIES[0]) == 4


async def test_a_row_that_is_no_entry_is_damage(database):
    database.table(TABLE).put((1).to_bytes(8), b"\xc1")
    with pytest.raises(Damaged):
        Outbox(database)
    database.table(TABLE).delete((1).to_bytes(8))
    await database.close()


def test_a_crash_takes_what_was_not_durable_and_nothing_else(database):
    outbox = Outbox(database)
    outbox.append(Stamp(1, b"d" * 8), ENTRIES[0])
    trio.run(database.durable)
    outbox.append(Stamp(2, b"d" * 8), ENTRIES[1])
    outbox = Outbox(restart(database))
    assert [row.entry for _, row in outbox.rows()] == ENTRIES[:1]
