"""A device's journal: segments, each naming the one before, and the head that names the last.

Both are signed records (`aggfs.formats.signed`), of type "S" and "H". A segment's hash is the
SHA-256 of the whole record; the next segment of the chain and the head carry it.
"""

import hashlib
from typing import Annotated

import msgspec

from aggfs.formats.signed import Sign, Verify, open_record, sign_record
from aggfs.model import Entry, Id8, Unsigned

ENTRIES_LIMIT = 1 << 16
NO_HASH = bytes(32)
CONTROL, NAMESPACE = 0, 1

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Entries of one chain, each with its clock reading, in order. Sequences count from 1."""

    device: Id8
    chain: Annotated[int, msgspec.Meta(ge=CONTROL, le=NAMESPACE)]
    sequence: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    previous: Hash
    entries: Annotated[tuple[tuple[Unsigned, Entry], ...], msgspec.Meta(max_length=ENTRIES_LIMIT)]


class Tip(msgspec.Struct, frozen=True, array_like=True):
    """The last segment of a chain; sequence 0: there is none."""

    sequence: Unsigned
    hash: Hash


class Head(msgspec.Struct, frozen=True, array_like=True):
    """What a device has published. It will never publish a clock reading below `floor`.

    `checkpoint` is the sequence of its newest checkpoint, in `checkpoint_parts` parts; 0: none.
    `count` rises with every head that the device writes.
    """

    device: Id8
    count: Unsigned
    control: Tip
    namespace: Tip
    floor: Unsigned
    checkpoint: Unsigned
    checkpoint_parts: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]


_encode = msgspec.msgpack.Encoder().encode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def encode_segment(segment: Segment, volume: bytes, sign: Sign) -> bytes:
    """The signed record."""
    return sign_record(b"S", _encode(segment), volume, sign)


def encode_head(head: Head, volume: bytes, sign: Sign) -> bytes:
    """The signed record."""
    return sign_record(b"H", _encode(head), volume, sign)


def decode_segment(record: bytes, volume: bytes, verify: Verify) -> Segment:
    """The segment, signed by the device that it names; or `Damaged`."""
    return open_record(b"S", record, volume, verify, _decode_segment)


def decode_head(record: bytes, volume: bytes, verify: Verify) -> Head:
    """The head, signed by the device that it names; or `Damaged`."""
    return open_record(b"H", record, volume, verify, _decode_head)


def record_hash(record: bytes) -> bytes:
    """What the next segment and the head carry of a segment."""
    return hashlib.sha256(record).digest()
