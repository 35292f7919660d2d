"""The keyring, and every key and object name that is derived from it.

Theory of operation. A volume has one random master key per epoch; all else is
HMAC-SHA256(master, purpose ‖ what it is for). Purposes are distinct texts and what follows them
has fixed lengths, so no two uses share a key. A derived key serves exactly one stripe or one
fragment: with the nonce of a block's index, no pair of key and nonce comes twice.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from aggfs.coding.cipher import KEY_BYTES, CellMac
from aggfs.errors import Damaged
from aggfs.formats.fragment import LOUD_BYTES, Suite

_CACHED_KEYS = 512
_NAME_BYTES = 20
_NAME_PATTERN = re.compile(r"[0-9a-f]{2}/[0-9a-f]{38}")
_HEADER_RANDOM_BYTES = 8


@dataclass(frozen=True, slots=True)
class Keyring:
    """The secrets of a volume: one master key per epoch, the newest last. Never printed."""

    volume: bytes
    epochs: tuple[bytes, ...] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.epochs or any(len(master) != KEY_BYTES for master in self.epochs):
            raise ValueError("a keyring holds at least one master key of 32 bytes")

    @property
    def epoch(self) -> int:
        """The newest epoch; the first is 1."""
        return len(self.epochs)


class VolumeKeys:
    """Keys and names of one volume. Shared by threads; knows no more than the keyring.

    `suite` is how data blocks are sealed. Suite.NONE leaves them readable and is for the test
    profile alone; tables, segments and checkpoints are always sealed.
    """

    def __init__(self, keyring: Keyring, *, suite: Suite = Suite.AES_256_GCM) -> None:
        self._keyring = keyring
        self.suite = suite
        self.volume = keyring.volume
        self.epoch = keyring.epoch
        self.stripe_key = lru_cache(_CACHED_KEYS)(self._stripe_key)
        self.cell_mac = lru_cache(_CACHED_KEYS)(self._cell_mac)

    def __repr__(self) -> str:
        return f"VolumeKeys(volume={self.volume.hex()}, epoch={self.epoch})"

    def _derive(self, epoch: int, purpose: bytes, *parts: bytes) -> bytes:
        """HMAC(master of the epoch, purpose ‖ volume ‖ parts). No purpose begins another."""
        if not self.has_epoch(epoch):
            raise Damaged(f"epoch {epoch} is not in this keyring, which ends at {self.epoch}")
        message = b"".join((b"aggfs ", purpose, self.volume, *parts))
        return hmac.digest(self._keyring.epochs[epoch - 1], message, "sha256")

    def has_epoch(self, epoch: int) -> bool:
        """Whether the keyring reaches to this epoch."""
        return 1 <= epoch <= self.epoch

    # --- stripes ----------------------------------------------------------------------------

    def _stripe_key(self, epoch: int, sid: bytes) -> bytes:
        return self._derive(epoch, b"stripe", sid)

    def cell_key(self, epoch: int, sid: bytes, k: int, layout: int, index: int) -> bytes:
        """The key of the MACs of one fragment."""
        return self._derive(epoch, b"cell", sid, bytes((k, layout, index)))

    def _cell_mac(self, epoch: int, sid: bytes, k: int, layout: int, index: int) -> CellMac:
        return CellMac(self.cell_key(epoch, sid, k, layout, index))

    def scatter_key(self, epoch: int, sid: bytes, block: int) -> bytes:
        """What the permutation of one block of one stripe follows from."""
        return self._derive(epoch, b"scatter", sid, block.to_bytes(4, "big"))

    def filler_key(self, epoch: int, sid: bytes) -> bytes:
        """What fills the last cells of a stripe's blocks."""
        return self._derive(epoch, b"filler", sid)

    def tail_key(self, epoch: int, salt: bytes) -> bytes:
        """What fills a fragment up to its size class; `salt` is its header's."""
        return self._derive(epoch, b"tail", salt)

    def header_salt(self, epoch: int, fields: bytes) -> bytes:
        """The salt that leads a fragment, made from all its header's fields. One that begins like
        the files of some program is followed by the salt of itself."""
        salt = self._derive(epoch, b"header salt", fields)
        while salt[0] in LOUD_BYTES:
            salt = self._derive(epoch, b"header salt", salt)
        return salt

    def header_key(self, epoch: int, salt: bytes) -> bytes:
        """The key of one fragment header."""
        return self._derive(epoch, b"header key", salt)

    def charter_key(self, epoch: int, salt: bytes) -> bytes:
        """The key of a header's sealed part."""
        return self._derive(epoch, b"charter", salt)

    # --- object names -----------------------------------------------------------------------

    def _name(self, epoch: int, purpose: bytes, *parts: bytes) -> str:
        names = self._derive(epoch, b"names")
        digest = hmac.digest(names, b"".join((purpose, *parts)), "sha256")
        return _object_key(digest[:_NAME_BYTES])

    def fragment_name(self, epoch: int, sid: bytes, index: int, account: bytes) -> str:
        """Fragment `index` of a data stripe, on one account."""
        return self._name(epoch, b"fragment", sid, bytes((index,)), account)

    def segment_name(
        self, epoch: int, device: bytes, chain: int, sequence: int, account: bytes
    ) -> str:
        """The one fragment that an account holds of a journal segment."""
        place = bytes((chain,)) + sequence.to_bytes(8, "big")
        return self._name(epoch, b"segment", device, place, account)

    def head_name(self, epoch: int, device: bytes, account: bytes) -> str:
        """A device's head."""
        return self._name(epoch, b"head", device, account)

    def checkpoint_name(
        self, epoch: int, device: bytes, sequence: int, part: int, account: bytes
    ) -> str:
        """The one fragment that an account holds of a part of a checkpoint."""
        place = sequence.to_bytes(8, "big") + part.to_bytes(4, "big")
        return self._name(epoch, b"checkpoint", device, place, account)

    # --- this machine -----------------------------------------------------------------------

    def local_key(self, purpose: bytes) -> bytes:
        """64 bytes for local state, by purpose; from the first epoch, so that rotation of the
        keyring leaves the cache readable."""
        return self._derive(1, b"local 1", purpose) + self._derive(1, b"local 2", purpose)


