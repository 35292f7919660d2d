"""Sealing one block, and opening it.

    sealed block = AES-256-GCM(data ‖ zeros up to a size class ‖ footer) ‖ tag
    footer       = compression u8, plain length u24

The footer lies inside the seal, so a block says itself how it is to be read and nothing has to
be remembered beside it. The plain length is that before compression; a compressed stream ends by
itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aggfs.coding import cipher
from aggfs.coding.compress import Compression, compress, decompress
from aggfs.coding.keys import VolumeKeys
from aggfs.errors import Damaged
from aggfs.formats.fragment import SEALED_LIMIT_BYTES, Kind, Suite, associated_data
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import FOOTER_BYTES, TAG_BYTES, sealed_length, size_class

ROOM_BYTES = 16
PLAIN_LIMIT_BYTES = 1 << 20

_ZEROS = bytes(SEALED_LIMIT_BYTES)


@dataclass(frozen=True, slots=True)
class Place:
    """Which block this is: what its seal is bound to."""

    kind: Kind
    epoch: int
    sid: bytes
    block: int


def prepare(method: str | None, data: Buffer) -> tuple[tuple[Buffer, bytes], int]:
    """What is to be sealed (data as it will lie there, padding with footer), and the length of
    the sealed block."""
    if len(data) > PLAIN_LIMIT_BYTES:
        raise ValueError(f"a block of {len(data)} bytes is too long to be sealed")
    used, packed = compress(method, data)
    length = sealed_length(len(packed))
    if length > SEALED_LIMIT_BYTES:
        raise ValueError(f"a block of {len(packed)} bytes is too long to be sealed")
    padding = _ZEROS[: size_class(len(packed)) - len(packed)]
    footer = bytes((used,)) + len(data).to_bytes(FOOTER_BYTES - 1, "big")
    return (packed, padding + footer), length


def seal_into(keys: VolumeKeys, place: Place, pieces: Sequence[Buffer], out: memoryview) -> None:
    """Seal what `prepare` gave into `out`, which has ROOM_BYTES more than the sealed block."""
    suite, key, associated = _bound(keys, place)
    nonce = cipher.nonce_of(place.block)
    if suite is Suite.AES_256_GCM:
        cipher.seal_into(key, nonce, pieces, associated, out)
        return
    body = b"".join(pieces)
    out[: len(body)] = body
    out[len(body) : len(body) + TAG_BYTES] = cipher.seal(key, nonce, b"", associated + body)


def open_into(
    keys: VolumeKeys, place: Place, length: int, pieces: Sequence[Buffer], out: memoryview
) -> Buffer:
    """The plaintext of a sealed block of `length` bytes that lies in pieces, one after the other
    (what follows in them is ignored); a part of `out` unless it was compressed.

    `out` has at least `length` bytes. `Damaged` when the block is not what was sealed.
    """
    body, tag = _split(pieces, length - TAG_BYTES)
    suite, key, associated = _bound(keys, place)
    nonce = cipher.nonce_of(place.block)
    if suite is Suite.AES_256_GCM:
        end = cipher.open_into(key, nonce, body, tag, associated, out)
    else:
        whole = b"".join(body)
        cipher.open_sealed(key, nonce, tag, associated + whole)
        end = len(whole)
        out[:end] = whole
    return _without_padding(out[:end])


def _bound(keys: VolumeKeys, place: Place) -> tuple[Suite, bytes, bytes]:
    """The suite, the key and the associated data of a block."""
    suite = keys.suite if place.kind is Kind.DATA else Suite.AES_256_GCM
    associated = associated_data(
        suite, place.kind, keys.volume, place.epoch, place.sid, place.block
    )
    return suite, keys.stripe_key(place.epoch, place.sid), associated


def _split(pieces: Sequence[Buffer], body_bytes: int) -> tuple[list[memoryview], bytes]:
    """The pieces cut to `body_bytes`, and the tag that follows (it may lie in two pieces)."""
    body = list(_span(pieces, 0, body_bytes))
    tag = b"".join(_span(pieces, body_bytes, body_bytes + TAG_BYTES))
    return body, tag


def _span(pieces: Sequence[Buffer], start: int, end: int) -> Iterator[memoryview]:
    """The parts of the pieces that lie between two offsets of their concatenation."""
    at = 0
    for piece in pieces:
        low, high = max(start - at, 0), min(end - at, len(piece))
        if low < high:
            yield memoryview(piece)[low:high]
        at += len(piece)


def _without_padding(plain: memoryview) -> Buffer:
    """The block itself, from what was sealed."""
    end = len(plain) - FOOTER_BYTES
    try:
        method = Compression(plain[end])
    except ValueError:
        raise Damaged(f"a block is compressed by method {plain[end]}, which is unknown") from None
    length = int.from_bytes(plain[end + 1 :], "big")
    if method is Compression.NONE:
        if length > end:
            raise Damaged("a block's footer says more than there is")
        if bytes(plain[length:end]).strip(b"\0"):
            raise Damaged("the padding of a block is not zero")
        return plain[:length]
    if length > PLAIN_LIMIT_BYTES:
        raise Damaged("a block's footer says more than a block may hold")
    return decompress(method, plain[:end], length)
