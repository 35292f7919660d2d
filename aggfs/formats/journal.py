"""A device's journal: segments, each naming the one before, and the head that names the last.

Both are signed records:

    version u8 ‖ type u8 ("S" or "H") ‖ body (MessagePack, positional) ‖ Ed25519 signature 64

The signature covers "aggfs journal 1" ‖ volume id ‖ everything before it. A segment's hash is the
SHA-256 of the whole record; the next segment of the chain and the head carry it. Signing and
checking are handed in, so this room knows no key.
"""

import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from aggfs.errors import Damaged, UnknownVersion
from aggfs.model import Entry, Id8, Unsigned

RECORD_LIMIT_BYTES = 64 * 1024 * 1024
ENTRIES_LIMIT = 1 << 16
NO_HASH = bytes(32)
CONTROL, NAMESPACE = 0, 1

_VERSION = 1
_SIGNATURE_BYTES = 64
_CONTEXT = b"aggfs journal 1"

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Sign = Callable[[bytes], bytes]
# (device, signed bytes, signature) -> whether a member of that id made it
Verify = Callable[[bytes, bytes, bytes], bool]


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


Body = TypeVar("Body", Segment, Head)
_encode = msgspec.msgpack.Encoder().encode
_decode_segment = msgspec.msgpack.Decoder(Segment).decode
_decode_head = msgspec.msgpack.Decoder(Head).decode


def encode_segment(segment: Segment, volume: bytes, sign: Sign) -> bytes:
    """The signed record."""
    return _signed(b"S", _encode(segment), volume, sign)


def encode_head(head: Head, volume: bytes, sign: Sign) -> bytes:
    """The signed record."""
    return _signed(b"H", _encode(head), volume, sign)


def decode_segment(record: bytes, volume: bytes, verify: Verify) -> Segment:
    """The segment, signed by the device that it names; or `Damaged`."""
    return _checked(b"S", record, volume, verify, _decode_segment)


def decode_head(record: bytes, volume: bytes, verify: Verify) -> Head:
    """The head, signed by the device that it names; or `Damaged`."""
    return _checked(b"H", record, volume, verify, _decode_head)


def record_hash(record: bytes) -> bytes:
    """What the next segment and the head carry of a segment."""
    return hashlib.sha256(record).digest()


def _signed(kind: bytes, body: bytes, volume: bytes, sign: Sign) -> bytes:
    record = bytes((_VERSION,)) + kind + body
    if len(record) > RECORD_LIMIT_BYTES:
        raise ValueError(f"a journal record of {len(record)} bytes is too long")
    return record + sign(_CONTEXT + volume + record)


def _checked(
    kind: bytes, record: bytes, volume: bytes, verify: Verify, decode: Callable[[bytes], Body]
) -> Body:
    if not 2 + _SIGNATURE_BYTES <= len(record) <= RECORD_LIMIT_BYTES:
        raise Damaged("a journal record has an impossible length")
    if record[0] != _VERSION:
        raise UnknownVersion("a journal record was written by a newer aggfs")
    if record[1:2] != kind:
        raise Damaged("a journal record is of another type")
    signed, signature = record[:-_SIGNATURE_BYTES], record[-_SIGNATURE_BYTES:]
    try:
        body = decode(signed[2:])
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Damaged(f"a journal record is damaged: {error}") from error
    if not verify(body.device, _CONTEXT + volume + signed, signature):
        raise Damaged("a journal record does not carry its device's signature")
    return body
