"""What refers to stripes that are sealed again is looked for once, however many they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aggfs.cache.blocks import StripeState
from aggfs.cache.database import Database
from aggfs.cache.table import Table
from aggfs.engine.moves.drain import Draining
from aggfs.engine.moves.move import Mover
from aggfs.engine.moves.recode import Recoding
from aggfs.engine.moves.rewrite import Rewriter
from aggfs.engine.volume import Volume
from aggfs.model import AccountId, Extent, StripeRow
from tests.support.running import make_volume, running

INODE = bytes(15) + b"\x07"
Round = Callable[[Volume, Rewriter], Any]


class CountedTable:
    """A table that counts the rows that it gives."""

    def __init__(self, table: Table, given: list[int]) -> None:
        self._table = table
        self._given = given

    def scan(self, *arguments: Any, **more: Any) -> list[tuple[bytes, bytes]]:
        found = self._table.scan(*arguments, **more)
        self._given[0] += len(found)
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self._table, name)


class CountedSnapshot:
    def __init__(self, tables: Any, given: list[int]) -> None:
        self._tables = tables
        self._given = given

    def table(self, name: str) -> CountedTable:
        return CountedTable(self._tables.table(name), self._given)


class CountedDatabase:
    """A database whose snapshots are walked under the eyes of the test."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.given = [0]

    @contextmanager
    def snapshot(self) -> Iterator[CountedSnapshot]:
        with self._database.snapshot() as snapshot:
            yield CountedSnapshot(snapshot, self.given)

    def __getattr__(self, name: str) -> object:
        return getattr(self._database, name)


async def drain(volume: Volume, rewriter: Rewriter) -> bool:
    task = Draining(volume.parts, Mover(volume.parts, volume.parts.readers), rewriter)
    account = next(iter(volume.parts.accounts))
    return await task._round(account, AccountId(b""), lambda size: None)


async def recode(volume: Volume, rewriter: Rewriter) -> bool:
    task = Recoding(volume, Mover(volume.parts, volume.parts.readers), rewriter)
    return await task._round(None, volume.parts.policy.storage_class, lambda size: None)


def lay_stripes(volume: Volume, count: int) -> None:
    """Stripes of another device, with a file that refers to them; none is in the accounts yet."""
    places = tuple(account.id for account in volume.parts.accounts)
    for number in range(count):
        row = StripeRow(b"other" + number.to_bytes(19), 1, 0, 0, 1, (100, 100), places)
        volume.parts.blocks.put_stripe(StripeState(row, 0))
        volume.parts.blocks.lay(INODE, [Extent(2 * number, row.sid, 0, 1)])


@pytest.mark.parametrize("task", [drain, recode])
async def test_twice_as_many_stripes_are_twice_as_many_rows(tmp_path: Path, task: Round) -> None:
    place = await make_volume(tmp_path)
    visited = []
    async with running(place.config, place.state, sound=False) as volume:
        for count in (2000, 4000):
            lay_stripes(volume, count)
            database = CountedDatabase(volume.parts.database)
            parts = replace(volume.parts, database=database)  # type: ignore[arg-type]
            assert await task(volume, Rewriter(parts))  # something is live yet
            visited.append(database.given[0])
    assert 2000 <= visited[0] <= 2200
    assert 4000 <= visited[1] <= 4200
