"""The stripes on their way out: table `dying`, sid 24 -> `DyingRow` (`aggfs.sync.collection`)."""

from collections.abc import Iterator

import msgspec

from aggfs.cache.table import Tables
from aggfs.errors import Damaged
from aggfs.sync.collection import DyingRow

TABLES = ("dying",)
ROWS_AT_ONCE = 1000

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(DyingRow).decode


class Dying:
    """The table above, of a database or of a snapshot of one."""

    def __init__(self, database: Tables) -> None:
        self._table = database.table("dying")

    def get(self, sid: bytes) -> DyingRow | None:
        """The row of a stripe, None if it is not on its way out."""
        value = self._table.get(sid)
        return None if value is None else self._row(value)

    def put(self, sid: bytes, row: DyingRow) -> None:
        """Set it."""
        self._table.put(sid, _encode(row))

    def drop(self, sid: bytes) -> None:
        """It is gone, or it lives on."""
        self._table.delete(sid)

    def rows(self) -> Iterator[tuple[bytes, DyingRow]]:
        """All of them, in order of sid; changes on the way may be seen."""
        after: bytes | None = None
        while page := self._table.scan(b"", after, limit=ROWS_AT_ONCE):
            yield from ((sid, self._row(value)) for sid, value in page)
            after = page[-1][0]

    @staticmethod
    def _row(value: bytes) -> DyingRow:
        try:
            return _decode(value)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise Damaged(f"the local database holds a damaged row: {error}") from error
