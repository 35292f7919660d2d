"""Segments, checkpoints and tables are read from objects and a keyring alone."""

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding.codec import cell_range
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.records import open_record, read_table, read_table_cells, seal_record, table_range
from aggfs.errors import Damaged, TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.formats.table import TableRow, decode_rows, encode_rows
from aggfs.model import BLOCK_BYTES
from tests.support.stripes import SID, content, fragments_of, keys_of_test_volume, sealed_stripe

KEYS = keys_of_test_volume()


def objects_of(record: bytes, *, sid: bytes = SID, kind: Kind = Kind.SEGMENT) -> list[bytes]:
    sealed = seal_record(KEYS, sid=sid, kind=kind, record=record)
    return list(fragments_of(KEYS, sealed, k=3, n=5).values())


@pytest.mark.parametrize("size", [0, 1, 2, 3, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_a_record_comes_back_from_any_three_of_its_five_objects(size: int) -> None:
    record = content(size)
    objects = objects_of(record)
    for left in ([0, 1, 2], [4, 2, 3], [4, 0, 1, 3, 2]):
        opened = open_record(KEYS, Kind.SEGMENT, [objects[index] for index in left])
        assert opened.data == record
        assert opened.row.sid == SID
        assert opened.bad == ()


def test_damaged_and_foreign_objects_are_left_out_and_told() -> None:
    objects = objects_of(b"entries")
    damaged = bytearray(objects[1])
    damaged[130] ^= 1
    opened = open_record(
        KEYS, Kind.SEGMENT, [objects[0], damaged, b"foreign", objects[4], objects[3]]
    )
    assert opened.data == b"entries"
    assert opened.bad == (1, 2)


def test_objects_of_two_tries_at_one_record_are_not_mixed() -> None:
    first = objects_of(b"first try")
    second = objects_of(b"second", sid=SID[::-1])
    opened = open_record(KEYS, Kind.SEGMENT, [*first[:2], *second[2:]])
    assert opened.data == b"second"
    assert opened.bad == (0, 1)


def test_too_few_objects_or_another_kind_are_told() -> None:
    objects = objects_of(b"entries")
    with pytest.raises(TooFewFragments):
        open_record(KEYS, Kind.SEGMENT, objects[:2])
    with pytest.raises(TooFewFragments):
        open_record(KEYS, Kind.SEGMENT, [objects[0]] * 5)
    with pytest.raises(TooFewFragments):
        open_record(KEYS, Kind.CHECKPOINT, objects)
    with pytest.raises(TooFewFragments):
        open_record(KEYS, Kind.SEGMENT, [])


@given(st.integers(0, 2**32))
def test_objects_damaged_anywhere_give_the_record_or_an_error(seed: int) -> None:
    chance = random.Random(seed)
    objects = [bytearray(data) for data in objects_of(b"entries" * 9)]
    for data in chance.sample(objects, chance.randint(1, 4)):
        if chance.random() < 0.5:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] ^= chance.randint(1, 255)
    with suppress(TooFewFragments):
        assert open_record(KEYS, Kind.SEGMENT, objects).data == b"entries" * 9


def test_a_table_tells_what_was_sealed_when_no_row_is_left() -> None:
    rows = (
        TableRow(b"i" * 16, b"v" * 16, b"p" * 16, b"photo.jpg", 400_000, 0, 2),
        TableRow(b"j" * 16, b"w" * 16, b"p" * 16, b"", 10, 7, 1),
    )
    blocks = [content(BLOCK_BYTES), content(400_000 - BLOCK_BYTES), content(10)]
    sealed = sealed_stripe(KEYS, blocks, table=encode_rows(rows))
    fragments = fragments_of(KEYS, sealed, k=3, n=5, indices=[1, 3, 4])
    header = open_header_of_fragment(KEYS, fragments[3])
    row, table = read_table(KEYS, header, fragments)
    assert row.sealed_bytes == sealed.sealed_bytes
    assert decode_rows(table) == rows
    assert table_range(header) == cell_range(sealed.sealed_bytes, 3, 3)
    start, length = table_range(header)
    cells = {index: data[start : start + length] for index, data in fragments.items()}
    assert read_table_cells(KEYS, header, cells) == (row, table)
    with pytest.raises(Damaged):
        read_table_cells(KEYS, header, cells | {1: cells[1][:-1] + b"?"})
