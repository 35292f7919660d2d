"""Which units of sparse files are clean, and their checksums: table `clean`.

- b"C" + number u64 + generation u32 + block u64 (big endian) -> era u32, then four times (valid
  u32, checksum u64), little endian: the first `valid` bytes of each 64 KiB unit of that block are
  clean, and the checksum is over them (widened to whole cipher groups) as they lie on the disk.
- b"T" + number u64 + generation u32 -> era u32, low u64: the file was cut `era` times, at the
  lowest to `low` bytes. Rows of an older era count below `low` only, so that a cut needs not
  delete the rows above it.
- b"G" + number u64 + generation u32 -> nothing: the file is gone, its rows can be swept.

A row is a hint that is proved at the first touch: losing one costs a fetch, never data.
"""

import contextlib
import struct
from collections.abc import Iterator, Mapping

from aggfs.cache.table import Table
from aggfs.cache.unitfile import UNIT_BYTES
from aggfs.errors import Damaged
from aggfs.model import BLOCK_BYTES

TABLE = "clean"
UNITS_PER_BLOCK = BLOCK_BYTES // UNIT_BYTES

Unit = tuple[int, int]  # valid bytes, checksum
_ROW = struct.Struct("<IIQIQIQIQ")
_CUT = struct.Struct("<IQ")
FEW_BLOCKS = 16
_PAGE_ROWS = 256
_LOST_ERA = 1 << 31
_UNKNOWN_END = 1 << 62
_PREFIX = struct.Struct(">cQI")
_NO_UNITS: tuple[Unit, ...] = ((0, 0),) * UNITS_PER_BLOCK


class CleanSums:
    """The rows of one generation of one file. On the loop only."""

    def __init__(self, table: Table, number: int, generation: int) -> None:
        self._table = table
        self._prefix = _PREFIX.pack(b"C", number, generation)
        self._cut_key = _PREFIX.pack(b"T", number, generation)
        self._gone_key = _PREFIX.pack(b"G", number, generation)
        self._era, self._low = self._cuts()

    def _cuts(self) -> tuple[int, int]:
        try:
            value = self._table.get(self._cut_key)
        except Damaged:  # nobody knows which rows still count: none
            self._table.put(self._cut_key, _CUT.pack(_LOST_ERA, 0))
            return _LOST_ERA, 0
        return (0, 0) if value is None else _CUT.unpack(value)

    def end(self) -> int:
        """One past the last byte that a row may speak of, 0 when there are no rows; far beyond
        any file when that cannot be told."""
        try:
            row = self._table.last(self._prefix)
        except Damaged:
            return _UNKNOWN_END
        if row is None:
            return 0
        block = int.from_bytes(row[0][-8:])
        units = self._units(block, row[1])
        ends = [index * UNIT_BYTES + valid for index, (valid, _) in enumerate(units) if valid]
        return block * BLOCK_BYTES + max(ends, default=1)

    def block(self, block: int) -> tuple[Unit, ...]:
        """What is recorded of the units of a block; (0, 0) is nothing."""
        try:
            value = self._table.get(self._prefix + block.to_bytes(8))
        except Damaged:
            return _NO_UNITS
        return _NO_UNITS if value is None else self._units(block, value)

    def known(self, first: int, end: int) -> Iterator[tuple[int, tuple[Unit, ...]]]:
        """What is recorded of the blocks of [first, end). A damaged row may end it early: what
        comes after is then fetched again."""
        if end - first <= FEW_BLOCKS:
            for block in range(first, end):
                yield block, self.block(block)
            return
        with contextlib.suppress(Damaged):
            yield from self.blocks(first, end)

    def blocks(self, first: int, end: int) -> Iterator[tuple[int, tuple[Unit, ...]]]:
        """The recorded blocks of [first, end), in order. Raises Damaged."""
        after = self._prefix + (first - 1).to_bytes(8) if first else None
        while True:
            rows = self._table.scan(self._prefix, after, limit=_PAGE_ROWS)
            for key, value in rows:
                block = int.from_bytes(key[-8:])
                if block >= end:
                    return
                yield block, self._units(block, value)
            if len(rows) < _PAGE_ROWS:
                return
            after = rows[-1][0]

    def _units(self, block: int, value: bytes) -> tuple[Unit, ...]:
        era, *fields = _ROW.unpack(value)
        units = tuple(zip(fields[::2], fields[1::2], strict=True))
        if era == self._era:
            return units
        room = self._low // UNIT_BYTES - block * UNITS_PER_BLOCK
        return tuple(unit if index < room else (0, 0) for index, unit in enumerate(units))

    def put_all(self, changed: Mapping[int, Unit]) -> None:
        """Record units by their number in the file; (0, 0) forgets one."""
        blocks: dict[int, dict[int, Unit]] = {}
        for unit, row in changed.items():
            block, index = divmod(unit, UNITS_PER_BLOCK)
            blocks.setdefault(block, {})[index] = row
        for block, units in blocks.items():
            self.put(block, units)

    def put(self, block: int, units: Mapping[int, Unit]) -> None:
        """Record some units of a block, by their index in it; (0, 0) forgets one."""
        known = list(self.block(block))
        for index, unit in units.items():
            known[index] = unit
        key = self._prefix + block.to_bytes(8)
        if any(valid for valid, _ in known):
            row = _ROW.pack(self._era, *(field for unit in known for field in unit))
            self._table.put(key, row)
        else:
            self._table.delete(key)

    def cut(self, size: int) -> None:
        """Forget what lies at or above `size`, and the rest of the unit where that is."""
        self._low = min(self._low, size) if self._era else size
        self._era += 1
        self._table.put(self._cut_key, _CUT.pack(self._era, self._low))

    def discard(self) -> None:
        """The file is gone: `sweep` will delete its rows."""
        self._table.put(self._gone_key, b"")


def sweep(table: Table, limit: int) -> bool:
    """Delete at most `limit` rows of files that are gone; whether there may be more."""
    for key, _ in table.scan(b"G", limit=limit):
        rows = table.scan(b"C" + key[1:], limit=limit)
        for row, _ in rows:
            table.delete(row)
        limit -= len(rows) + 1
        if limit < 0:
            return True
        table.delete(b"T" + key[1:])
        table.delete(key)
    return limit == 0
