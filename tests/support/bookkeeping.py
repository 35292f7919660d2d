"""Programs that share an SQLite database: one that moves amounts between accounts of its books, and
some that look at them meanwhile. The sum never changes, in the eyes of anybody.

    python -m tests.support.bookkeeping write DATABASE      tells each entry that is committed
    python -m tests.support.bookkeeping read DATABASE       tells the latest that it sees

Both go on until they are killed, or end with 3 when the database cannot be reached any more.
"""

import contextlib
import itertools
import random
import sqlite3
import sys

ACCOUNTS = 50
AMOUNT = 1000
BUSY_SECONDS = 60.0
FAULT = 4


def make(path: str, mode: str) -> None:
    """Books in which every account has the same amount, journalled in this mode."""
    books = sqlite3.connect(path)
    assert books.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
    with books:
        books.execute("create table accounts (number integer primary key, amount integer)")
        books.execute("create table entries (number integer primary key, text blob)")
        rows = ((number, AMOUNT) for number in range(ACCOUNTS))
        books.executemany("insert into accounts values (?, ?)", rows)
    books.close()


def last_entry(books: sqlite3.Connection) -> int:
    """The latest entry. In one transaction nothing is half done: raises `AssertionError`."""
    with books:
        books.execute("begin")
        total = books.execute("select sum(amount), count(*) from accounts").fetchone()
        assert total == (ACCOUNTS * AMOUNT, ACCOUNTS), total
        last, count = books.execute("select max(number), count(*) from entries").fetchone()
        assert (last or 0) == count, (last, count)
    return int(count)


def write(path: str) -> None:
    """Entries one after the other, each durable when it is told."""
    books = sqlite3.connect(path, timeout=BUSY_SECONDS)
    # "full" leaves the removal of a journal to the next sync, and that is the commit.
    books.execute("pragma synchronous=extra")
    for number in itertools.count(last_entry(books) + 1):
        giver, taker = random.sample(range(ACCOUNTS), 2)
        with books:
            books.execute("update accounts set amount = amount - 1 where number = ?", (giver,))
            books.execute("insert into entries values (?, randomblob(300))", (number,))
            books.execute("update accounts set amount = amount + 1 where number = ?", (taker,))
        print(number, flush=True)


def read(path: str) -> None:
    """Look at the books without end, each time as one who comes anew and remembers nothing."""
    while True:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as books:
            print(last_entry(books), flush=True)


def main(role: str, path: str) -> None:
    try:
        {"write": write, "read": read}[role](path)
    except AssertionError as fault:
        print(f"fault: {fault}", flush=True)
        sys.exit(FAULT)
    except (sqlite3.OperationalError, sqlite3.DatabaseError) as ended:
        print(f"ended by: {ended}", flush=True)
        sys.exit(3)


if __name__ == "__main__":
    main(*sys.argv[1:])
