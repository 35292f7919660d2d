"""The framing of every value in the local database: 1 version byte, payload, CRC-32.

The checksum covers the key, too: a value under another key does not check.
"""

import zlib

from aggfs.errors import Damaged, UnknownVersion

VERSION = b"\x01"
FRAME_BYTES = 5
_RESIDUE = 0x2144DF1C  # CRC-32 of anything followed by its own CRC-32, little endian


def wrap(key: bytes, value: bytes) -> bytes:
    """The value as it is stored under `key`."""
    body = VERSION + value
    return body + zlib.crc32(body, zlib.crc32(key)).to_bytes(4, "little")


def unwrap(table: str, key: bytes, raw: bytes) -> bytes:
    """The reverse of `wrap`. Raises Damaged, UnknownVersion."""
    if zlib.crc32(raw, zlib.crc32(key)) != _RESIDUE or len(raw) < FRAME_BYTES:
        raise Damaged(f"the local database holds a damaged row in table {table}")
    if raw[:1] != VERSION:
        raise UnknownVersion(f"table {table} of the local database was written by a newer aggfs")
    return raw[1:-4]
