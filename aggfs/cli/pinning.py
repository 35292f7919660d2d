"""`aggfs pin`, `unpin` and `warm`: what is to be on this machine.

The work is the daemon's, or that of the volume opened for the purpose; here it is only followed.
"""

import json
import sys
from typing import Any

import click

from aggfs.cli import show
from aggfs.cli.asking import ask
from aggfs.cli.paths import meant, volume_option
from aggfs.cli.places import VolumePlace, place_meant, target_meant

_as_json = click.option("as_json", "--json", is_flag=True, help="For programs: JSON lines.")


@click.command()
@click.argument("path", required=False)
@volume_option
@click.option("--no-wait", is_flag=True, help="Do not wait until it is here.")
@_as_json
def pin(path: str | None, volume: str | None, no_wait: bool, as_json: bool) -> None:
    """Keep PATH on this machine: what is there now and what comes there; eviction passes over it.

    Interrupted, it comes in the background. Without PATH: list what is pinned.
    """
    if path is None:
        _list(ask(place_meant(volume), "pins"), as_json=as_json)
        return
    target = target_meant(path)
    ask(target.place, "pin", path=target.path)
    if not no_wait:
        _warm(target.place, {"path": target.path}, as_json=as_json)


@click.command()
@click.argument("path")
def unpin(path: str) -> None:
    """Keep PATH here no longer than anything else. Its local copy stays until room is needed."""
    target = target_meant(path)
    ask(target.place, "unpin", path=target.path)


@click.command()
@click.argument("path", required=False)
@volume_option
@_as_json
def warm(path: str | None, volume: str | None, as_json: bool) -> None:
    """Bring PATH, or everything, to this machine, once. Called again it goes on where it was."""
    place, arguments = meant(path, volume)
    _warm(place, arguments, as_json=as_json)


def _warm(place: VolumePlace, arguments: dict[str, Any], *, as_json: bool) -> None:
    """Ask for a few seconds of it at a time until nothing is missing."""
    on_terminal = sys.stderr.isatty() and not as_json
    answer = ask(place, "warm", seconds=0, **arguments)
    while answer["missing_bytes"]:
        if as_json:
            click.echo(json.dumps(answer))
        elif on_terminal:
            click.echo(f"\r\x1b[K{_line(answer)}", nl=False, err=True)
        answer = ask(place, "warm", **arguments)
    if on_terminal:
        click.echo("\r\x1b[K", nl=False, err=True)
    click.echo(json.dumps(answer) if as_json else _line(answer))


def _line(answer: dict[str, Any]) -> str:
    size = answer["size_bytes"]
    here = size - answer["missing_bytes"]
    return f"{show.percent(here / size) if size else '100.0 %'} of {show.size(size)} are here"


def _list(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    rows = [
        [one["path"], show.size(one["size_bytes"]), show.size(one["missing_bytes"])]
        for one in answer["pins"]
    ]
    click.echo(show.table(["path", "size", "not here yet"], rows) if rows else "nothing is pinned")
    if answer["trouble"]:
        click.echo(f"note: {answer['trouble']}")
