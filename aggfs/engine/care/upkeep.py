"""How long this device has worked, and when its recurring jobs were last done.

Graces run on the seconds that the volume was open here: no clock that is set wrong, by a day or by
a year, makes them shorter. Ages are for people, and for the alarm when a job stops silently.

Table `upkeep`: b"seconds" -> u64, how long it has worked; b"d" + name -> u64, when (nanoseconds
since 1970) a job was last done, or first expected; b"p" + name -> where something has come to.
"""

from collections.abc import Callable

import trio

from aggfs.cache.database import Database

TABLES = ("upkeep",)
DAY_SECONDS = 86400.0
_SECONDS, _DONE, _PLACE = b"seconds", b"d", b"p"


class Upkeep:
    """The table above. On the loop."""

    def __init__(self, database: Database, wall_ns: Callable[[], int]) -> None:
        self._table = database.table("upkeep")
        self._wall_ns = wall_ns
        value = self._table.get(_SECONDS)
        self._before = int.from_bytes(value) if value else 0
        self._began: float | None = None
        self._limits: dict[str, float] = {}

    def begin(self) -> None:
        """The volume works from now on."""
        self._began = trio.current_time()

    def seconds(self) -> int:
        """How long this volume was open here, in all; noted, so that it goes on from there."""
        worked = 0.0 if self._began is None else trio.current_time() - self._began
        seconds = self._before + int(worked)
        self._table.put(_SECONDS, seconds.to_bytes(8))
        return seconds

    def expect(self, name: str, limit_seconds: float) -> None:
        """A job of this name should be done at least so often: `overdue` tells if it is not."""
        self._limits[name] = limit_seconds
        if self._table.get(_DONE + name.encode()) is None:
            self.done(name)

    def done(self, name: str) -> None:
        """It was done just now."""
        self._table.put(_DONE + name.encode(), max(0, self._wall_ns()).to_bytes(8))

    def age_seconds(self, name: str) -> float | None:
        """How long ago it was done, or first expected; None where it never was."""
        value = self._table.get(_DONE + name.encode())
        return None if value is None else max(0, self._wall_ns() - int.from_bytes(value)) / 1e9

    def place(self, name: str) -> bytes:
        """Where something long has come to, b"" at its beginning."""
        return self._table.get(_PLACE + name.encode()) or b""

    def put_place(self, name: str, place: bytes) -> None:
        """It has come to this place."""
        self._table.put(_PLACE + name.encode(), place)

    def ages(self) -> dict[str, float | None]:
        """The age of each job that is expected."""
        return {name: self.age_seconds(name) for name in self._limits}

    def overdue(self) -> list[str]:
        """A line for each job that has not been done for too long."""
        found = []
        for name, limit in self._limits.items():
            age = self.age_seconds(name)
            if age is not None and age > limit:
                found.append(f"{name} was last done {age / 3600:.0f} h ago: see the log")
        return found
