"""From the settings of an account to its store, its place and its usual provider.

The driver names of the configuration live here. A driver's library is imported when the first
account of its kind is opened, and not before.
"""

import os
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from aggfs.errors import BadConfig, Refused
from aggfs.stores.base import Store
from aggfs.stores.directory import DirectoryStore
from aggfs.stores.folder import file_system_id
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.stores.places import s3_place, s3_provider
from aggfs.stores.threaded import READ_SLOTS, WRITE_SLOTS, ThreadedStore

Found = TypeVar("Found")


class AccountSettings(Protocol):
    """What a driver needs to know. Empty text: not set. Secrets are only named."""

    @property
    def driver(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def endpoint(self) -> str: ...

    @property
    def bucket(self) -> str: ...

    @property
    def region(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    @property
    def path_style(self) -> bool: ...

    @property
    def profile(self) -> str: ...

    @property
    def access_key_env(self) -> str: ...

    @property
    def secret_key_env(self) -> str: ...


def open_store(settings: AccountSettings, *, environ: Mapping[str, str] = os.environ) -> Store:
    """The bare store of an account, no wrappers. Touches neither disk nor network.

    `BadConfig`: settings that no account can have. `Refused`: a named variable is not set.
    A memory account is empty each time it is opened.
    """
    return _driver(settings, _OPEN)(settings, environ)


def account_place(settings: AccountSettings) -> str:
    """Equal for two accounts that are the same place in the same words (see `same_place`)."""
    return _driver(settings, _PLACE)(settings)


def default_provider(settings: AccountSettings) -> str:
    """Who fails as a whole with this account, unless the user says otherwise.

    The registrable domain of an S3 endpoint; the file system of a directory (which must be
    there: `Refused`); a memory account is its own.
    """
    return _driver(settings, _PROVIDER)(settings)


def _open_directory(settings: AccountSettings, environ: Mapping[str, str]) -> Store:
    del environ
    return DirectoryStore(settings.path)


def _open_memory(settings: AccountSettings, environ: Mapping[str, str]) -> Store:
    del environ
    return MemoryStore(MemoryObjects(settings.name))


def _open_s3(settings: AccountSettings, environ: Mapping[str, str]) -> Store:
    from aggfs.stores.s3 import S3Driver, S3Options  # boto3 takes a third of a second

    if bool(settings.access_key_env) != bool(settings.secret_key_env):
        raise BadConfig(f"account {settings.name}: access_key_env and secret_key_env go together")
    options = S3Options(
        bucket=settings.bucket,
        endpoint=settings.endpoint,
        region=settings.region,
        prefix=settings.prefix,
        path_style=settings.path_style,
        profile=settings.profile,
        access_key=_secret(settings, settings.access_key_env, environ),
        secret_key=_secret(settings, settings.secret_key_env, environ),
        connections=WRITE_SLOTS + READ_SLOTS,
    )
    return ThreadedStore(S3Driver(options))


def _secret(settings: AccountSettings, variable: str, environ: Mapping[str, str]) -> str:
    if not variable:
        return ""
    value = environ.get(variable, "")
    if not value:
        raise Refused(f"account {settings.name}: the environment variable {variable} is not set")
    return value


def _place_of_directory(settings: AccountSettings) -> str:
    return DirectoryStore(settings.path).place


def _place_of_s3(settings: AccountSettings) -> str:
    return s3_place(settings.endpoint, settings.bucket, settings.prefix)


def _provider_of_directory(settings: AccountSettings) -> str:
    try:
        return f"filesystem-{file_system_id(settings.path):x}"
    except OSError as error:
        raise Refused(f"{settings.path}: {error.strerror}; make the directory first") from error


_OPEN: dict[str, Callable[[AccountSettings, Mapping[str, str]], Store]] = {
    "directory": _open_directory,
    "memory": _open_memory,
    "s3": _open_s3,
}
_PLACE: dict[str, Callable[[AccountSettings], str]] = {
    "directory": _place_of_directory,
    "memory": lambda settings: f"memory://{settings.name}",
    "s3": _place_of_s3,
}
_PROVIDER: dict[str, Callable[[AccountSettings], str]] = {
    "directory": _provider_of_directory,
    "memory": lambda settings: f"memory-{settings.name}",
    "s3": lambda settings: s3_provider(settings.endpoint),
}


def _driver(settings: AccountSettings, table: Mapping[str, Found]) -> Found:
    try:
        return table[settings.driver]
    except KeyError:
        known = ", ".join(sorted(table))
        raise BadConfig(
            f"account {settings.name}: no driver {settings.driver!r}; there are {known}"
        ) from None
