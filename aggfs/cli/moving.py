"""`aggfs rebalance`, `re-encode`, `account drain|remove|replace`: what moves fragments."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import click

from aggfs.cli import client, show
from aggfs.cli.asking import ask
from aggfs.cli.client import NotRunning
from aggfs.cli.places import VolumePlace, place_meant, target_meant
from aggfs.errors import AggfsError, NoEntry

LOOK_SECONDS = 0.3
FAILED, RUNNING = "failed", "running"

Command = Callable[..., Any]

volume_option = click.option("--volume", metavar="NAME", help="The volume, if there are several.")
_dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be moved.")
_as_json = click.option("as_json", "--json", is_flag=True, help="For programs: JSON lines.")
_rate = click.option("--rate", metavar="SIZE", help="At most so much a second, as 10MiB.")
_stop = click.option("--stop", is_flag=True, help="End what is under way, where it is.")


@click.command()
@click.argument("volume", required=False)
@_dry_run
@_as_json
@_rate
@_stop
def rebalance(
    volume: str | None, dry_run: bool, as_json: bool, rate: str | None, stop: bool
) -> None:
    """Move fragments until all accounts of VOLUME are about as full, in percent.

    Goes on in the background when this command is interrupted.
    """
    place = place_meant(volume)
    if stop:
        ask(place, "movement-stop")
    elif dry_run:
        _show_plan(ask(place, "rebalance", dry_run=True), as_json)
    else:
        follow(place, "rebalance", as_json=as_json, rate=_bytes(rate))


@click.command("re-encode")
@click.argument("path", required=False)
@click.option("--k", type=int, required=True, help="So many fragments shall give the data back...")
@click.option("--n", type=int, required=True, help="...of so many.")
@volume_option
@_dry_run
@_as_json
@_rate
def re_encode(
    path: str | None,
    k: int,
    n: int,
    volume: str | None,
    dry_run: bool,
    as_json: bool,
    rate: str | None,
) -> None:
    """Store everything as k of n from now on, what is stored already included.

    With a PATH only that file or tree is coded anew, and nothing else changes.
    """
    target = None if path is None else target_meant(path)
    place = place_meant(volume) if target is None else target.place
    code: dict[str, Any] = {"k": k, "n": n}
    if target is not None:
        code["path"] = target.path
    if dry_run:
        _show_plan(ask(place, "re-encode", dry_run=True, **code), as_json)
        return
    follow(place, "re-encode", as_json=as_json, rate=_bytes(rate), **code)
    if target is None:
        _write_class(place, k, n)


def _write_class(place: VolumePlace, k: int, n: int) -> None:
    """New data goes into the first class."""
    from aggfs.cli import assembling
    from aggfs.cli.files import write_config

    config = assembling.load_config(place)
    first = config.classes[0]
    if (first.k, first.n) != (k, n):
        number = 1 + max(known.id for known in config.classes)
        changed = replace(first, id=number, k=k, n=n)
        write_config(place, replace(config, classes=(changed, *config.classes)))


@click.command()
@click.argument("name")
@volume_option
@_dry_run
@_as_json
@_rate
@click.option("--undo", is_flag=True, help="The account takes new data again.")
def drain(
    name: str, volume: str | None, dry_run: bool, as_json: bool, rate: str | None, undo: bool
) -> None:
    """Empty the account NAME; it stays readable, and takes nothing new."""
    place = place_meant(volume)
    if undo:
        _undo(place, name)
    elif dry_run:
        _show_plan(ask(place, "account-drain", name=name, dry_run=True), as_json)
    else:
        follow(place, "account-drain", as_json=as_json, name=name, rate=_bytes(rate))


def _undo(place: VolumePlace, name: str) -> None:
    """End its draining, if that is under way, and let it take new data again."""
    under_way = ask(place, "movement")
    if under_way.get("state") == RUNNING and under_way.get("kind") == "drain":
        ask(place, "movement-stop")
    ask(place, "account-keep", name=name)


@click.command()
@click.argument("name")
@volume_option
@_dry_run
@_as_json
@_rate
def remove(name: str, volume: str | None, dry_run: bool, as_json: bool, rate: str | None) -> None:
    """Empty the account NAME and forget it. Refused where the others cannot do without it.

    An account that does not answer is forgotten too: what it held is made again elsewhere.
    """
    place = place_meant(volume)
    if dry_run:
        _show_plan(ask(place, "account-remove", name=name, dry_run=True), as_json)
        return
    _remove(place, name, as_json=as_json, rate=_bytes(rate))


@click.command()
@click.argument("old")
@click.argument("spec", metavar="NEW=LOCATION[?SETTING=VALUE&...]")
@click.option("--provider", help="Who operates the new one; by default its domain, or its disk.")
@volume_option
@_as_json
@_rate
def replace_account(
    old: str,
    spec: str,
    provider: str | None,
    volume: str | None,
    as_json: bool,
    rate: str | None,
) -> None:
    """Add the account NEW, move to it what OLD holds, and forget OLD."""
    from aggfs.cli.accounts import add_account

    place = place_meant(volume)
    new = add_account(place, spec, provider)
    _remove(place, old, as_json=as_json, prefer=new.name, rate=_bytes(rate))


def _remove(place: VolumePlace, name: str, *, as_json: bool, **arguments: Any) -> None:
    from aggfs.cli import assembling
    from aggfs.cli.files import write_config

    config = assembling.load_config(place)
    left = tuple(one for one in config.accounts if one.name != name)
    if len(left) == len(config.accounts):
        raise NoEntry(f"there is no account {name!r}")
    with suppress(NoEntry):  # it was forgotten before, and the configuration was not told
        follow(place, "account-remove", as_json=as_json, name=name, **arguments)
    write_config(place, replace(config, accounts=left))


# --- how far it is --------------------------------------------------------------------------------


def follow(place: VolumePlace, verb: str, *, as_json: bool, **arguments: Any) -> None:
    """Ask for a movement and tell of it until it ends: a line on a terminal, or JSON lines.

    Raises what forbids it, or what made it end. Without a daemon it is carried out here.
    """
    try:
        answer = client.call(place.socket_path, verb, **arguments)
    except NotRunning:
        answer = ask(place, verb, wait=True, **arguments)
    tell = _Teller(as_json)
    while answer.get("state") == RUNNING:
        tell.progress(answer)
        time.sleep(LOOK_SECONDS)
        answer = client.call(place.socket_path, "movement")
    tell.end(answer)
    if answer.get("state") == FAILED:
        raise AggfsError(str(answer["text"]))


class _Teller:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._on_terminal = sys.stderr.isatty()

    def progress(self, answer: dict[str, Any]) -> None:
        """Where it is now."""
        if self._as_json:
            click.echo(json.dumps(answer))
        elif self._on_terminal:
            click.echo(f"\r\x1b[K{line(answer)}", nl=False, err=True)

    def end(self, answer: dict[str, Any]) -> None:
        """How it ended."""
        if self._as_json:
            click.echo(json.dumps(answer))
            return
        if self._on_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
        click.echo(line(answer))


def line(answer: dict[str, Any]) -> str:
    """One movement in a line: percent, bytes, and when it will be done."""
    moved, total = answer["moved_bytes"], answer["total_bytes"]
    done = show.percent(moved / total) if total else "100.0 %"
    text = f"{answer['kind']}: {done}, {show.size(moved)} of {show.size(total)} moved"
    if answer["state"] != RUNNING:
        return f"{text}; {answer['state']}" + (f": {answer['text']}" if answer["text"] else "")
    if answer["eta_seconds"] is not None:
        text += f", {show.span(answer['eta_seconds'])} to go"
    return f"{text}; {answer['text']}" if answer["text"] else text


def _show_plan(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
        return
    lines = [f"{answer['fragments']} fragments, {show.size(answer['total_bytes'])} would be moved"]
    for name, (before, after) in sorted(answer.get("levels", {}).items()):
        lines.append(f"{name}: {show.percent(before)} -> {show.percent(after)}")
    click.echo("\n".join(lines))


def _bytes(text: str | None) -> int:
    if text is None:
        return 0
    from aggfs.config import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
