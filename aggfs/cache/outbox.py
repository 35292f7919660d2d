"""The durable list of entries that are done here and not published yet: table `outbox`.

- sequence u64 big endian -> OutboxRow (msgpack).
- b"next" -> u64: where the sequence goes on; written when the newest row is dropped, so that no
  sequence ever comes twice.

All rows are kept decoded as well: the publisher looks at them each second, and there are few.
"""

import msgspec
import trio

from aggfs.cache.table import Tables
from aggfs.errors import Damaged
from aggfs.model import Entry, OutboxRow, Stamp

TABLE = "outbox"
_NEXT = b"next"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(OutboxRow).decode


class Outbox:
    """The table above, on the loop. Raises Damaged when it is opened and a row is damaged: it
    holds what exists nowhere else."""

    def __init__(self, database: Tables) -> None:
        self._table = database.table(TABLE)
        self._rows: dict[int, OutboxRow] = {}
        self._next = 1
        self._dropped: trio.Event | None = None  # while somebody waits for it
        for key, value in self._table.scan(b""):
            if key == _NEXT:
                self._next = max(self._next, int.from_bytes(value))
                continue
            try:
                row = _decode(value)
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                raise Damaged(f"the local database holds a damaged entry: {error}") from error
            number = int.from_bytes(key)
            self._rows[number] = row
            self._next = max(self._next, number + 1)

    @property
    def next_sequence(self) -> int:
        """What `append` will return next."""
        return self._next

    def append(
        self,
        stamp: Stamp,
        entry: Entry,
        waits_for: bytes = b"",
        *,
        frozen_at: int = 0,
        frees: tuple[tuple[bytes, bytes], ...] = (),
    ) -> int:
        """Add an entry that was just done; its sequence. Durable with what it changed."""
        sequence = self._next
        self._next += 1
        self.put(sequence, OutboxRow(stamp, entry, waits_for, frozen_at, frees))
        return sequence

    def put(self, sequence: int, row: OutboxRow) -> None:
        """Set the row of a sequence that `append` gave: another stamp, nothing to wait for."""
        self._rows[sequence] = row
        self._table.put(sequence.to_bytes(8), _encode(row))

    def drop(self, sequence: int) -> None:
        """It is published, or will never be."""
        if self._rows.pop(sequence, None) is None:
            return
        self._table.delete(sequence.to_bytes(8))
        if self._dropped is not None:
            self._dropped.set()
            self._dropped = None
        if sequence == self._next - 1:
            self._table.put(_NEXT, self._next.to_bytes(8))

    async def wait_dropped(self) -> None:
        """Return when a row is dropped. The caller sets the deadline."""
        if self._dropped is None:
            self._dropped = trio.Event()
        await self._dropped.wait()

    def get(self, sequence: int) -> OutboxRow | None:
        """The row, unless it was dropped."""
        return self._rows.get(sequence)

    def rows(self) -> list[tuple[int, OutboxRow]]:
        """All rows with their sequences, oldest first."""
        return list(self._rows.items())

    def first(self) -> tuple[int, OutboxRow] | None:
        """The oldest row."""
        return next(iter(self._rows.items()), None)

    def __len__(self) -> int:
        """How many entries wait."""
        return len(self._rows)
