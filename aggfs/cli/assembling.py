"""Where the commands meet the parts: accounts are tried, volumes made, opened and served here.

The one module of the command line that imports trio and the stores, beside those that measure
accounts (`volumespeed`, `accountspeed`); commands import it late.
"""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import trio

from aggfs import config as configuration
from aggfs.assemble import inspecting, making, opening
from aggfs.cli import credentials
from aggfs.cli.places import VolumePlace
from aggfs.coding.slots import Secret
from aggfs.config import AccountConfig, Config
from aggfs.daemon import main as daemon
from aggfs.daemon.systemd import ServiceManager
from aggfs.engine.recovery.identity import write_private
from aggfs.errors import BadConfig, Unreachable
from aggfs.mount.facade import VolumeWithPast
from aggfs.mount.options import MountOptions
from aggfs.placement.accounts import AccountState
from aggfs.placement.plan import check_complete_copy, check_providers
from aggfs.stores.base import Store
from aggfs.stores.probe import probe, same_place
from aggfs.stores.registry import account_place, default_provider, open_store

PROBE_SECONDS = 60.0

Report = Callable[[str], None]


# --- configuration --------------------------------------------------------------------------------


def load_config(place: VolumePlace, options: Mapping[str, str] | None = None) -> Config:
    """The configuration of a volume on this machine, with options of one mount laid over."""
    config = configuration.load(place.config_path)
    return configuration.with_mount_options(config, options) if options else config


def with_provider(account: AccountConfig) -> AccountConfig:
    """The account with its usual provider, where the user named none."""
    return account if account.provider else replace(account, provider=default_provider(account))


def judge(config: Config) -> None:
    """Raise `BadConfig` for what could not be read back, and if a provider could get a complete
    copy that the user did not allow."""
    configuration.parse(configuration.dump(config), source="the new configuration")
    states = [
        AccountState(account.id, account.name, account.provider, account.quota_bytes, 0)
        for account in config.accounts
    ]
    for each in config.classes:
        if not config.allow_complete_copy:
            check_complete_copy(states, each.k, each.n, config.fragments_per_provider)
        elif each.layout.in_copies:  # a copy without a provider of its own would lie nowhere
            check_providers(states, each.n, 1, f"{each.k}-of-{each.n} in copies")


# --- accounts -------------------------------------------------------------------------------------


def try_accounts(new: Sequence[AccountConfig], known: Sequence[AccountConfig] = ()) -> list[str]:
    """Try new accounts for all that is asked of one; what should be noted of them.

    Raises `BadConfig` where two accounts are one place, `Refused` or `Unreachable` where one
    cannot be used. Nothing is left behind in any of them.
    """
    seen: dict[str, str] = {account_place(account): account.name for account in known}
    for account in new:
        same = seen.setdefault(account_place(account), account.name)
        if same != account.name:
            raise BadConfig(f"account {account.name!r} is the same place as {same!r}")
    return trio.run(_try_accounts, new, known)


async def _try_accounts(new: Sequence[AccountConfig], known: Sequence[AccountConfig]) -> list[str]:
    notes = []
    async with AsyncExitStack() as stack:
        before = [(account, _opened(account, stack)) for account in known]
        for account in new:
            store = _opened(account, stack)
            notes += await _try_one(account, store, before)
            before.append((account, store))
    return notes


async def _try_one(
    account: AccountConfig, store: Store, others: Sequence[tuple[AccountConfig, Store]]
) -> list[str]:
    try:
        with trio.fail_after(PROBE_SECONDS):
            report = await probe(store)
            same = await same_place(store, [other for _, other in others])
    except trio.TooSlowError:
        raise Unreachable(
            f"account {account.name!r} did not answer within {PROBE_SECONDS:.0f} s"
        ) from None
    if same is not None:
        raise BadConfig(f"account {account.name!r} is the same place as {others[same][0].name!r}")
    if report.create_only:
        return []
    return [f"{account.name} takes conditional writes for plain ones: no leases there"]


def _opened(account: AccountConfig, stack: AsyncExitStack) -> Store:
    store = open_store(account)
    stack.push_async_callback(store.aclose)
    return store


# --- volumes --------------------------------------------------------------------------------------


def create(place: VolumePlace, config: Config, secrets: Sequence[Secret]) -> None:
    """Make the volume in its accounts, and this device's state. A slot for each secret."""
    trio.run(partial(making.create_volume, config, str(place.state_directory), secrets=secrets))


def recover(
    place: VolumePlace, accounts: Sequence[AccountConfig], secret: Secret, report: Report
) -> Config:
    """Fill this device's state from the accounts; the configuration that belongs to it."""
    return trio.run(
        partial(
            making.recover_volume,
            accounts,
            str(place.state_directory),
            secret=secret,
            name=place.name,
            device_name=socket.gethostname(),
            report=report,
        )
    )


def answer(place: VolumePlace, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What the volume answers to a verb, opened for this one question and closed again."""
    return trio.run(_answer, load_config(place), place, verb, arguments)


async def _answer(
    config: Config, place: VolumePlace, verb: str, arguments: dict[str, Any]
) -> dict[str, Any]:
    volume = opening.open_volume(config, str(place.state_directory))
    async with trio.open_nursery() as nursery:
        await nursery.start(volume.run)
        found = await volume.control(verb, arguments)
        nursery.cancel_scope.cancel()
    return found


def check(place: VolumePlace, *, repair: bool) -> dict[str, Any]:
    """What is wrong in the local state, as it lies there; with `repair`, what is left of it."""
    repaired, left = trio.run(
        partial(inspecting.check_state, str(place.state_directory), repair=repair)
    )
    return {
        "repaired": [{"room": one.room, "text": one.text} for one in repaired],
        "findings": [{"room": one.room, "text": one.text} for one in left],
    }


def serve(
    place: VolumePlace,
    config: Config,
    mountpoint: str,
    ready: Callable[[], None],
    *,
    linger_seconds: float,
) -> None:
    """Open the volume and serve it at a prepared mount point until it is unmounted."""
    credentials.lend(config.accounts, os.environ)
    options = MountOptions(
        volume_name=place.name,
        allow_other=config.mount.allow_other,
        writeback_cache=config.mount.writeback_cache,
        xattrs=config.mount.xattrs,
    )
    service = daemon.Service(
        mountpoint,
        str(place.state_directory),
        options,
        ServiceManager.named_in(os.environ),
        linger_seconds,
    )
    trio.run(_serve, config, place, service, ready)


async def _serve(
    config: Config, place: VolumePlace, service: daemon.Service, ready: Callable[[], None]
) -> None:
    volume = opening.open_volume(config, str(place.state_directory))
    # Noted under the volume's lock, and before the folder is there: a crash leaves the note.
    write_private(place.mountpoint_path, os.fsencode(service.mountpoint))
    await daemon.serve(VolumeWithPast(volume), service, ready)
    place.mountpoint_path.unlink()
