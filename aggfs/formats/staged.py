"""The head of a staging file: what the sealed blocks behind it are.

magic 8, version u8, kind u8, epoch u32, sid 24, sizes (as in a table), crc32 u32
zeros up to a multiple of 64, then the sealed blocks, each with its filler
"""

import struct
import zlib
from dataclasses import dataclass

from aggfs.errors import UnknownVersion
from aggfs.formats.fragment import BLOCKS_LIMIT, STRIPE_KINDS, Kind
from aggfs.formats.record import Buffer, Reader
from aggfs.formats.table import decode_sizes, encode_sizes

_MAGIC = b"aggfsstg"
_VERSION = 1
_LEAD = struct.Struct(">8sBBI24s")
_STEP_BYTES = 64
_LIMIT_BYTES = _LEAD.size + 4 + 8 * BLOCKS_LIMIT + 4


@dataclass(frozen=True, slots=True)
class StagedHead:
    """A stripe that waits for its fragments to be stored. The last block is the table."""

    kind: Kind
    epoch: int
    sid: bytes
    sealed_bytes: tuple[int, ...]


def encode_staged_head(head: StagedHead) -> bytes:
    """The head, as long as a multiple of 64 bytes."""
    lead = _LEAD.pack(_MAGIC, _VERSION, head.kind, head.epoch, head.sid)
    body = lead + encode_sizes(head.sealed_bytes)
    body += zlib.crc32(body).to_bytes(4, "big")
    return body.ljust(-(-len(body) // _STEP_BYTES) * _STEP_BYTES, b"\0")


def decode_staged_head(data: Buffer) -> tuple[StagedHead, int]:
    """The head at the front of a staging file and its length; or `Damaged`."""
    view = memoryview(data)[:_LIMIT_BYTES]
    reader = Reader(view, "staging file")
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise reader.damaged("it is none of ours")
    version = reader.number(1)
    if version != _VERSION:
        raise UnknownVersion(f"a staging file of version {version}: a newer aggfs wrote it")
    kind = reader.number(1)
    if kind not in STRIPE_KINDS:
        raise reader.damaged(f"there is no kind {kind} of stripe")
    epoch = reader.number(4, low=1)
    sid = reader.take(24)
    sealed_bytes = decode_sizes(reader)
    body_bytes = len(view) - reader.left
    if not sealed_bytes or reader.number(4) != zlib.crc32(view[:body_bytes]):
        raise reader.damaged("its checksum is wrong")
    head = StagedHead(Kind(kind), epoch, sid, sealed_bytes)
    return head, -(-(body_bytes + 4) // _STEP_BYTES) * _STEP_BYTES
