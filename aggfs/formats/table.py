"""The table of a stripe: how long its sealed blocks are, and what they were when sealed.

The table is the stripe's last block, so it is sealed and coded like the others and whole at no
provider. With it a stripe can be read when its row is lost, and if every journal were lost, the
contents and last known names could still be rebuilt.

    version u8
    sizes:  count u32, then runs of (times u32, sealed length u32) that sum up to count
    rows:   each a run of blocks of one file, in the order of the blocks
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from aggfs.errors import UnknownVersion
from aggfs.formats.fragment import BLOCKS_LIMIT, SEALED_LIMIT_BYTES
from aggfs.formats.record import Buffer, Reader
from aggfs.formats.sizes import SEALED_LEAST_BYTES
from aggfs.model import NAME_BYTES

ROWS_LIMIT_BYTES = 384 * 1024

_VERSION = 1
_ROW = struct.Struct(">16s16s16sQQIB")
_RUN = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class TableRow:
    """`count` blocks of a file from `block` on, as they were named when they were sealed."""

    inode: bytes
    version: bytes
    parent: bytes
    name: bytes
    size: int
    block: int
    count: int


def row_bytes(row: TableRow) -> int:
    """How much of ROWS_LIMIT_BYTES a row takes."""
    return _ROW.size + len(row.name)


def encode_rows(rows: Iterable[TableRow]) -> bytes:
    """The rows of a stripe, in the order of its blocks. Beyond ROWS_LIMIT_BYTES: ValueError."""
    encoded = b"".join(
        _ROW.pack(row.inode, row.version, row.parent, row.size, row.block, row.count, len(row.name))
        + row.name
        for row in rows
    )
    if len(encoded) > ROWS_LIMIT_BYTES:
        raise ValueError(f"the rows of a stripe take {len(encoded)} bytes: too many files in it")
    return encoded


def decode_rows(data: Buffer) -> tuple[TableRow, ...]:
    """The reverse, or `Damaged`."""
    reader = Reader(data, "stripe table")
    if reader.left > ROWS_LIMIT_BYTES:
        raise reader.damaged("it is too long")
    rows = []
    while reader.left:
        inode, version, parent = (reader.take(16) for _ in range(3))
        size = reader.number(8)
        block = reader.number(8)
        count = reader.number(4, low=1, high=BLOCKS_LIMIT)
        name = reader.counted(1, limit=NAME_BYTES)
        rows.append(TableRow(inode, version, parent, name, size, block, count))
    return tuple(rows)


def encode_sizes(sealed_bytes: Sequence[int]) -> bytes:
    """Lengths of sealed blocks, equal neighbours together."""
    runs = (_RUN.pack(len(list(run)), length) for length, run in groupby(sealed_bytes))
    return b"".join((len(sealed_bytes).to_bytes(4, "big"), *runs))


def decode_sizes(reader: Reader) -> tuple[int, ...]:
    """The reverse, taken off the front of `reader`; or `Damaged`."""
    count = reader.number(4, high=BLOCKS_LIMIT)
    lengths: list[int] = []
    while len(lengths) < count:
        times = reader.number(4, low=1, high=count - len(lengths))
        length = reader.number(4, low=SEALED_LEAST_BYTES, high=SEALED_LIMIT_BYTES)
        lengths.extend([length] * times)
    return tuple(lengths)


def encode_table(sealed_bytes: Sequence[int], rows: Buffer) -> bytes:
    """The plaintext of a table: the lengths of the sealed blocks before it, and encoded rows."""
    return b"".join((bytes([_VERSION]), encode_sizes(sealed_bytes), rows))


def decode_table(data: Buffer) -> tuple[tuple[int, ...], bytes]:
    """The lengths of the sealed blocks before the table, and the encoded rows; or `Damaged`."""
    reader = Reader(data, "stripe table")
    version = reader.number(1)
    if version != _VERSION:
        raise UnknownVersion(f"a stripe table of version {version}: a newer aggfs wrote it")
    return decode_sizes(reader), reader.rest()
