"""Asking a volume: its daemon where one runs, else the volume itself, opened for the purpose."""

import sys
from collections.abc import Callable
from typing import Any

import click

from aggfs.cli import client
from aggfs.cli.client import NotRunning, WentAway
from aggfs.cli.places import VolumePlace
from aggfs.errors import NoEntry


def ask(place: VolumePlace, verb: str, **arguments: Any) -> dict[str, Any]:
    """What the volume answers to a verb. Progress is told on a terminal while it takes long.

    Raises the error that the volume names; of a path that is not there it names the path.
    """
    try:
        return _ask(place, verb, arguments)
    except NoEntry as error:
        raise NoEntry(f"{arguments['path']}: {error}" if "path" in arguments else error) from None


def _ask(place: VolumePlace, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return client.call(place.socket_path, verb, on_progress=on_terminal(), **arguments)
    except WentAway:  # perhaps it is done: nobody does it twice unasked
        raise
    except NotRunning:
        pass
    # Only now: a running daemon spares every command the import of trio and the stores.
    from aggfs.cli import assembling

    return assembling.answer(place, verb, arguments)


def on_terminal() -> Callable[[str], None] | None:
    """Who shows progress on a terminal; None where there is no terminal."""
    if not sys.stderr.isatty():
        return None
    return lambda text: click.echo(f"\r\x1b[K{text}", nl=False, err=True)
