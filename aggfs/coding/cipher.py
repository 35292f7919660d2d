"""The ciphers, and nothing that decides about keys.

Theory of operation. Three uses of AES-256, each with its own keys:

- GCM seals a block under a key that exists for one stripe only; the nonce is the block's index,
  so no pair of key and nonce ever comes twice.
- GMAC (GCM over nothing, with the cell as associated data) authenticates a cell under a key
  that exists for one fragment only; the nonce is the block's index again.
- XTS keeps sparse files secret on the local disk, where bytes are overwritten in place: a write
  needs no read before, a torn write damages 16 bytes and not an acknowledged neighbour.

The streaming interface of `cryptography` is used for bulk, because it takes a block in pieces
(no joins) and gives other threads the interpreter while it works.
"""

from collections.abc import Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from aggfs.errors import Damaged
from aggfs.formats.record import Buffer

KEY_BYTES = 32
TAG_BYTES = 16
NONCE_BYTES = 12
CIPHER_BLOCK_BYTES = 16
XTS_UNIT_BYTES = 64 * 1024
XTS_KEY_BYTES = 64

_ZERO_UNIT = bytes(XTS_UNIT_BYTES)


def nonce_of(index: int) -> bytes:
    """The nonce of the block or cell with this index."""
    return index.to_bytes(NONCE_BYTES, "big")


def seal_into(
    key: bytes, nonce: bytes, pieces: Iterable[Buffer], associated: bytes, out: memoryview
) -> int:
    """Encrypt the pieces, one after the other, and the tag into `out`; how many bytes that is.

    `out` has at least 15 bytes more than the result: the cipher wants them, and leaves them be.
    """
    sealer = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    sealer.authenticate_additional_data(associated)
    end = 0
    for piece in pieces:
        end += sealer.update_into(piece, out[end:])
    sealer.finalize()
    out[end : end + TAG_BYTES] = sealer.tag
    return end + TAG_BYTES


def open_into(
    key: bytes,
    nonce: bytes,
    pieces: Iterable[Buffer],
    tag: bytes,
    associated: bytes,
    out: memoryview,
) -> int:
    """Decrypt the pieces into `out` and check the tag; how many bytes were written.

    `out` has at least 15 bytes more than that. On `Damaged` its content is worth nothing.
    """
    opener = Cipher(algorithms.AES(key), modes.GCM(nonce, tag)).decryptor()
    opener.authenticate_additional_data(associated)
    end = 0
    for piece in pieces:
        end += opener.update_into(piece, out[end:])
    try:
        opener.finalize()
    except InvalidTag:
        raise Damaged("a sealed block does not carry the seal of its key") from None
    return end


def seal(key: bytes, nonce: bytes, plaintext: Buffer, associated: bytes) -> bytes:
    """AES-256-GCM of something small: ciphertext and tag."""
    return AESGCM(key).encrypt(nonce, plaintext, associated)


def open_sealed(key: bytes, nonce: bytes, sealed: Buffer, associated: bytes) -> bytes:
    """The reverse of `seal`, or `Damaged`."""
    if len(sealed) < TAG_BYTES:
        raise Damaged("a sealed record is shorter than its tag")
    try:
        return AESGCM(key).decrypt(nonce, sealed, associated)
    except InvalidTag:
        raise Damaged("a sealed record does not carry the seal of its key") from None


def keystream(key: bytes, count: int) -> bytes:
    """`count` bytes that look random and follow from the key alone."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return encryptor.update(bytes(count))


class CellMac:
    """Makes and checks the MACs of one fragment's cells. May be shared by threads."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def write(self, index: int, cell: Buffer, out: memoryview) -> None:
        """Put the 16-byte MAC of cell `index` into `out`."""
        self._aead.encrypt_into(nonce_of(index), b"", cell, out)

    def check(self, index: int, cell: Buffer, mac: Buffer) -> bool:
        """Whether `mac` is the MAC of this cell at this index."""
        try:
            self._aead.decrypt(nonce_of(index), mac, cell)
        except InvalidTag:
            return False
        return True


class XtsUnit:
    """Encrypts a file in place: AES-256-XTS, units of 64 KiB, tweak = number of the unit.

    Offsets are offsets in the file and, like lengths, multiples of 16. A call may span units.
    Two files never share a key: equal bytes at equal offsets would show. May be shared by
    threads. Prefer the `_into` forms with a buffer that is used again: for long runs, fresh
    memory costs more than the cipher.
    """

    __slots__ = ("_algorithm",)

    def __init__(self, key: bytes) -> None:
        if len(key) != XTS_KEY_BYTES:
            raise ValueError(f"an XTS key has {XTS_KEY_BYTES} bytes, not {len(key)}")
        self._algorithm = algorithms.AES(key)

    def encrypt(self, offset: int, data: Buffer) -> bytes:
        """The ciphertext of `data` lying at `offset`."""
        out = bytearray(len(data))
        self.encrypt_into(offset, data, out)
        return bytes(out)

    def encrypt_into(self, offset: int, data: Buffer, out: Buffer) -> None:
        """Put the ciphertext of `data` lying at `offset` into `out`, which is as long or longer."""
        target = memoryview(out)
        for mode, unit_start, start, end, part in _units(offset, data):
            _run(Cipher(self._algorithm, mode).encryptor(), unit_start, part, target, start, end)

    def decrypt_into(self, offset: int, data: Buffer, out: Buffer) -> None:
        """Put the plaintext of ciphertext `data` lying at `offset` into `out`, as above."""
        target = memoryview(out)
        for mode, unit_start, start, end, part in _units(offset, data):
            _run(Cipher(self._algorithm, mode).decryptor(), unit_start, part, target, start, end)


def _run(
    context: CipherContext, unit_start: int, part: memoryview, out: memoryview, start: int, end: int
) -> None:
    """Run part of a unit through a fresh context, into out[start:end].

    XTS blocks do not depend on each other, so zeros may stand for what lies before `unit_start`.
    """
    room = out[start : end + CIPHER_BLOCK_BYTES]
    if unit_start:
        room[: len(part)] = context.update(b"".join((_ZERO_UNIT[:unit_start], part)))[unit_start:]
    elif len(room) == len(part) + CIPHER_BLOCK_BYTES:
        # The cipher wants room for one block more than it writes; the next unit's place will
        # do, and saves a copy.
        context.update_into(part, room)
    else:
        room[: len(part)] = context.update(part)


def _units(offset: int, data: Buffer) -> Iterator[tuple[modes.XTS, int, int, int, memoryview]]:
    """Cut `data` at unit borders: (mode with the unit's tweak, start within the unit, start and
    end within `data`, bytes)."""
    if offset % CIPHER_BLOCK_BYTES or len(data) % CIPHER_BLOCK_BYTES:
        raise ValueError("offset and length must be multiples of 16")
    view = memoryview(data)
    start = 0
    while start < len(view):
        unit, unit_start = divmod(offset + start, XTS_UNIT_BYTES)
        end = min(len(view), start + XTS_UNIT_BYTES - unit_start)
        yield modes.XTS(unit.to_bytes(16, "little")), unit_start, start, end, view[start:end]
        start = end
