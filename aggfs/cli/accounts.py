"""`aggfs account add|list|test`, and those of `cli.moving`."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace

import click

from aggfs.cli import assembling, client, exits, moving, show
from aggfs.cli.asking import ask
from aggfs.cli.client import NotRunning
from aggfs.cli.files import write_config
from aggfs.cli.places import VolumePlace, place_meant
from aggfs.cli.specs import parse_spec
from aggfs.config import AccountConfig, account_settings
from aggfs.errors import AggfsError, BadConfig, StoreError
from aggfs.model import AccountId


@click.group()
def account() -> None:
    """The accounts of a volume."""


account.add_command(moving.drain)
account.add_command(moving.remove)
account.add_command(moving.replace_account, "replace")


@account.command()
@click.argument("spec", metavar="NAME=LOCATION[?SETTING=VALUE&...]")
@click.option("--provider", help="Who operates it; by default its domain, or its disk.")
@moving.volume_option
def add(spec: str, provider: str | None, volume: str | None) -> None:
    """Add an account. It is tried first: put, get, list, delete, and a race of two creations."""
    place = place_meant(volume)
    new = add_account(place, spec, provider)
    click.echo(f"{new.name} is an account of {place.name} now, at the provider {new.provider}")


def add_account(place: VolumePlace, spec: str, provider: str | None) -> AccountConfig:
    """Try an account, and take it into the volume and its configuration."""
    config = assembling.load_config(place)
    new = parse_spec(spec, id=AccountId(os.urandom(8)))
    new = assembling.with_provider(replace(new, provider=provider or new.provider))
    changed = replace(config, accounts=(*config.accounts, new))
    assembling.judge(changed)
    for note in assembling.try_accounts([new], config.accounts):
        click.echo(f"note: {note}")
    ask(place, "account-add", account=account_settings(new))
    write_config(place, changed)
    return new


@account.command("list")
@moving.volume_option
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def list_accounts(volume: str | None, as_json: bool) -> None:
    """List the accounts and where they are; with levels and health while the volume is mounted."""
    place = place_meant(volume)
    answered = _answered(place)
    rows = []
    for known in assembling.load_config(place).accounts:
        settings = account_settings(known)
        rows.append(settings | answered.get(known.id.hex(), {}))
    if as_json:
        click.echo(json.dumps(rows))
        return
    header = ["account", "provider", "driver", "where", "quota", "level", "state"]
    click.echo(show.table(header, [_row(row) for row in rows]))


@account.command("test")
@click.argument("names", nargs=-1)
@moving.volume_option
def test_accounts(names: Sequence[str], volume: str | None) -> int:
    """Try the accounts NAMES, or all: one line each. Fails if one does."""
    accounts = assembling.load_config(place_meant(volume)).accounts
    unknown = sorted(set(names) - {known.name for known in accounts})
    if unknown:
        raise BadConfig(f"there is no account {unknown[0]!r}")
    code = exits.DONE
    for known in accounts:
        if names and known.name not in names:
            continue
        error = _tried(known)
        click.echo(f"{known.name}: {error or 'good'}")
        code = exits.exit_code_of(error) if error else code
    return code


def _tried(account: AccountConfig) -> AggfsError | None:
    try:
        assembling.try_accounts([account])
    except (StoreError, BadConfig) as error:
        return error
    return None


def _answered(place: VolumePlace) -> dict[str, dict[str, object]]:
    """What the daemon says of each account, by id; nothing where none runs."""
    try:
        answer = client.call(place.socket_path, "status")
    except NotRunning:
        return {}
    return {known["id"]: known for known in answer["accounts"]}


def _row(row: dict[str, object]) -> list[str]:
    level, quota = row.get("level"), row.get("quota")
    state = "not mounted"
    if "healthy" in row:
        state = "healthy" if row["healthy"] else f"DOWN: {row['error']}"
    return [
        str(row["name"]),
        str(row["provider"]),
        str(row["driver"]),
        str(row.get("path") or row.get("place") or f"s3://{row['bucket']}/{row['prefix']}"),
        show.size(quota) if isinstance(quota, int) and quota else "-",
        show.percent(level) if isinstance(level, float) else "-",
        state,
    ]
