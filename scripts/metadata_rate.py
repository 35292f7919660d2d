#!/usr/bin/env python3
"""How many metadata operations per second a directory bears, one process, one after another.

  scripts/metadata_rate.py DIRECTORY [COUNT]

Prints one line a figure, "NAME RATE", in operations per second. Everything made is removed.
"""

import os
import sys
import time


def create_and_close(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def rate(operation, paths):
    begin = time.perf_counter()
    for path in paths:
        operation(path)
    return len(paths) / (time.perf_counter() - begin)


def measure(directory, count):
    """Figures of a fresh directory in `directory`: name -> operations per second."""
    top = f"{directory}/metadata-rate-{os.getpid()}"
    os.mkdir(top)
    paths = [f"{top}/{index:06}" for index in range(count)]
    figures = {"create+close": rate(create_and_close, paths)}
    descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    begin = time.perf_counter()
    names = os.listdir(descriptor)
    figures["readdir"] = len(names) / (time.perf_counter() - begin)
    os.close(descriptor)
    figures["open+close"] = rate(lambda path: os.close(os.open(path, os.O_RDONLY)), paths)
    # A chmod throws the kernel's attributes away only after it: the stat that follows it asks us.
    figures["chmod"] = rate(lambda path: os.chmod(path, 0o600), paths)
    figures["lookup of absent"] = rate(lambda path: os.path.exists(f"{path}-"), paths)
    figures["unlink"] = rate(os.unlink, paths)
    os.rmdir(top)
    return figures


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    for figure, value in measure(sys.argv[1], int((sys.argv[2:] or ["5000"])[0])).items():
        print(f"{figure:18} {value:10.0f}")
