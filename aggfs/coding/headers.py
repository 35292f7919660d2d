"""The header that leads every fragment: sealed, and the same whenever it is made again.

    salt 32 = HMAC(epoch's master, fields) ‖ AES-256-GCM(fields 80) ‖ tag 16

The salt follows from all fields, and the key of the seal from the salt, so equal headers are
equal bytes and different ones never share a key. A reader who knows nothing tries the epochs of
his keyring.
"""

import hmac

from aggfs.coding.cipher import nonce_of, open_sealed, seal
from aggfs.coding.keys import VolumeKeys
from aggfs.errors import Damaged
from aggfs.formats.fragment import SALT_BYTES, FragmentHeader, decode_fields, encode_fields
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import FRAGMENT_HEADER_BYTES

_NONCE = nonce_of(0)


def seal_header(keys: VolumeKeys, header: FragmentHeader) -> bytes:
    """The 128 bytes that lead a fragment."""
    fields = encode_fields(header)
    salt = keys.header_salt(header.epoch, fields)
    return salt + seal(keys.header_key(header.epoch, salt), _NONCE, fields, salt)


def open_header_of_fragment(keys: VolumeKeys, data: Buffer) -> FragmentHeader:
    """The header at the front of a fragment of this volume, or `Damaged`."""
    view = memoryview(data)[:FRAGMENT_HEADER_BYTES]
    if len(view) < FRAGMENT_HEADER_BYTES:
        raise Damaged("a fragment is shorter than its header")
    salt, sealed = bytes(view[:SALT_BYTES]), view[SALT_BYTES:]
    for epoch in range(keys.epoch, 0, -1):
        try:
            fields = open_sealed(keys.header_key(epoch, salt), _NONCE, sealed, salt)
        except Damaged:
            continue
        return _checked(keys, epoch, salt, fields)
    raise Damaged("this is no fragment of this volume, or its header is damaged")


def _checked(keys: VolumeKeys, epoch: int, salt: bytes, fields: bytes) -> FragmentHeader:
    header = decode_fields(fields)
    genuine = hmac.compare_digest(salt, keys.header_salt(epoch, fields))
    if not genuine or header.epoch != epoch or header.volume != keys.volume:
        raise Damaged("a fragment's header does not agree with itself")
    return header
