"""The configuration of one volume on one device: TOML to frozen dataclasses, and back.

Read once, at the top. `parse` judges everything that can be judged without touching an account
and names each fault with its place ("config.toml: accounts[2].driver: ..."). Secrets are named
by reference (a profile, the names of environment variables) and never stored here.
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NewType

import cattrs
from cattrs.gen import make_dict_structure_fn, override

from aggfs.errors import BadConfig
from aggfs.model import AccountId, DeviceId, Layout, VolumeId
from aggfs.placement.policy import StorageClass, check_class

Size = NewType("Size", int)

DRIVERS = ("directory", "s3", "memory")
UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
ID_BYTES = {VolumeId: 16, DeviceId: 8, AccountId: 8}
REFERENCE_HINT = "secrets are not stored here: name a profile or environment variables"
# Which settings belong to which driver, besides id, name, driver, provider and quota.
SETTINGS_OF = {
    "directory": {"path"},
    "memory": set(),
    "s3": {
        *("endpoint", "bucket", "region", "prefix", "path_style"),
        *("profile", "access_key_env", "secret_key_env"),
    },
}
REQUIRED_OF = {"directory": ("path",), "memory": (), "s3": ("bucket",)}
HISTORY_LIMIT = 100_000
READ_DEADLINE_MINIMUM_SECONDS = 10  # some of them are needed to decode, and to answer


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """Where one account is. `quota_bytes` 0: not declared.

    S3 credentials come from `profile`, or from the two named environment variables, or else from
    the usual chain of the AWS tools. `endpoint` empty: Amazon's own.
    """

    id: AccountId
    name: str
    driver: str
    provider: str
    quota_bytes: Size = Size(0)
    path: str = ""
    endpoint: str = ""
    bucket: str = ""
    region: str = ""
    prefix: str = ""
    path_style: bool = False
    profile: str = ""
    access_key_env: str = ""
    secret_key_env: str = ""


@dataclass(frozen=True, slots=True)
class MountConfig:
    """How this device mounts the volume.

    `cache_limit_bytes` bounds what is kept of clean files, `staging_limit_bytes` what waits for
    upload (dirty and staged) before writers are slowed down; None: as the disk allows.
    `minimum_free_bytes` of the local disk are left to others. What nobody waits for (repair,
    pins) takes `background_rate_bytes` a second, 0: what there is. `fsync` and `close` say what
    these calls wait for: the local disk, or the accounts. A read that finds too few fragments fails
    after `read_deadline_seconds`. What nothing refers to any more is deleted from the accounts
    `collect_after_seconds` after they were told.
    """

    cache_encryption: bool = True
    cache_limit_bytes: Size | None = None
    staging_limit_bytes: Size | None = None
    minimum_free_bytes: Size = Size(1 << 30)
    background_rate_bytes: Size = Size(0)
    fsync: str = "local"
    close: str = "local"
    read_deadline_seconds: int = 30
    collect_after_seconds: int = 3600
    xattrs: bool = True
    writeback_cache: bool = False
    allow_other: bool = False


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """What is kept of the past: all versions of files for `all_hours`, those of whole hours for
    `hourly_days`, those of midnights (UTC) for `daily_days`; removed files for `trash_days`."""

    all_hours: int = 1
    hourly_days: int = 1
    daily_days: int = 30
    trash_days: int = 30


@dataclass(frozen=True, slots=True)
class Config:
    """One volume as this device knows it.

    `fragments_per_provider` is q: how many fragments of a stripe one provider may hold.
    New data goes into the first class.
    """

    name: str
    volume: VolumeId
    device: DeviceId
    device_name: str
    classes: tuple[StorageClass, ...]
    accounts: tuple[AccountConfig, ...] = ()
    fragments_per_provider: int = 1
    allow_complete_copy: bool = False
    mount: MountConfig = field(default_factory=MountConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)


def load(path: Path) -> Config:
    """The configuration in a file; `BadConfig` names the file and the place of the fault."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        raise BadConfig(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"{path}: cannot be read: {error}") from error
    return parse(text, source=str(path))


def parse(text: str, *, source: str = "config.toml") -> Config:
    """The configuration that a text describes, or `BadConfig` with every fault in one line."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{source}: {error}") from error
    try:
        config: Config = _CONVERTER.structure(raw, Config)
    except cattrs.BaseValidationError as error:
        raise _refusal(source, _shape_faults(error, "")) from error
    faults = list(_meaning_faults(config))
    if faults:
        raise _refusal(source, faults)
    return config


def dump(config: Config) -> str:
    """TOML from which `parse` makes an equal configuration. Defaults are left out."""
    lines = ["# aggfs: one volume on one device. Secrets are named here, never written.", ""]
    lines += _dumped_fields(config)
    for storage_class in config.classes:
        lines += ["", "[[classes]]", *_dumped_fields(storage_class)]
    for account in config.accounts:
        lines += ["", "[[accounts]]", *_dumped_fields(account)]
    mount = _dumped_fields(config.mount)
    if mount:
        lines += ["", "[mount]", *mount]
    history = _dumped_fields(config.history)
    if history:
        lines += ["", "[history]", *history]
    return "\n".join(lines) + "\n"


def is_volume_name(text: str) -> bool:
    """Whether a volume may be called so: its name becomes that of directories and of a mount."""
    return re.fullmatch(r"\w[\w.-]{0,63}", text, re.ASCII) is not None


def parse_size(value: object) -> Size:
    """Bytes from 4096 or "10 GiB"; `ValueError` says what is wrong."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Size(value)
    match = (
        re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", value) if isinstance(value, str) else None
    )
    if match and match[2] in UNITS:
        return Size(int(float(match[1]) * UNITS[match[2]]))
    raise ValueError(f'{value!r} is no size: write bytes, or "10 GiB" ({", ".join(UNITS)})')


