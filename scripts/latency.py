#!/usr/bin/env python3
"""How long single requests take in a folder while something else goes on.

  scripts/latency.py known|unknown|direct|cached FOLDER

`known`: stat of a file that was looked at before (and is not read: a read moves its atime, for all
that the kernel knows). `unknown`: stat of names that were never looked
at. `direct`: 4 KiB of a file, past the kernel's pages, so that a daemon answers; `cached`: the same
from the pages. One request every 50 ms until standard input ends, or the names do; then the seconds
that each took, as JSON. They count from when a request was due, not from when it could be made: a
stall is seen by all requests that fell into it.
"""

import json
import mmap
import os
import pathlib
import random
import select
import sys
import time
from collections.abc import Iterator

PERIOD_SECONDS = 0.05
READ_BYTES = 4096
FILE_BYTES = 64 << 20
NAMES = 8000


def fill(folder: pathlib.Path) -> None:
    """Make what is asked for."""
    (folder / "file").write_bytes(os.urandom(FILE_BYTES))
    (folder / "known").touch()
    (folder / "names").mkdir()
    for number in range(NAMES):
        (folder / "names" / str(number)).touch()


def known(folder: pathlib.Path) -> Iterator[None]:
    """Each step from the second on is one request."""
    while True:
        os.stat(folder / "known")
        yield


def unknown(folder: pathlib.Path) -> Iterator[None]:
    yield
    for number in range(NAMES):
        os.stat(folder / "names" / str(number))
        yield


def read(folder: pathlib.Path, flags: int = 0) -> Iterator[None]:
    descriptor = os.open(folder / "file", os.O_RDONLY | flags)
    buffer = mmap.mmap(-1, READ_BYTES)  # aligned, as O_DIRECT wants it
    draw = random.Random(1)  # noqa: S311 - any places will do
    while True:
        os.preadv(descriptor, [buffer], draw.randrange(FILE_BYTES // READ_BYTES) * READ_BYTES)
        yield


def direct(folder: pathlib.Path) -> Iterator[None]:
    return read(folder, os.O_DIRECT)


KINDS = {"known": known, "unknown": unknown, "direct": direct, "cached": read}


def main(kind: str, folder: str) -> None:
    requests = KINDS[kind](pathlib.Path(folder))
    next(requests)
    took = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
        if next(requests, requests) is requests:
            break
        took.append(time.monotonic() - due)
        due += PERIOD_SECONDS
    print(json.dumps(took))


if __name__ == "__main__":
    main(*sys.argv[1:])
