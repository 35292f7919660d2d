"""The outbox: entries that are done here and not published yet, in the order of doing.

Table `outbox`: sequence u64 -> OutboxRow. Sequences start at 1 and are never given twice while
their row, or a later one, is there.
"""

import msgspec

from aggfs.cache.database import Database
from aggfs.errors import Damaged
from aggfs.model import Entry, OutboxRow, Stamp

TABLES = ("outbox",)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutboxRow).decode


class Outbox:
    """The rows above. On the loop only."""

    def __init__(self, database: Database) -> None:
        self._table = database.table("outbox")
        last = self._table.last(b"")
        self._next = int.from_bytes(last[0]) + 1 if last else 1
        self._count = sum(1 for _ in self._table.scan(b""))

    def __len__(self) -> int:
        return self._count

    @property
    def next_sequence(self) -> int:
        """What the next row will get."""
        return self._next

    def append(
        self, stamp: Stamp, entry: Entry, waits_for: bytes = b"", *, frozen_at: int = 0
    ) -> int:
        """Add an entry; its sequence."""
        sequence = self._next
        self._next += 1
        self._count += 1
        self._table.put(sequence.to_bytes(8), _encode(OutboxRow(stamp, entry, waits_for, frozen_at)))
        return sequence

    def drop(self, sequence: int) -> None:
        """It was published, or must never be."""
        self._count -= 1
        self._table.delete(sequence.to_bytes(8))

    def row(self, sequence: int) -> OutboxRow | None:
        """One row."""
        value = self._table.get(sequence.to_bytes(8))
        return None if value is None else _decoded(value)

    def rows(self) -> list[tuple[int, OutboxRow]]:
        """All rows in order."""
        return [(int.from_bytes(key), _decoded(value)) for key, value in self._table.scan(b"")]

    def first(self) -> OutboxRow | None:
        """The oldest row."""
        rows = self._table.scan(b"", limit=1)
        return _decoded(rows[0][1]) if rows else None


def _decoded(value: bytes) -> OutboxRow:
    try:
        return _decode(value)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Damaged(f"the local database holds a damaged outbox row: {error}") from error
