"""What is kept of the past, as `LmdbTree` writes it down: for looking back, and for trimming.

Tables, see docs/schema.md: `past` (places that links have left), `removed` (links without a
place, by the time they lost it), `superseded` (inodes with versions that are not current). The
last two are hints: what they tell of may have changed since, its rows say.
"""

from collections.abc import Iterator

import msgspec

from aggfs.cache.table import Table, Tables
from aggfs.errors import Damaged
from aggfs.model import PastRow

PAGE_ROWS = 500
ID_BYTES = 16
LAST_ID = b"\xff" * ID_BYTES

_decode = msgspec.msgpack.Decoder(PastRow).decode


class Past:
    """The tables above. On the loop only; whoever walks them may change them on the way."""

    def __init__(self, database: Tables) -> None:
        self._past = database.table("past")
        self._removed = database.table("removed")
        self._superseded = database.table("superseded")

    # --- places -------------------------------------------------------------------------------

    def left(self, place: bytes, after: bytes) -> Iterator[tuple[bytes, PastRow]]:
        """(link, row) of what was in a directory and left it by a move after that stamp."""
        for key, value in _rows(self._past, place, place + after + LAST_ID):
            yield key[2 * ID_BYTES :], _row(value)

    def places(self, after: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """Some keys above `after`, with the stamps until which their places were taken."""
        rows = self._past.scan(b"", after, limit=limit)
        return [(key, key[ID_BYTES : 2 * ID_BYTES]) for key, _ in rows]

    def forget_place(self, key: bytes) -> None:
        """Nobody looks that far back any more."""
        self._past.delete(key)

    # --- hints --------------------------------------------------------------------------------

    def removed(self, after: tuple[bytes, bytes] | None = None) -> Iterator[tuple[bytes, bytes]]:
        """(stamp, link) of links that were removed, the oldest first; those above `after`."""
        start = None if after is None else after[0] + after[1]
        for key, _ in _rows(self._removed, b"", start):
            yield key[:ID_BYTES], key[ID_BYTES:]

    def forget_removed(self, when: bytes, link: bytes) -> None:
        """It is not without a place any more, or is gone for good."""
        self._removed.delete(when + link)

    def superseded(self) -> Iterator[bytes]:
        """Inodes with versions that are not current."""
        return (key for key, _ in _rows(self._superseded, b"", None))

    def forget_superseded(self, inode: bytes) -> None:
        """All its versions are current."""
        self._superseded.delete(inode)


def _rows(table: Table, prefix: bytes, after: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    while True:
        rows = table.scan(prefix, after, limit=PAGE_ROWS)
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        after = rows[-1][0]


def _row(value: bytes) -> PastRow:
    try:
        return _decode(value)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Damaged(f"the local database holds a damaged row: {error}") from error
