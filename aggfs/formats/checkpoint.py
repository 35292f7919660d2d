"""A checkpoint: the fold of all entries below a cut, and what must be replayed above it.

A checkpoint is a list of rows, cut into parts of bounded size; each part is a signed record
(`aggfs.formats.signed`) of type "C". The rows come in this order: inodes, versions (each followed
by the rest of its extents), xattrs, relocations, control entries, the past (places that moves
below the cut ended), links, moves. All but links are what the highest stamps say, whatever their
stamps; links are as the moves below the cut left them, and the moves above it follow, to be
applied in the order of their stamps.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from aggfs.errors import Damaged
from aggfs.formats.journal import Tip
from aggfs.formats.signed import Sign, Verify, open_record, sign_record
from aggfs.model import (
    Content,
    ControlEntry,
    Extent,
    Id8,
    Id16,
    Name,
    Nanoseconds,
    Placement,
    Unsigned,
)

PART_BYTES = 4 * 1024 * 1024 - 4096  # what a part aims at; one row may take it a little beyond
EXTENTS_IN_ROW = 8192
PARTS_LIMIT = 1 << 20

When = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
ParentId = Annotated[bytes, msgspec.Meta(max_length=16)]
Sid24 = Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]
Versions = Annotated[tuple[Id16, ...], msgspec.Meta(max_length=256)]


class InodeImage(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """An inode's registers, with their stamps as in `model.InodeRow`. mode 0 without type bits:
    only mentioned so far."""

    inode: Id16
    mode: Unsigned
    uid: Unsigned
    gid: Unsigned
    rdev: Unsigned
    atime_ns: Nanoseconds
    mtime_ns: Nanoseconds
    ctime_ns: Nanoseconds
    btime_ns: Nanoseconds
    target: Annotated[bytes, msgspec.Meta(max_length=4096)]
    registers: Annotated[bytes, msgspec.Meta(min_length=16, max_length=112)]


class VersionImage(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A content version; of its extents the first `EXTENTS_IN_ROW`. `content` None: named as a
    base and never seen."""

    inode: Id16
    version: Id16
    when: When
    superseded: bool
    content: Content | None


class ExtentsImage(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """More extents of the version before."""

    inode: Id16
    version: Id16
    extents: Annotated[tuple[Extent, ...], msgspec.Meta(max_length=EXTENTS_IN_ROW)]


class XattrImage(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """An extended attribute's register; None: removed."""

    inode: Id16
    name: Name
    when: When
    value: Annotated[bytes, msgspec.Meta(max_length=65536)] | None


class RelocationImage(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Where one block of a stripe lies now."""

    sid: Sid24
    index: Unsigned
    when: When
    to_sid: Sid24
    to_index: Unsigned


class ControlImage(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The last word on one stripe, member or account."""

    when: When
    entry: ControlEntry


class LinkImage(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Where a link was at the cut. parent of no bytes: removed, `was_parent` is its last place."""

    link: Id16
    inode: Id16
    parent: ParentId
    name: Name
    was_parent: ParentId
    when: When
    observed: Versions


class MoveImage(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """What a `Create` or `Place` above the cut does to links."""

    when: When
    placements: Annotated[tuple[Placement, ...], msgspec.Meta(min_length=1, max_length=64)]
    observed: Versions


class PastImage(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A place that a link has left: it was `name` in `parent` from `since` until `when`."""

    parent: Id16
    when: When
    link: Id16
    name: Name
    inode: Id16
    since: When


ImageRow = (
    InodeImage
    | VersionImage
    | ExtentsImage
    | XattrImage
    | RelocationImage
    | ControlImage
    | LinkImage
    | MoveImage
    | PastImage
)


class CheckpointHead(msgspec.Struct, frozen=True, array_like=True):
    """What every part says: whose checkpoint it is, which one, the cut, and the segments of each
    device that are folded in: (device, control tip, namespace tip)."""

    device: Id8
    sequence: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
    cut: Unsigned
    tips: Annotated[tuple[tuple[Id8, Tip, Tip], ...], msgspec.Meta(max_length=4096)]


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One part; parts count from 0."""

    head: CheckpointHead
    part: Annotated[int, msgspec.Meta(ge=0, lt=PARTS_LIMIT)]
    is_last: bool
    rows: tuple[ImageRow, ...]

    @property
    def device(self) -> bytes:
        """Who signs it."""
        return self.head.device


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A part with its rows already encoded: they are encoded once, to know their size."""

    head: CheckpointHead
    part: int
    is_last: bool
    rows: list[msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_decode_part = msgspec.msgpack.Decoder(Part).decode


def encode_parts(
    head: CheckpointHead,
    rows: Iterable[ImageRow],
    volume: bytes,
    sign: Sign,
    *,
    part_bytes: int = PART_BYTES,
) -> Iterator[bytes]:
    """The signed records of a checkpoint, at least one, made as `rows` come."""
    count = 0
    kept: list[msgspec.Raw] = []
    size = 0
    for row in rows:
        raw = msgspec.Raw(_encode(row))
        if kept and size + len(raw) > part_bytes:
            yield _seal(_Envelope(head, count, False, kept), volume, sign)
            count, kept, size = count + 1, [], 0
        kept.append(raw)
        size += len(raw)
    yield _seal(_Envelope(head, count, True, kept), volume, sign)


def _seal(part: _Envelope, volume: bytes, sign: Sign) -> bytes:
    return sign_record(b"C", _encode(part), volume, sign)


def decode_part(record: bytes, volume: bytes, verify: Verify) -> Part:
    """The part, signed by the device that it names; or `Damaged`."""
    return open_record(b"C", record, volume, verify, _decode_part)


def rows_of(parts: Iterable[Part]) -> Iterator[ImageRow]:
    """The rows of all parts of one checkpoint, in order. Raises `Damaged` when a part is missing,
    comes twice, or belongs to another checkpoint."""
    head: CheckpointHead | None = None
    is_last = False
    for count, part in enumerate(parts):
        head = head or part.head
        if part.part != count or part.head != head or is_last:
            raise Damaged("the parts of a checkpoint do not fit together")
        is_last = part.is_last
        yield from part.rows
    if not is_last:
        raise Damaged("a checkpoint lacks its last part")
