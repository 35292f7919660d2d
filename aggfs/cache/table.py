"""One table of the local database, as the loop sees it: changes laid over what LMDB holds."""

from itertools import takewhile
from typing import Any, Protocol

from aggfs.cache.framing import unwrap
from aggfs.cache.generation import RefusedChanges
from aggfs.cache.overlay import Changes, end_of, merged_down, merged_up, window
from aggfs.errors import Damaged

KEY_BYTES = 511

_ABSENT: Any = object()
_NOTHING = Changes()


class Tables(Protocol):
    """What has tables by name: a database, or a snapshot of one."""

    def table(self, name: str) -> "Table":
        """One of them."""


class Noted(Protocol):
    """Who is told of changes."""

    def note(self, size_bytes: int) -> None:
        """A change of so many bytes was made."""


class Table:
    """One table: bytes to bytes, in key order. On the loop only. A damaged row raises Damaged."""

    __slots__ = (
        "_committing",
        "_current",
        "_database",
        "_failures",
        "_handle",
        "_name",
        "_reader",
    )

    def __init__(
        self,
        database: Noted,
        name: str,
        handle: Any,
        reader: Any,
        failures: type[Exception],
    ) -> None:
        """`failures` is what reading raises when the database is damaged."""
        self._database = database
        self._name = name
        self._handle = handle
        self._reader = reader
        self._failures = failures
        self._current = Changes()
        self._committing = _NOTHING

    def get(self, key: bytes) -> bytes | None:
        """The value, or None."""
        value = self._current.get(key, _ABSENT)
        if value is _ABSENT:
            value = self._committing.get(key, _ABSENT)
            if value is _ABSENT:
                return self._stored(key)
        return value  # type: ignore[no-any-return]  # the marker of absence is Any

    def put(self, key: bytes, value: bytes) -> None:
        """Set it. Durable together with everything else put before the next await. ValueError for
        a key that is empty or too long."""
        if not 0 < len(key) <= KEY_BYTES:
            raise ValueError(f"a key has 1 to {KEY_BYTES} bytes, not {len(key)}")
        self._current[key] = value
        self._database.note(len(key) + len(value))

    def delete(self, key: bytes) -> None:
        """Forget the key, if it is there."""
        if not 0 < len(key) <= KEY_BYTES:
            raise ValueError(f"a key has 1 to {KEY_BYTES} bytes, not {len(key)}")
        self._current[key] = None
        self._database.note(len(key))

    def scan(
        self,
        prefix: bytes,
        after: bytes | None = None,
        *,
        below: bytes | None = None,
        limit: int | None = None,
    ) -> list[tuple[bytes, bytes]]:
        """At most `limit` rows whose keys start with `prefix`, are above `after` and below
        `below`, in order."""
        start = prefix if after is None else max(prefix, after + b"\0")
        stop = end_of(prefix)
        if below is not None and (stop is None or below < stop):
            stop = below
        names = window(self._committing, self._current, start, stop)
        rows: list[tuple[bytes, bytes]] = []
        if limit is not None and limit <= 0:
            return rows
        try:
            with self._reader.cursor(self._handle) as cursor:
                stored = cursor.iternext() if cursor.set_range(start) else ()
                inside = takewhile(lambda row: stop is None or row[0] < stop, stored)
                for key, raw in merged_up(names, inside):
                    value = self._shown(key, raw)
                    if value is not None:
                        rows.append((key, value))
                        if len(rows) == limit:
                            break
        except self._failures as error:
            raise self._damaged(error) from error
        return rows

    def last(self, prefix: bytes, at_most: bytes | None = None) -> tuple[bytes, bytes] | None:
        """The row with the largest key that starts with `prefix` and is not above `at_most`."""
        stop = end_of(prefix)
        if at_most is not None and (stop is None or at_most < stop):
            stop = at_most + b"\0"
        names = window(self._committing, self._current, prefix, stop)
        try:
            with self._reader.cursor(self._handle) as cursor:
                beyond = stop is not None and cursor.set_range(stop)
                placed = cursor.prev() if beyond else cursor.last()
                stored = cursor.iterprev() if placed else ()
                inside = takewhile(lambda row: row[0].startswith(prefix), stored)
                for key, raw in merged_down(names, inside):
                    value = self._shown(key, raw)
                    if value is not None:
                        return key, value
        except self._failures as error:
            raise self._damaged(error) from error
        return None

    def _shown(self, key: bytes, raw: bytes | None) -> bytes | None:
        if raw is not None:
            return unwrap(self._name, key, raw)
        value = self._current.get(key, _ABSENT)
        return self._committing[key] if value is _ABSENT else value

    def _stored(self, key: bytes) -> bytes | None:
        try:
            raw = self._reader.get(key, None, self._handle)
        except self._failures as error:
            raise self._damaged(error) from error
        return None if raw is None else unwrap(self._name, key, raw)

    def _damaged(self, error: Exception) -> Damaged:
        return Damaged(f"the local database cannot be read (table {self._name}): {error}")

    # --- for the database ---

    def take(self) -> tuple[Any, Changes]:
        """The current changes become the committing ones."""
        self._committing, self._current = self._current, Changes()
        return self._handle, self._committing

    def renew(self, reader: Any, *, settled: bool) -> None:
        """Read through this transaction from now on; `settled`: it has the committing changes."""
        self._reader = reader
        if settled:
            self._committing = _NOTHING

    def refuse(self) -> None:
        """Take no change any more."""
        frozen = RefusedChanges()
        frozen.update(self._current)
        self._current = frozen
