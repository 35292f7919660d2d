"""A volume that is new, or only in its accounts: what fills an empty state directory."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from aggfs.assemble.accounts import OpenStore
from aggfs.assemble.opening import TABLES, open_volume
from aggfs.assemble.world import THIS_WORLD, World
from aggfs.cache.database import Database
from aggfs.coding.slots import Secret, new_slot, new_volume
from aggfs.config import AccountConfig, Config
from aggfs.engine.journal.attend import HeaderRows
from aggfs.engine.journal.headers import put_on_all
from aggfs.engine.recovery.identity import Identity, save_header
from aggfs.engine.recovery.recover import Recovery, find_volume
from aggfs.formats.fragment import Suite
from aggfs.formats.header import VolumePolicy
from aggfs.model import (
    ROOT,
    AccountEntry,
    DeviceId,
    SetAttributes,
)
from aggfs.stores.registry import default_provider, open_store
from aggfs.stores.retrying import RetryingStore


async def create_volume(
    config: Config,
    state_directory: str,
    *,
    secrets: Sequence[Secret],
    open_store: OpenStore = open_store,
    world: World = THIS_WORLD,
) -> None:
    """Make a volume: its header on every account, and this device's state.

    Raises `StoreError` when an account does not take it; nothing of this volume is left then.
    """
    state = Path(state_directory)
    identity = Identity.new(config.device, world.random_bytes)
    device_slot = identity.new_slot(world.random_bytes)
    slots = [
        *(new_slot(secret, random_bytes=world.random_bytes) for secret in secrets),
        device_slot,
    ]
    member = identity.member(config.device_name, device_slot)
    used = config.classes[0]
    policy = VolumePolicy(
        k=used.k,
        n=used.n,
        per_provider=config.fragments_per_provider,
        layout=used.layout,
        suite=Suite.AES_256_GCM,
        allow_complete_copy=config.allow_complete_copy,
    )
    opened = new_volume(config.volume, policy, slots, [member], random_bytes=world.random_bytes)
    stores = {account.id: open_store(account) for account in config.accounts}
    try:
        placed = await put_on_all(stores, opened, world.random_bytes)
    finally:
        for store in stores.values():
            await store.aclose()
    identity.save(state)
    save_header(state, opened)
    volume = open_volume(config, state_directory, open_store=open_store, world=world)
    for account, (key, size) in placed.items():
        volume.parts.accounts.ledger.put_object(account, key, size)
        HeaderRows(volume.parts.database).put(account, opened.generation)
    volume.namespace.add_control(member)
    for one in config.accounts:
        volume.namespace.add_control(account_entry(one))
    root = SetAttributes(ROOT, None, os.getuid(), os.getgid(), None, None, world.file_ns())
    volume.namespace.set_attributes(1, mode=0o755, uid=root.uid, gid=root.gid)
    volume.parts.database.commit_now()
    await volume.parts.database.close()


def account_entry(account: AccountConfig) -> AccountEntry:
    """What other devices may know of an account."""
    return AccountEntry(account.id, account.name, account.provider, account.quota_bytes, False)


# --- a volume that is only in its accounts --------------------------------------------------------


async def recover_volume(
    accounts: Sequence[AccountConfig],
    state_directory: str,
    *,
    secret: Secret,
    name: str,
    device_name: str,
    report: Callable[[str], None],
    open_store: OpenStore = open_store,
    world: World = THIS_WORLD,
) -> Config:
    """Fill an empty state directory from the accounts, as a new device of the volume; the
    configuration that belongs to it. Accounts that do not answer are left out while k fragments
    of everything can be had without them.

    Raises `WrongKey`, which changed nothing anywhere; `Unreachable`, `TooFewFragments`, `Damaged`.
    """
    state = Path(state_directory)
    stores = [(one.name, RetryingStore(open_store(one), random=world.random)) for one in accounts]
    try:
        found = await find_volume(stores, secret, report)
        identity = Identity.new(DeviceId(world.random_bytes(8)), world.random_bytes)
        database = Database.open(str(state / "database"), tables=TABLES)
        try:
            recovery = Recovery(found, accounts, database, report)
            await recovery.fill()
            recovery.tell_devices()
            opened = recovery.join(
                identity, device_name, random_bytes=world.random_bytes, wall_ns=world.wall_ns
            )
            config = recovery.config(name, identity, device_name, default_provider)
            identity.save(state)
            save_header(state, opened)
            await recovery.put_header(opened, world.random_bytes)
        finally:
            await database.close()
        return config
    finally:
        for _, store in stores:
            await store.aclose()