def format_size(size_bytes: int) -> int | str:
    """What `parse_size` reads back exactly: in the largest unit that divides it."""
    for unit, factor in reversed(UNITS.items()):
        if factor > 1 and size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor} {unit}"
    return size_bytes


def account_settings(account: AccountConfig) -> dict[str, Any]:
    """An account as plain values under the names of the configuration file."""
    settings = {_toml_name(name): value for name, value in asdict(account).items()}
    return settings | {"id": account.id.hex()}


def account_from(settings: Mapping[str, object]) -> AccountConfig:
    """The reverse, judged like an account of a configuration file."""
    try:
        account: AccountConfig = _CONVERTER.structure(settings, AccountConfig)
    except cattrs.BaseValidationError as error:
        raise _refusal("account", _shape_faults(error, "")) from error
    faults = list(_account_faults(account))
    if faults:
        raise _refusal("account", faults)
    return account


def with_mount_options(config: Config, options: Mapping[str, str]) -> Config:
    """The configuration with settings of [mount] replaced for one mount, as `-o` gives them."""
    settings = _CONVERTER.unstructure(config.mount)
    renamed = {_toml_name(name): value for name, value in settings.items()}
    for name, text in options.items():
        renamed[name] = _read_option(text)
    try:
        mount = _CONVERTER.structure(renamed, MountConfig)
    except cattrs.BaseValidationError as error:
        raise _refusal("mount option", _shape_faults(error, "")) from error
    faults = [fault.removeprefix("mount.") for fault in _mount_faults(mount)]
    if faults:
        raise _refusal("mount option", faults)
    return replace(config, mount=mount)


def _read_option(text: str) -> bool | int | str:
    """A bare name (empty text) means true; "on" and "yes" do, too."""
    if text in ("", "true", "on", "yes"):
        return True
    if text in ("false", "off", "no"):
        return False
    return int(text) if text.isdecimal() else text


def _refusal(source: str, faults: Iterable[str]) -> BadConfig:
    return BadConfig("; ".join(f"{source}: {fault}" for fault in dict.fromkeys(faults)))


# --- reading --------------------------------------------------------------------------------------


def _exactly(kind: type, name: str) -> Callable[[Any, Any], Any]:
    """A hook that takes values of one TOML type and converts nothing."""

    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"must be {name}, not {value!r}")
        return value

    return structure


def _structure_id(value: Any, kind: Any) -> bytes:
    wanted = ID_BYTES[kind]
    try:
        identity = bytes.fromhex(value)
    except (TypeError, ValueError):
        identity = b""
    if len(identity) != wanted:
        raise ValueError(f"must be {2 * wanted} hexadecimal digits, not {value!r}")
    return identity


def _structure_layout(value: Any, _: Any) -> Layout:
    for layout in Layout:
        if value == layout.name.lower():
            return layout
    known = ", ".join(layout.name.lower() for layout in Layout)
    raise ValueError(f"unknown layout {value!r} ({known})")


def _toml_name(attribute: str) -> str:
    """Sizes carry their unit in the value, not in the name."""
    return attribute.removesuffix("_bytes")


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    converter.register_structure_hook(str, _exactly(str, "a text"))
    converter.register_structure_hook(int, _exactly(int, "a whole number"))
    converter.register_structure_hook(bool, _exactly(bool, "true or false"))
    converter.register_structure_hook(Layout, _structure_layout)
    converter.register_structure_hook_func(lambda t: t is Size, lambda value, _: parse_size(value))
    converter.register_structure_hook_func(
        lambda t: any(t is kind for kind in ID_BYTES), _structure_id
    )
    for cls in (StorageClass, AccountConfig, MountConfig, HistoryConfig, Config):
        renamed = {
            f.name: override(rename=_toml_name(f.name))
            for f in fields(cls)
            if _toml_name(f.name) != f.name
        }
        # The typed signature knows options only; any other keyword is an attribute.
        hook = make_dict_structure_fn(cls, converter, **renamed)  # type: ignore[arg-type]
        converter.register_structure_hook(cls, hook)
    return converter


_CONVERTER = _make_converter()


