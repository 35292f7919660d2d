"""Signed records: what a device puts into its journal and its checkpoints.

    version u8 ‖ type u8 ‖ body (MessagePack, positional) ‖ Ed25519 signature 64

The signature covers "aggfs journal 1" ‖ volume id ‖ everything before it. Signing and checking are
handed in, so this room knows no key.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

import msgspec

from aggfs.errors import Damaged, UnknownVersion

RECORD_LIMIT_BYTES = 64 * 1024 * 1024

_VERSION = 1
_SIGNATURE_BYTES = 64
_CONTEXT = b"aggfs journal 1"

Sign = Callable[[bytes], bytes]
# (device, signed bytes, signature) -> whether a member of that id made it
Verify = Callable[[bytes, bytes, bytes], bool]


class Signed(Protocol):
    """A body that names the device which signs it."""

    @property
    def device(self) -> bytes: ...


Body = TypeVar("Body", bound=Signed)


def sign_record(kind: bytes, body: bytes, volume: bytes, sign: Sign) -> bytes:
    """The record of type `kind` with this body. Raises ValueError when it is too long."""
    record = bytes((_VERSION,)) + kind + body
    if len(record) + _SIGNATURE_BYTES > RECORD_LIMIT_BYTES:
        raise ValueError(f"a record of {len(record)} bytes is too long")
    return record + sign(_CONTEXT + volume + record)


def open_record(
    kind: bytes, record: bytes, volume: bytes, verify: Verify, decode: Callable[[bytes], Body]
) -> Body:
    """The body of a record of type `kind`, signed by the device that it names; or `Damaged`."""
    if not 2 + _SIGNATURE_BYTES <= len(record) <= RECORD_LIMIT_BYTES:
        raise Damaged("a signed record has an impossible length")
    if record[0] != _VERSION:
        raise UnknownVersion("a signed record was written by a newer aggfs")
    if record[1:2] != kind:
        raise Damaged("a signed record is of another type")
    signed, signature = record[:-_SIGNATURE_BYTES], record[-_SIGNATURE_BYTES:]
    try:
        body = decode(signed[2:])
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Damaged(f"a signed record is damaged: {error}") from error
    if not verify(body.device, _CONTEXT + volume + signed, signature):
        raise Damaged("a signed record does not carry its device's signature")
    return body
