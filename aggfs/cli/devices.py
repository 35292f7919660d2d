"""`aggfs device list|lapse`: the machines that are members of a volume."""

import json

import click

from aggfs.cli.asking import ask
from aggfs.cli.places import place_meant

_volume_option = click.option("--volume", metavar="NAME", help="The volume, if there are several.")


@click.group()
def device() -> None:
    """The machines that are members of the volume."""


@device.command("list")
@_volume_option
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def list_devices(volume: str | None, as_json: bool) -> None:
    """List them."""
    found = ask(place_meant(volume), "device-list")["devices"]
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        note = "  (this one)" if one["this"] else "  (taken out)" if one["lapsed"] else ""
        click.echo(f"{one['id']}  {one['name']}{note}")


@device.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_volume_option
def lapse(name: str, yes: bool, volume: str | None) -> None:
    """Take out a device that will not come back: a lost, broken or reinstalled machine.

    What it had brought to the accounts stays. Without this it is waited for: what is deleted
    keeps its room in the accounts. A machine that does come back must `aggfs recover` first.
    """
    if not yes:
        click.confirm(
            f"What {name} has not brought to the accounts yet is given up. Go on?", abort=True
        )
    answer = ask(place_meant(volume), "device-lapse", device=name)
    click.echo(f"{answer['name']} is no member any more")
