"""SQLite: a database on the mount, with readers beside its writer, and who works on it killed."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import bookkeeping
from tests.support.mounting import needs_fuse
from tests.support.victims import Victim, victim
from tests.support.volumes import LiveVolume

pytestmark = needs_fuse

MODES = ("wal", "delete")
READERS = 2
ENTRIES = 25
ROUNDS = 2
MOUNT_WENT = (3, -7)  # an error of SQLite, or SIGBUS where the log's index is mapped


@contextlib.contextmanager
def at_work(database: Path) -> Iterator[tuple[Victim, list[Victim]]]:
    """A writer and its readers."""
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(victim("bookkeeping", None, role, str(database)))
            for role in ("write", *["read"] * READERS)
        ]
        yield programs[0], programs[1:]


def assert_books(database: Path, told: int) -> int:
    """The database is whole, and has every entry that was told as committed; how many it has."""
    with contextlib.closing(sqlite3.connect(database)) as books:
        assert books.execute("pragma integrity_check").fetchall() == [("ok",)]
        entries = bookkeeping.last_entry(books)
    assert entries >= told
    return entries


def a_while(writer: Victim, readers: list[Victim]) -> int:
    """Until the writer has made so many entries, and the readers have seen them; the last."""
    told = 0
    for _ in range(ENTRIES):
        told = int(writer.line())
    see(readers, told)
    return told


def see(readers: list[Victim], entry: int) -> None:
    """Every reader comes to tell that this entry is there."""
    for reader in readers:
        while int(reader.line()) < entry:
            pass


def last_of(lines: list[bytes], told: int) -> int:
    """The last number of a program that told `told` before these lines."""
    numbers = [int(line) for line in lines if line.strip().isdigit() and line.endswith(b"\n")]
    return max([told, *numbers])


@pytest.mark.parametrize("mode", MODES)
def test_what_was_committed_survives_a_killed_writer(
    place: Path, cold: Callable[[], None], mode: str
):
    database, told = place / "books.sqlite", 0
    bookkeeping.make(str(database), mode)
    for _ in range(ROUNDS):
        with at_work(database) as (writer, readers):
            told = a_while(writer, readers)
            told = last_of(writer.kill(), told)
            see(readers, told)
            for reader in readers:
                reader.kill()
        told = assert_books(database, told)
    cold()
    assert assert_books(database, told) == told


@pytest.mark.parametrize("mode", MODES)
def test_what_was_committed_survives_a_killed_daemon(
    place: Path, volume: LiveVolume, cold: Callable[[], None], mode: str
):
    database, told = place / "books.sqlite", 0
    bookkeeping.make(str(database), mode)
    with at_work(database) as (writer, readers):
        told = a_while(writer, readers)
        volume.kill()
        for program in (writer, *readers):
            code, lines = program.end()
            assert code in MOUNT_WENT, (code, lines)
            told = last_of(lines, told)
    volume.mount()
    told = assert_books(database, told)
    cold()
    assert assert_books(database, told) == told
