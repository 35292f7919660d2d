"""Accounts as they run: a store within its wrappers."""

from collections.abc import Callable

from aggfs.assemble.world import THIS_WORLD, World
from aggfs.config import AccountConfig
from aggfs.engine.accounts import Account
from aggfs.errors import Refused
from aggfs.stores.absent import AbsentStore
from aggfs.stores.base import Store
from aggfs.stores.metered import MeteredStore
from aggfs.stores.registry import account_place, default_provider, open_store
from aggfs.stores.retrying import RetryingStore

OpenStore = Callable[[AccountConfig], Store]


def open_account(
    config: AccountConfig, open_store: OpenStore = open_store, world: World = THIS_WORLD
) -> Account:
    """An account at run time: its store within the wrappers. `open_store` makes the bare one.

    One that cannot be used as this machine is set up now (a variable with its credentials is not
    set) is an account that is down, and says why: a volume is opened without it.
    """
    refusal = ""
    try:
        bare = open_store(config)
    except Refused as error:
        refusal = str(error)
        bare = AbsentStore(account_place(config), refusal)
    metered = MeteredStore(bare)
    store = RetryingStore(metered, random=world.random)
    return Account(
        id=config.id,
        name=config.name,
        driver=config.driver,
        provider=config.provider,
        quota_bytes=config.quota_bytes,
        store=store,
        meter=metered.figures,
        wake=store.wake,
        last_error=refusal,
        pool=_disk_of(config),
    )


def _disk_of(config: AccountConfig) -> str:
    """The disk whose room a directory shares; none while it is not there: a volume is opened,
    and mounted, without the accounts that are away."""
    if config.driver != "directory":
        return ""
    try:
        return default_provider(config)
    except Refused:
        return ""
