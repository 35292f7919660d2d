"""`aggfs mount` and `aggfs umount`."""

import logging
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from aggfs.cache.ownership import is_owned, wait_until_unowned
from aggfs.cli import client
from aggfs.cli.client import NotRunning
from aggfs.cli.places import VolumePlace, place_meant, place_of
from aggfs.daemon.mountpoint import check_fuse, is_dead, prepare, unmount_lazily
from aggfs.daemon.rendezvous import address_of
from aggfs.errors import Busy, NoEntry

END_SECONDS = 120.0
LAST_DAEMON_SECONDS = 60.0


class _TooLong(Exception):
    """The time that the user gave is over."""


@click.command()
@click.argument("volume")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Stay here, and log to the terminal.")
@click.option("-o", "options", multiple=True, metavar="OPTION[=VALUE],...", help="Mount options.")
@click.option(
    "--linger",
    "linger_seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="When it ends, go on for up to so long to bring what waits into the accounts.",
)
def mount(
    volume: str,
    directory: Path,
    foreground: bool,
    options: tuple[str, ...],
    linger_seconds: float,
) -> None:
    """Mount VOLUME on DIRECTORY; returns when the folder is ready."""
    place = place_of(volume)
    if not place.exists:
        raise NoEntry(f"there is no volume {volume!r} here: `aggfs init` or `aggfs recover` it")
    mount_at(
        place,
        directory,
        parse_options(options),
        foreground=foreground,
        linger_seconds=linger_seconds,
    )


@click.command()
@click.argument("volume", metavar="VOLUME|DIRECTORY")
@click.option(
    "--wait", "wait_seconds", type=float, metavar="SECONDS", help="Wait no longer than this."
)
@click.option("--now", is_flag=True, help="Do not wait: what is staged is sent at the next mount.")
def umount(volume: str, wait_seconds: float | None, now: bool) -> None:
    """Bring what is staged into the accounts, then unmount."""
    place = place_meant(volume)
    try:
        if not now:
            _flush(place, wait_seconds)
        _unmount(place, now=now)
    except NotRunning:
        left = place.mountpoint
        if left is None or not is_dead(left):
            raise NotRunning(f"the volume {place.name!r} is not mounted") from None
        unmount_lazily(left)


def parse_options(given: tuple[str, ...]) -> dict[str, str]:
    """`-o a=1,b -o c=2` as a mapping; a bare name has an empty value."""
    pairs = [option.partition("=") for text in given for option in text.split(",") if option]
    return {name.replace("-", "_"): value for name, _, value in pairs}


def mount_at(
    place: VolumePlace,
    directory: Path,
    options: dict[str, str],
    *,
    foreground: bool,
    linger_seconds: float = 0.0,
) -> None:
    """Mount, in the background unless asked otherwise; tells when the folder is ready."""
    from aggfs.cli import assembling
    from aggfs.daemon import background

    mounted = place.mountpoint
    if mounted is not None and not is_dead(mounted):
        raise Busy(f"{place.name} is mounted on {mounted} already")
    config = assembling.load_config(place, options)
    check_fuse(allow_other=config.mount.allow_other)
    mountpoint = prepare(str(directory))
    _let_the_last_daemon_end(place)

    def work(ready: Callable[[], None]) -> None:
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        assembling.serve(place, config, mountpoint, ready, linger_seconds=linger_seconds)

    def tell() -> None:
        click.echo(f"{place.name} is mounted on {mountpoint}")

    if foreground:
        work(tell)
    else:
        background.start(work, str(place.log_path))
        tell()


def _let_the_last_daemon_end(place: VolumePlace) -> None:
    """One whose folder is gone may still bring something to the accounts, or onto the disk.

    Whoever has the volume open after this time is told of by the one who needs it next.
    """
    state = str(place.state_directory / "database")
    if not is_owned(state):
        return
    click.echo(f"waiting until the last daemon of {place.name} has ended", err=True)
    with suppress(_TooLong), _deadline(LAST_DAEMON_SECONDS):
        wait_until_unowned(state)


def is_mounted_on(place: VolumePlace, directory: Path) -> bool:
    """Whether this volume's daemon serves this very folder."""
    if place.mountpoint != str(directory.resolve()):
        return False
    try:
        client.call(place.socket_path, "status")
    except NotRunning:
        return False
    return True


def _flush(place: VolumePlace, wait_seconds: float | None) -> None:
    try:
        with _deadline(wait_seconds):
            client.call(place.socket_path, "flush")
    except _TooLong:
        answer = client.call(place.socket_path, "status")
        waiting = answer["staged_bytes"] + answer["dirty_bytes"]
        raise Busy(
            f"{waiting} bytes are not in the accounts yet, and {place.name!r} stays mounted"
            " (--now unmounts; they are sent at the next mount)"
        ) from None


def _unmount(place: VolumePlace, *, now: bool) -> None:
    """Unmount, and wait for the daemon to end: then another may start at once."""
    daemon = os.pidfd_open(_daemon_pid(place.socket_path))
    try:
        client.call(place.socket_path, "unmount", now=now)
        if not select.select([daemon], [], [], END_SECONDS)[0]:
            raise Busy(f"the daemon has not ended; see {place.log_path}")
    finally:
        os.close(daemon)


def _daemon_pid(path: str) -> int:
    """The process that listens there, as the kernel knows it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with address_of(path) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionError):
            raise NotRunning(f"no daemon listens at {path}") from None
        size = struct.calcsize("3i")
        pid, _uid, _gid = struct.unpack(
            "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return int(pid)


@contextmanager
def _deadline(seconds: float | None) -> Iterator[None]:
    """Raise `_TooLong` in the main thread after so many seconds."""

    def expire(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 0 if seconds is None else max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
