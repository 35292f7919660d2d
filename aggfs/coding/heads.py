"""A device's head as it lies, whole, on every account.

    salt 32 ‖ AES-256-GCM(length u32 ‖ record ‖ zeros up to a size class) ‖ tag 16

A head is overwritten for as long as its device lives; the salt is random and new each time, and
the key follows from it, so no key seals twice. The seal is bound to device and account: the head
of one cannot be passed off as another's.
"""

from aggfs.coding.cipher import TAG_BYTES, nonce_of, open_sealed, seal
from aggfs.coding.keys import VolumeKeys
from aggfs.errors import Damaged
from aggfs.formats.record import Buffer, Reader
from aggfs.formats.sizes import size_class

SALT_BYTES = 32
RECORD_LIMIT_BYTES = 64 * 1024

_LENGTH_BYTES = 4
_LEAST_BYTES = SALT_BYTES + TAG_BYTES + _LENGTH_BYTES
_NONCE = nonce_of(0)


def seal_head(
    keys: VolumeKeys, record: Buffer, *, device: bytes, account: bytes, salt: bytes
) -> bytes:
    """The object of a head record; `salt` is 32 random bytes that were never used before."""
    if len(record) > RECORD_LIMIT_BYTES or len(salt) != SALT_BYTES:
        raise ValueError("this is no record of a head, or no salt")
    plain = len(record).to_bytes(_LENGTH_BYTES, "big") + record
    padded = plain.ljust(size_class(_LEAST_BYTES + len(record)) - SALT_BYTES - TAG_BYTES, b"\0")
    return salt + seal(keys.tip_key(keys.epoch, salt), _NONCE, padded, _bound(device, account))


def open_head(keys: VolumeKeys, data: Buffer, *, device: bytes, account: bytes) -> bytes:
    """The record in a head object of that device on that account, of any epoch; or `Damaged`."""
    view = memoryview(data)
    if not _LEAST_BYTES <= len(view) <= 2 * RECORD_LIMIT_BYTES:
        raise Damaged("this object is too short or too long to be a head")
    salt, sealed = bytes(view[:SALT_BYTES]), view[SALT_BYTES:]
    for epoch in range(keys.epoch, 0, -1):
        key = keys.tip_key(epoch, salt)
        try:
            reader = Reader(open_sealed(key, _NONCE, sealed, _bound(device, account)), "head")
        except Damaged:
            continue
        record = reader.counted(_LENGTH_BYTES, limit=RECORD_LIMIT_BYTES)
        reader.zeros()
        return record
    raise Damaged("this is no head of this device on this account, or it is damaged")


def _bound(device: bytes, account: bytes) -> bytes:
    return b"aggfs head" + device + account