def _object_key(name: bytes) -> str:
    text = name.hex()
    return f"{text[:2]}/{text[2:]}"


def header_name(random8: bytes) -> str:
    """The name of a header object: found without any key, and random to who knows no aggfs."""
    if len(random8) != _HEADER_RANDOM_BYTES:
        raise ValueError("a header name is made from 8 random bytes")
    return _object_key(random8 + _header_check(random8))


def is_header_name(key: str) -> bool:
    """Whether an object may be a header, by its name (without the account's prefix)."""
    if not is_object_name(key):
        return False
    name = bytes.fromhex(key[:2] + key[3:])
    random8 = name[:_HEADER_RANDOM_BYTES]
    return name[_HEADER_RANDOM_BYTES:] == _header_check(random8)


def is_object_name(key: str) -> bool:
    """Whether a key has the shape of our names; one that has not is foreign for certain."""
    return _NAME_PATTERN.fullmatch(key) is not None


def _header_check(random8: bytes) -> bytes:
    check_bytes = _NAME_BYTES - _HEADER_RANDOM_BYTES
    return hashlib.sha256(b"aggfs header 1" + random8).digest()[:check_bytes]


# --- secrets and key pairs ------------------------------------------------------------------------
# Thin doors to `cryptography`; what they are for is told in `aggfs.coding.slots`.

_HPKE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


def stretch_passphrase(
    passphrase: bytes, salt: bytes, *, memory_kib: int, passes: int, lanes: int, length: int
) -> bytes:
    """Argon2id: costs `memory_kib` of memory and, on purpose, time."""
    return Argon2id(
        salt=salt, length=length, iterations=passes, lanes=lanes, memory_cost=memory_kib
    ).derive(passphrase)


def expand_secret(secret: bytes, salt: bytes, purpose: bytes, length: int) -> bytes:
    """HKDF-SHA256 of a secret that no one can guess."""
    return HKDF(hashes.SHA256(), length, salt, purpose).derive(secret)


def exchange_public_key(private_key: bytes) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def wrap_for(public_key: bytes, secret: bytes, info: bytes) -> bytes:
    """HPKE (RFC 9180, base mode, X25519, HKDF-SHA256, AES-256-GCM): 32 bytes of encapsulated key,
    then the sealed secret. The library draws the ephemeral key itself."""
    return _HPKE.encrypt(secret, X25519PublicKey.from_public_bytes(public_key), info)


def unwrap(private_key: bytes, wrapped: bytes, info: bytes) -> bytes:
    """The reverse of `wrap_for`, or `Damaged`."""
    try:
        return _HPKE.decrypt(wrapped, X25519PrivateKey.from_private_bytes(private_key), info)
    except (InvalidTag, ValueError):
        raise Damaged("a wrapped key was not wrapped for this slot") from None


def signing_public_key(seed: bytes) -> bytes:
    """The Ed25519 public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte Ed25519 signature of a message."""
    return Ed25519PrivateKey.from_private_bytes(seed).sign(message)


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the signature is that key's, of that message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
