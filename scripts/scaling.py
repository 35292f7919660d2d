"""What a file costs among a million, beside what it costs among ten thousand."""

import os
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Callable

from measuring import PYTHON, Volume, aggfs, cpu_seconds, drop_caches, rss_anon_mib, tell, volume

FOLDER_FILES = 1000
FILE_BYTES = 2000  # too much to stand in the row of a name
LOOKS = 2000
LISTED_FOLDERS = 20
FILLERS = 3
RATIO_BAR = "<= 1.3"
QUIET = ("under_replicated", "dirty_bytes", "staged_bytes", "outbox_entries", "segments_pending")


def scale(*, short: bool) -> None:
    """Make files, measure, make many more, measure again; mount it, and recover it elsewhere."""
    few, many = (1000, 20_000) if short else (10_000, 1_000_000)
    peak = 0.0
    with volume() as made:

        def look() -> None:
            nonlocal peak
            peak = max(peak, rss_anon_mib(made.pid))

        fill(made.mountpoint, range(few), look)
        first = costs(made, few)
        began = time.monotonic()
        fill(made.mountpoint, range(few, many), look)
        settle(made)
        tell(
            "files made and brought to the accounts",
            (many - few) / (time.monotonic() - began),
            "1/s",
        )
        second = costs(made, many)
        for what, cost in second.items():
            tell(f"{what}, ratio", cost / first[what], "", RATIO_BAR)
        look()
        tell("state database", database_bytes(made) / many, "bytes/file")
        tell(
            "state database", database_bytes(made) / (many * FILE_BYTES / 2**30) / 2**20, "MiB/GiB"
        )
        made.unmount()
        drop_caches()
        began = time.monotonic()
        made.mount()
        tell(f"mount of {many:,} files", time.monotonic() - began, "s", "< 2")
        look()
        recover(made, many)
    tell("RssAnon, most", peak, "MiB", "<= 400")


def fill(top: pathlib.Path, numbers: range, look: Callable[[], None]) -> None:
    """Small files of random bytes, a thousand to a folder, by a few processes."""
    program = f"""
import os, sys
for number in range(*map(int, sys.argv[1:])):
    folder = {str(top)!r} + f"/{{number // {FOLDER_FILES}:04}}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{{folder}}/{{number:07}}", "wb") as file:
        file.write(os.urandom({FILE_BYTES}))
"""
    share = -(-len(numbers) // FILLERS)
    starts = range(numbers.start, numbers.stop, share)
    fillers = [
        subprocess.Popen([PYTHON, "-c", program, str(start), str(min(start + share, numbers.stop))])
        for start in starts
    ]
    while any(filler.poll() is None for filler in fillers):
        look()
        time.sleep(2)
    if any(filler.returncode for filler in fillers):
        sys.exit("files could not be made")


def costs(made: Volume, count: int) -> dict[str, float]:
    """CPU time of the daemon for one of each, among so many files."""
    top = made.mountpoint
    chosen = random.Random(count)  # noqa: S311 - any will do
    paths = [
        top / f"{number // FOLDER_FILES:04}/{number:07}"
        for number in chosen.choices(range(count), k=LOOKS)
    ]
    folders = [top / f"{number:04}" for number in range(count // FOLDER_FILES)]
    some = chosen.sample(folders, min(len(folders), LISTED_FOLDERS))
    new, written = top / f"new{count}", top / f"written{count}"

    def write() -> None:
        written.mkdir()
        for number in range(LOOKS):
            (written / f"{number}").write_bytes(os.urandom(FILE_BYTES))
        settle(made)

    def create() -> None:
        new.mkdir()
        for number in range(LOOKS):
            os.mknod(new / f"{number}", 0o600)

    found = {}
    for what, act, times in (
        ("stat", lambda: [path.stat() for path in paths], LOOKS),
        ("entry listed", lambda: [os.listdir(one) for one in some], len(some) * FOLDER_FILES),
        ("file made", create, LOOKS),
        ("file written and flushed", write, LOOKS),
    ):
        settle(made)
        drop_caches()
        before = cpu_seconds(made.pid)
        act()
        found[what] = (cpu_seconds(made.pid) - before) * 1e6 / times
        tell(f"{what}, among {count:,} files", found[what], "CPU-us")
    return found


def settle(made: Volume) -> None:
    """Everything is in the accounts, in all its places."""
    made.flush()
    while any(made.status()[name] for name in QUIET):
        time.sleep(0.5)


def database_bytes(made: Volume) -> int:
    """What the state database takes of the disk."""
    return sum(path.stat().st_blocks * 512 for path in made.place.glob("state/**/data.mdb"))


def recover(made: Volume, count: int) -> None:
    """Bring the volume back on a machine that knows nothing of it."""
    key = made.place / "key"
    aggfs("key", "add", "file", "--to", str(key), "--volume", "bench")
    settle(made)
    made.unmount()
    for name in ("CONFIG", "STATE", "DATA"):
        os.environ[f"XDG_{name}_HOME"] = str(made.place / f"other/{name.lower()}")
    began = time.monotonic()
    accounts = [f"--account={account}" for account in made.accounts]
    aggfs("recover", "bench", *accounts, "--key-file", str(key))
    tell(f"recovery of {count:,} files", time.monotonic() - began, "s")
    made.mount()
    names = sum(len(files) for _, _, files in os.walk(made.mountpoint))
    tell("files after it, all of them", names, "files", f"{count + 4 * LOOKS:,}")
