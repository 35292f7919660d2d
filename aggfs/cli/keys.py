"""`aggfs key show|add|remove`: the ways into a volume."""

import json
import os
from pathlib import Path
from typing import Any

import click

from aggfs.cli import unlocking
from aggfs.cli.asking import ask
from aggfs.cli.places import place_meant
from aggfs.coding import slots
from aggfs.coding.slots import Secret

_volume_option = click.option("--volume", metavar="NAME", help="The volume, if there are several.")


@click.group()
def key() -> None:
    """The slots: each of them opens the whole volume."""


@key.command("show")
@_volume_option
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def show_slots(volume: str | None, as_json: bool) -> None:
    """List the slots. The secrets themselves are nowhere to be shown."""
    found = ask(place_meant(volume), "key-list")["slots"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for slot in found:
        click.echo(f"{slot['id']}  {slot['kind']}  {slot['label']}".rstrip())


@key.command()
@click.argument("kind", type=click.Choice(["passphrase", "words", "file"]))
@click.option("--passphrase-file", type=click.Path(path_type=Path), help="Do not ask for it.")
@click.option("--to", type=click.Path(path_type=Path), help="Where the new key file goes.")
@_volume_option
def add(kind: str, passphrase_file: Path | None, to: Path | None, volume: str | None) -> None:
    """Add a way in: a passphrase, recovery words (shown once), or a key file."""
    place = place_meant(volume)
    if kind == "file":
        if to is None:
            raise click.UsageError("say where the key file goes: --to FILE")
        secret = _new_key_file(to)
    elif kind == "words":
        secret = slots.recovery_words(slots.new_recovery_words(os.urandom))
    elif passphrase_file is not None:
        secret = unlocking.passphrase_in(passphrase_file)
    else:
        secret = unlocking.ask_new_passphrase()
    answer = ask(place, "key-add", kind=secret.kind.name.lower(), secret=secret.value.hex())
    if kind == "words":
        unlocking.show_words(secret.value.decode())
    click.echo(f"slot {answer['id']} opens {place.name} now")
    _tell_failed(answer)


@key.command()
@click.argument("slot", metavar="ID")
@_volume_option
def remove(slot: str, volume: str | None) -> None:
    """Remove the slot ID (see `aggfs key show`). Its secret opens nothing any more."""
    place = place_meant(volume)
    answer = ask(place, "key-remove", id=slot)
    click.echo(f"slot {slot} is gone from {place.name}")
    _tell_failed(answer)


def _tell_failed(answer: dict[str, Any]) -> None:
    for name in answer["failed"]:
        click.echo(f"note: {name} did not answer and keeps the older header until the next change")


def _new_key_file(path: Path) -> Secret:
    content = slots.new_key_file(os.urandom)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    return slots.key_file(content)
