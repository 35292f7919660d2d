"""Accounts as they run: a store within its wrappers."""

import random

from aggfs.config import AccountConfig
from aggfs.engine.accounts import Account
from aggfs.errors import Refused
from aggfs.stores.metered import MeteredStore
from aggfs.stores.registry import default_provider, open_store
from aggfs.stores.retrying import RetryingStore


def open_account(config: AccountConfig) -> Account:
    """An account at run time: its store within the wrappers."""
    metered = MeteredStore(open_store(config))
    store = RetryingStore(metered, random=random.random)
    return Account(
        id=config.id,
        name=config.name,
        driver=config.driver,
        provider=config.provider,
        quota_bytes=config.quota_bytes,
        store=store,
        meter=metered.figures,
        wake=store.wake,
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
