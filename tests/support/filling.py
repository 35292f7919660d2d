"""A local disk that is really full: a small tmpfs in a mount namespace of its own.

Run as `python -m tests.support.filling TOP`, where TOP/disk is that tmpfs and TOP/accounts lies
elsewhere. Asserts what must hold, and prints what was seen.
"""

import contextlib
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import trio

from aggfs.config import Size
from aggfs.engine.volume import Volume
from aggfs.errors import NoSpace
from tests.support.commands import TOP
from tests.support.running import Place, flush, make_volume, running, write
from tests.support.stripes import content

DISK_MIB = 40
PIECE_BYTES = 700_000
MADE_FILES = 12
RUN_SECONDS = 150


async def fill(volume: Volume, disk: Path) -> list[bytes]:
    """Files, each synced, until there is no room, since others use the disk, too; the names of
    those that fsync acknowledged."""
    names: list[bytes] = []
    while True:
        if len(names) == MADE_FILES:
            fill_up(disk)
        name = b"file%d" % len(names)
        row = volume.namespace.create(1, name, stat.S_IFREG | 0o640, 0, 0)
        try:
            await write(volume, row, 0, content(PIECE_BYTES, len(names)))
        except NoSpace as error:
            print(f"{len(names)} files, then: {error}")
            return names
        await volume.files.fsync(row.number)
        names.append(name)


def fill_up(disk: Path) -> None:
    """Not a byte is left."""
    with (disk / "foreign").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


async def check(volume: Volume, names: list[bytes], *, first: int) -> None:
    """These are there, whole."""
    for number, name in enumerate(names[first:], first):
        row = volume.namespace.lookup(1, name)
        data = await volume.files.read(row.number, 0, PIECE_BYTES)
        assert bytes(data) == content(PIECE_BYTES, number), name


def hide(place: Place, *, away: bool) -> None:
    """Accounts that do not answer: what is written can only stay here."""
    for one in place.config.accounts:
        here, there = Path(one.path), Path(one.path + ".away")
        (here if away else there).rename(there if away else here)


async def main(top: Path) -> None:
    place = await make_volume(top / "accounts")
    state = top / "disk" / "state"
    (top / "accounts" / "state").rename(top / "accounts" / "made")
    subprocess.run(["cp", "-a", top / "accounts" / "made", state], check=True)
    patient = replace(place.config.mount, staging_limit_bytes=Size(1 << 30))
    config = replace(place.config, mount=patient)
    hide(place, away=True)
    async with running(config, state) as volume:
        names = await fill(volume, top / "disk")
        assert len(names) >= MADE_FILES
        await check(volume, names, first=0)
        for name in names[:5]:
            row = volume.namespace.unlink(1, name)
            volume.namespace.drop_unlinked(row.number)
        await volume.files.fsync_directory()
        await trio.to_thread.run_sync(volume.parts.sparse_files.purge)
        row = volume.namespace.lookup(1, b"file%d" % len(names))
        await write(volume, row, 0, content(PIECE_BYTES, len(names)))
        await volume.files.fsync(row.number)
        names.append(b"file%d" % len(names))
        print("five files were removed on the full disk, and one more had room then")
    hide(place, away=False)
    async with running(config, state) as volume:
        await check(volume, names, first=5)
        await flush(volume)
        await volume.control("evict", {})
        await check(volume, names, first=5)
    print("all is whole, here and in the accounts")


def run_on_a_small_disk(top: Path) -> str:
    """Run `main` with a tmpfs in place; what it printed. Needs root, or may become it."""
    (top / "disk").mkdir(parents=True)
    mount = f"mount -t tmpfs -o size={DISK_MIB}m tmpfs '{top}/disk'"
    command = f"{mount} && exec '{sys.executable}' -m tests.support.filling '{top}'"
    ended = subprocess.run(
        [*_unshared(), "sh", "-c", command],
        cwd=TOP,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def _unshared() -> list[str]:
    """What gives a command mounts of its own: root may, others as root of their own namespace;
    where there is none of that (a chroot), sudo."""
    if os.geteuid() == 0:
        return ["unshare", "--mount"]
    own = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode == 0:
        return own
    return ["sudo", "-n", "unshare", "--mount"]


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
