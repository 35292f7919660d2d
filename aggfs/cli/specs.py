"""Accounts as users write them: NAME=LOCATION?SETTING=VALUE&...

    photos=/srv/photos?quota=100GiB&provider=attic
    home=s3://bucket/prefix?endpoint=https://s3.example.com&region=eu&profile=home

LOCATION is an absolute or relative directory, or s3://BUCKET/PREFIX. A "?" or "&" inside a value
is written as in addresses of web pages (%3F, %26).
"""

import os
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from aggfs.config import AccountConfig, Size, parse_size
from aggfs.errors import BadConfig
from aggfs.model import AccountId

SETTINGS = {
    "directory": {"provider", "quota"},
    "s3": {
        *("provider", "quota", "endpoint", "region", "path_style"),
        *("profile", "access_key_env", "secret_key_env"),
    },
}


def parse_spec(spec: str, *, id: AccountId) -> AccountConfig:  # noqa: A002 - the field's name
    """The account that NAME=LOCATION?... describes; its provider is empty unless it is named.

    Raises `BadConfig`, naming the account.
    """
    name, equals, rest = spec.partition("=")
    if not equals or not name or not rest:
        raise BadConfig(f"account {spec!r}: write NAME=DIRECTORY or NAME=s3://BUCKET/PREFIX")
    location, _, query = rest.partition("?")
    driver = "s3" if location.startswith("s3://") else "directory"
    try:
        settings = dict(parse_qsl(query, strict_parsing=bool(query), max_num_fields=20))
        return _account(name, driver, unquote(location), settings, id)
    except (ValueError, BadConfig) as error:
        raise BadConfig(f"account {name!r}: {error}") from None


def _account(
    name: str, driver: str, location: str, settings: Mapping[str, str], account: AccountId
) -> AccountConfig:
    unknown = sorted(settings.keys() - SETTINGS[driver])
    if unknown:
        known = ", ".join(sorted(SETTINGS[driver]))
        raise ValueError(f"unknown setting {unknown[0]!r} (a {driver} account has {known})")
    quota = _size(settings.get("quota", "0"))
    provider = settings.get("provider", "")
    if driver == "directory":
        path = os.path.realpath(location)
        return AccountConfig(account, name, driver, provider, quota_bytes=quota, path=path)
    parts = urlsplit(location)
    return AccountConfig(
        account,
        name,
        driver,
        provider,
        quota_bytes=quota,
        endpoint=settings.get("endpoint", ""),
        bucket=parts.netloc,
        region=settings.get("region", ""),
        prefix=parts.path.strip("/"),
        path_style=_yes(settings.get("path_style", "no")),
        profile=settings.get("profile", ""),
        access_key_env=settings.get("access_key_env", ""),
        secret_key_env=settings.get("secret_key_env", ""),
    )


def _size(text: str) -> Size:
    return parse_size(int(text) if text.isdecimal() else text)


def _yes(text: str) -> bool:
    if text not in ("yes", "no", "true", "false", "1", "0"):
        raise ValueError(f"{text!r} is neither yes nor no")
    return text in ("yes", "true", "1")