def _shape_faults(error: BaseException, place: str) -> Iterator[str]:
    """The faults in a tree of cattrs errors, each with its place."""
    if isinstance(error, cattrs.IterableValidationError):
        notes, others = error.group_exceptions()
        for inner, note in notes:
            yield from _shape_faults(inner, f"{place}[{note.index}]")
    elif isinstance(error, cattrs.ClassValidationError):
        attributes, others = error.group_exceptions()
        for inner, attribute in attributes:
            name = _toml_name(attribute.name)
            yield from _shape_faults(inner, f"{place}.{name}" if place else name)
    else:
        yield from _leaf_faults(error, place)
        return
    for inner in others:
        yield from _shape_faults(inner, place)


def _leaf_faults(error: BaseException, place: str) -> Iterator[str]:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        for key in sorted(error.extra_fields):
            hint = f" ({REFERENCE_HINT})" if re.search("secret|password|token|key", key) else ""
            yield f"{place}.{key}: unknown setting{hint}".lstrip(".")
    elif isinstance(error, KeyError):
        yield f"{place}: is missing"
    elif isinstance(error, ValueError):
        yield f"{place}: {error}"
    else:
        yield f"{place}: has the wrong shape"


# --- judging --------------------------------------------------------------------------------------


def _meaning_faults(config: Config) -> Iterator[str]:
    if not is_volume_name(config.name):
        yield f"name: {config.name!r} cannot name a volume (letters, digits, '_', '-', '.')"
    if not config.classes:
        yield "classes: there must be at least one"
    if config.fragments_per_provider < 1:
        yield "fragments_per_provider: must be at least 1"
    for index, storage_class in enumerate(config.classes):
        try:
            check_class(storage_class, config.fragments_per_provider)
        except BadConfig as error:
            yield f"classes[{index}]: {error}"
    yield from _twice("classes", "id", [storage_class.id for storage_class in config.classes])
    yield from _twice("accounts", "id", [account.id.hex() for account in config.accounts])
    yield from _twice("accounts", "name", [account.name for account in config.accounts])
    for index, account in enumerate(config.accounts):
        for fault in _account_faults(account):
            yield f"accounts[{index}].{fault}"
    yield from _mount_faults(config.mount)
    for setting, value in asdict(config.history).items():
        if not 0 <= value <= HISTORY_LIMIT:
            yield f"history.{setting}: must be between 0 and {HISTORY_LIMIT}, not {value}"


def _twice(table: str, setting: str, values: list[Any]) -> Iterator[str]:
    for index, value in enumerate(values):
        first = values.index(value)
        if first != index:
            yield f"{table}[{index}].{setting}: {value!r} is already that of {table}[{first}]"


def _account_faults(account: AccountConfig) -> Iterator[str]:
    if account.driver not in DRIVERS:
        yield f"driver: unknown driver {account.driver!r} ({', '.join(DRIVERS)})"
        return
    for setting in ("name", "provider"):
        if not getattr(account, setting):
            yield f"{setting}: must not be empty"
    for setting in sorted(set().union(*SETTINGS_OF.values()) - SETTINGS_OF[account.driver]):
        if getattr(account, setting):
            yield f"{setting}: is no setting of the driver {account.driver!r}"
    for setting in REQUIRED_OF[account.driver]:
        if not getattr(account, setting):
            yield f"{setting}: is needed by the driver {account.driver!r}"
    yield from _place_faults(account)


def _place_faults(account: AccountConfig) -> Iterator[str]:
    if account.path and not Path(account.path).is_absolute():
        yield f"path: must be absolute, not {account.path!r}"
    if account.endpoint and not re.match(r"https?://[^/]", account.endpoint):
        yield f"endpoint: must begin with https:// or http://, not {account.endpoint!r}"
    if bool(account.access_key_env) != bool(account.secret_key_env):
        yield "access_key_env: and secret_key_env must be given together"


def _mount_faults(mount: MountConfig) -> Iterator[str]:
    for setting in ("fsync", "close"):
        value = getattr(mount, setting)
        if value not in ("local", "cloud"):
            yield f"mount.{setting}: must be 'local' or 'cloud', not {value!r}"
    if mount.read_deadline_seconds < READ_DEADLINE_MINIMUM_SECONDS:
        yield f"mount.read_deadline_seconds: must be at least {READ_DEADLINE_MINIMUM_SECONDS}"
    if mount.collect_after_seconds < 0:
        yield "mount.collect_after_seconds: must not be negative"
    if mount.staging_limit_bytes is not None and mount.staging_limit_bytes < 64 << 20:
        yield "mount.staging_limit: must be at least 64 MiB"


# --- writing --------------------------------------------------------------------------------------


def _dumped_fields(value: Any) -> list[str]:
    """The scalar settings of a dataclass that differ from their defaults."""
    lines = []
    for f in fields(value):
        setting = getattr(value, f.name)
        if f.default == setting or isinstance(setting, tuple | MountConfig | HistoryConfig):
            continue
        if f.name.endswith("_bytes"):
            setting = format_size(setting)
        lines.append(f"{_toml_name(f.name)} = {_dumped(setting)}")
    return lines


def _dumped(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Layout):
        return _dumped(value.name.lower())
    if isinstance(value, bytes):
        return _dumped(value.hex())
    if isinstance(value, int):
        return str(value)
    quoted = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda m: f"\\u{ord(m[0]):04x}", quoted) + '"'
