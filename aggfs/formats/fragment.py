"""The sealed fields of a fragment's header, and what a block's seal binds it to.

A fragment is 128 bytes of header, then for each block of its stripe a cell and the cell's MAC,
then filler up to a size class. `aggfs.coding.codec` seals and opens; here are only the fields.
"""

import enum
import struct
from dataclasses import dataclass, replace

from aggfs.errors import UnknownVersion
from aggfs.formats.record import Buffer, Reader
from aggfs.formats.sizes import FRAGMENT_HEADER_BYTES, SEALED_LEAST_BYTES, TAG_BYTES
from aggfs.model import Layout, cell_of

SALT_BYTES = 32
FIELDS_BYTES = FRAGMENT_HEADER_BYTES - SALT_BYTES - TAG_BYTES
K_LIMIT = 32
N_LIMIT = 32
BLOCKS_LIMIT = 1 << 16
SEALED_LIMIT_BYTES = 512 * 1024

# What programs that guess types take for something at the first byte, whatever follows: "OpenPGP
# Public Key", "DOS executable", "zlib compressed data". No object begins with one of them.
LOUD_BYTES = bytes.fromhex(
    "0001050818" + "1f2838485658" + "6878" + "8c9495969798999a9b" + "aab8c5c6" + "e9ebf0ff"
)

_VERSION = 1
_HEADER = struct.Struct(">BB16s24sBBBIIII")
_ASSOCIATED = struct.Struct(">BB16sI24sI")


class Kind(enum.IntEnum):
    """What a sealed block holds. A stripe is of any kind but TABLE, which is its last block's."""

    DATA = 1
    TABLE = 2
    SEGMENT = 3
    CHECKPOINT = 4
    HEAD = 5


STRIPE_KINDS = frozenset(Kind) - {Kind.TABLE}


class Suite(enum.IntEnum):
    """How blocks are sealed. NONE leaves data readable: it exists in the test profile only."""

    NONE = 0
    AES_256_GCM = 1


@dataclass(frozen=True, slots=True)
class FragmentHeader:
    """What a fragment says of itself and its stripe.

    `blocks` counts the table, which is the last; `table_offset` is where the table's cell lies
    in every fragment of the stripe, and `table_bytes` how long the sealed table is.
    """

    kind: Kind
    volume: bytes
    sid: bytes
    k: int
    layout: int
    index: int
    epoch: int
    blocks: int
    table_offset: int
    table_bytes: int

    @property
    def cell(self) -> int:
        """Which cell of each block the fragment holds."""
        return cell_of(self, self.index)

    def of_stripe(self) -> "FragmentHeader":
        """What all fragments of the stripe have in common: this header, as fragment 0's."""
        return replace(self, index=0)


def encode_fields(header: FragmentHeader) -> bytes:
    """The header's fields as they are sealed: always 80 bytes."""
    fields = _HEADER.pack(
        _VERSION,
        header.kind,
        header.volume,
        header.sid,
        header.k,
        header.layout,
        header.index,
        header.epoch,
        header.blocks,
        header.table_offset,
        header.table_bytes,
    )
    return fields.ljust(FIELDS_BYTES, b"\0")


def decode_fields(data: Buffer) -> FragmentHeader:
    """The reverse, or `Damaged`."""
    reader = Reader(data, "fragment header")
    version = reader.number(1)
    if version != _VERSION:
        raise UnknownVersion(f"a fragment header of version {version}: a newer aggfs wrote it")
    header = FragmentHeader(
        kind=_kind(reader),
        volume=reader.take(16),
        sid=reader.take(24),
        k=reader.number(1, low=1, high=K_LIMIT),
        layout=reader.number(1, high=max(Layout)),
        index=reader.number(1, high=N_LIMIT - 1),
        epoch=reader.number(4, low=1),
        blocks=reader.number(4, low=1, high=BLOCKS_LIMIT),
        table_offset=reader.number(4, low=FRAGMENT_HEADER_BYTES),
        table_bytes=reader.number(4, low=SEALED_LEAST_BYTES, high=SEALED_LIMIT_BYTES),
    )
    reader.zeros()
    return header


def _kind(reader: Reader) -> Kind:
    value = reader.number(1)
    if value not in STRIPE_KINDS:
        raise reader.damaged(f"there is no kind {value} of stripe")
    return Kind(value)


def associated_data(
    suite: Suite, kind: Kind, volume: bytes, epoch: int, sid: bytes, block: int
) -> bytes:
    """What the seal of a block covers besides its bytes: its place, in 50 bytes."""
    return _ASSOCIATED.pack(suite, kind, volume, epoch, sid, block)
