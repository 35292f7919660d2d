"""What makes this machine a device of the volume: its secrets, in one file of the state directory.

    "aggfs-device-1" newline, device id, slot secret, signing seed: hex, a line each

The slot secret opens the device's slot of the header, the seed signs its journal. Who can read
this file can read the volume: it is for its user alone.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aggfs.coding import keys, slots
from aggfs.coding.slots import OpenedHeader
from aggfs.disk import sync_directory
from aggfs.errors import BadConfig, Damaged
from aggfs.formats.header import Slot
from aggfs.model import DeviceId, Member

FILE_NAME = "device.key"
HEADER_NAME = "header"
CACHE_FORM_NAME = "cache-encryption"
LOCAL_ACCOUNT = bytes(8)  # what the local copy of a header says of where it lies
_LEAD = "aggfs-device-1"
_LENGTHS = (8, 32, 32)


@dataclass(frozen=True, slots=True)
class Identity:
    """One device's secrets. Never printed."""

    device: DeviceId
    secret: bytes = field(repr=False)
    seed: bytes = field(repr=False)

    @classmethod
    def new(cls, device: DeviceId, random_bytes: Callable[[int], bytes]) -> "Identity":
        """A device that no volume knows yet."""
        return cls(device, random_bytes(32), random_bytes(32))

    @classmethod
    def load(cls, state_directory: Path) -> "Identity":
        """Raises `BadConfig` when this machine has none."""
        path = state_directory / FILE_NAME
        try:
            lead, *lines = path.read_text("ascii").split()
            device, secret, seed = (bytes.fromhex(line) for line in lines)
        except FileNotFoundError:
            raise BadConfig(
                f"{path} is not there: bring the volume back with `aggfs recover`"
            ) from None
        except (ValueError, OSError) as error:
            raise BadConfig(f"{path} cannot be read: {error}") from error
        if lead != _LEAD or (len(device), len(secret), len(seed)) != _LENGTHS:
            raise BadConfig(f"{path} is no device key of this version")
        return cls(DeviceId(device), secret, seed)

    def save(self, state_directory: Path) -> None:
        """Write the file, durably, for its user alone."""
        text = "\n".join((_LEAD, self.device.hex(), self.secret.hex(), self.seed.hex(), ""))
        write_private(state_directory / FILE_NAME, text.encode())

    @property
    def slot_secret(self) -> slots.Secret:
        """What opens this device's slot."""
        return slots.device_secret(self.secret)

    def new_slot(self, random_bytes: Callable[[int], bytes]) -> Slot:
        """A slot for this device."""
        return slots.new_slot(self.slot_secret, random_bytes=random_bytes)

    def member(self, name: str, slot: Slot) -> Member:
        """What the others know of this device."""
        public = keys.signing_public_key(self.seed)
        return Member(self.device, name, public, slot.public_key, None)

    def verify(self, device: bytes, message: bytes, signature: bytes) -> bool:
        """Whether this device made a signature."""
        public = keys.signing_public_key(self.seed)
        return device == self.device and keys.is_signed(public, message, signature)

    def sign(self, message: bytes) -> bytes:
        """This device's signature."""
        return keys.sign(self.seed, message)


def write_private(path: Path, data: bytes) -> None:
    """Replace a file as a whole, durably; only its user may read it."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def keep_cache_form(state_directory: Path, *, encrypted: bool) -> None:
    """Note at the first start whether local copies of files are encrypted, and hold it to that:
    read in the other form, all of them would be noise that nobody could tell from content.

    Raises `BadConfig` when the setting was changed since.
    """
    path = state_directory / CACHE_FORM_NAME
    word, other = ("true", "false") if encrypted else ("false", "true")
    try:
        noted = path.read_text("ascii").strip()
    except FileNotFoundError:
        write_private(path, f"{word}\n".encode())
        return
    if noted != word:
        raise BadConfig(
            f"mount.cache_encryption: this machine's local copies were made with {other};"
            " it can be chosen only where a volume is new to a machine"
        )


def save_header(state_directory: Path, opened: OpenedHeader) -> None:
    """Keep the header here as well: a mount needs no network."""
    data = slots.seal_header(opened, LOCAL_ACCOUNT, random_bytes=os.urandom)
    write_private(state_directory / HEADER_NAME, data)


def load_header(state_directory: Path, identity: Identity) -> OpenedHeader:
    """The header as this device last knew it. Raises `Damaged`, `WrongKey`."""
    path = state_directory / HEADER_NAME
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
    return slots.open_header(data, identity.slot_secret)
