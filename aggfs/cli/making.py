"""`aggfs init`, `aggfs up` and `aggfs recover`: how a volume comes to be on this machine."""

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from aggfs.cli import assembling, unlocking
from aggfs.cli.files import new_state_directory, write_config
from aggfs.cli.mounting import is_mounted_on, mount_at
from aggfs.cli.places import VolumePlace, accounts_directory, place_of
from aggfs.cli.specs import parse_spec
from aggfs.coding import slots
from aggfs.coding.slots import Secret
from aggfs.config import AccountConfig, Config, MountConfig, is_volume_name
from aggfs.errors import BadConfig, Busy
from aggfs.model import AccountId, DeviceId, Layout, VolumeId
from aggfs.placement.policy import StorageClass, check_class

DEMONSTRATION_ACCOUNTS = ("one", "two", "three")

_account_option = click.option(
    "--account",
    "specs",
    multiple=True,
    required=True,
    metavar="NAME=LOCATION[?SETTING=VALUE&...]",
    help="An account: a directory, or s3://BUCKET/PREFIX?endpoint=...&profile=... Repeat it.",
)


@click.command()
@click.argument("name")
@_account_option
@click.option("--k", default=2, show_default=True, help="Fragments that give the data back.")
@click.option("--n", default=3, show_default=True, help="Fragments of each stripe.")
@click.option(
    "--fragments-per-provider",
    "per_provider",
    default=1,
    show_default=True,
    help="At most min(k-1, n-k).",
)
@click.option("--allow-complete-copy", is_flag=True, help="Let a provider have a complete copy.")
@click.option(
    "--code",
    type=click.Choice(["parity", "copies"]),
    default="parity",
    show_default=True,
    help="What the other n - k fragments are.",
)
@click.option(
    "--layout",
    type=click.Choice([layout.name.lower() for layout in Layout if layout is layout.cut]),
    default="contiguous",
    show_default=True,
)
@click.option("--compression", type=click.Choice(["none", "zstd"]), default="none")
@click.option("--cache-encryption/--no-cache-encryption", default=True, show_default=True)
@click.option(
    "--passphrase-file", type=click.Path(path_type=Path), help="A passphrase, beside the words."
)
@click.option("--passphrase", "asks", is_flag=True, help="Ask for a passphrase, beside the words.")
def init(
    name: str,
    specs: tuple[str, ...],
    k: int,
    n: int,
    per_provider: int,
    allow_complete_copy: bool,
    code: str,
    layout: str,
    compression: str,
    cache_encryption: bool,
    passphrase_file: Path | None,
    asks: bool,
) -> None:
    """Make the volume NAME over new accounts, and show its recovery words, once."""
    place = _new_place(name)
    cut = Layout[layout.upper()]
    storage_class = StorageClass(
        0,
        "default",
        k,
        n,
        cut.copied if code == "copies" else cut,
        None if compression == "none" else compression,
    )
    check_class(storage_class, per_provider)
    accounts = [
        assembling.with_provider(parse_spec(spec, id=AccountId(os.urandom(8)))) for spec in specs
    ]
    config = replace(
        _new_config(name, storage_class, accounts),
        fragments_per_provider=per_provider,
        allow_complete_copy=allow_complete_copy,
        mount=MountConfig(cache_encryption=cache_encryption),
    )
    secrets = []
    if passphrase_file is not None:
        secrets.append(unlocking.passphrase_in(passphrase_file))
    elif asks:
        secrets.append(unlocking.ask_new_passphrase())
    _make(place, config, secrets)
    click.echo(f"The volume {name} is made. Mount it with: aggfs mount {name} DIRECTORY")


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def up(directory: Path) -> None:
    """Mount a volume on DIRECTORY; the first time, make it over three local directories.

    They stand in for accounts at three providers: a demonstration, protected against nothing.
    """
    name = re.sub(r"[^\w.-]+", "-", directory.absolute().name, flags=re.ASCII).lstrip("-.")
    place = place_of(name or "cloud")
    if not place.exists:
        _make_demonstration(place)
    directory.mkdir(parents=True, exist_ok=True)
    if is_mounted_on(place, directory):
        click.echo(f"{place.name} is mounted on {directory.absolute()} already")
        return
    mount_at(place, directory, {}, foreground=False)


@click.command()
@click.argument("name")
@_account_option
@unlocking.secret_options
@click.option("--words", "asks_words", is_flag=True, help="Ask for the recovery words.")
def recover(
    name: str,
    specs: tuple[str, ...],
    passphrase_file: Path | None,
    words_file: Path | None,
    key_file: Path | None,
    asks_words: bool,
) -> None:
    """Bring a volume back from its accounts and a key, where all local state was lost."""
    place = _new_place(name)
    # The accounts know who they are, the volume knows their providers; some may not answer.
    accounts = [parse_spec(spec, id=AccountId(bytes(8))) for spec in specs]
    if asks_words:
        secret = unlocking.ask("words")
    else:
        secret = unlocking.read_secret(passphrase_file, words_file, key_file)
    with new_state_directory(place):
        config = assembling.recover(place, accounts, secret, click.echo)
        write_config(place, config)
    click.echo(f"The volume {name} is back. Mount it with: aggfs mount {name} DIRECTORY")


def _new_place(name: str) -> VolumePlace:
    if not is_volume_name(name):
        raise BadConfig(f"{name!r} cannot name a volume (letters, digits, '_', '-', '.')")
    place = place_of(name)
    if place.exists:
        raise Busy(f"there is a volume {name!r} here already: {place.config_path}")
    return place


def _new_config(
    name: str, storage_class: StorageClass, accounts: Sequence[AccountConfig]
) -> Config:
    return Config(
        name=name,
        volume=VolumeId(os.urandom(16)),
        device=DeviceId(os.urandom(8)),
        device_name=socket.gethostname(),
        classes=(storage_class,),
        accounts=tuple(accounts),
    )


def _make(place: VolumePlace, config: Config, secrets: Sequence[Secret]) -> None:
    assembling.judge(config)
    for note in assembling.try_accounts(config.accounts):
        click.echo(f"note: {note}")
    words = slots.new_recovery_words(os.urandom)
    with new_state_directory(place):
        assembling.create(place, config, [slots.recovery_words(words), *secrets])
        write_config(place, config)
    unlocking.show_words(words)


def _make_demonstration(place: VolumePlace) -> None:
    root = accounts_directory(place.name)
    click.echo(f"Making the volume {place.name} over three directories in {root}")
    accounts = []
    for name in DEMONSTRATION_ACCOUNTS:
        path = root / name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = AccountId(os.urandom(8))
        accounts.append(AccountConfig(identity, name, "directory", name, path=str(path)))
    _make(place, _new_config(place.name, StorageClass(0, "default", 2, 3), accounts), [])
