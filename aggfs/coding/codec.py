"""Blocks become a stripe's fragments, and fragments blocks.

Theory of operation. `seal_steps` seals blocks and their table into one buffer; that buffer is
all that must survive (staging). A fragment is a pure function of it and of (k, layout, index):

    fragment = header 128 ‖ for each block: cell ‖ MAC 16 ‖ tail up to a size class

In copies (`Layout`) there is no parity: fragment i has the cells of fragment i mod k, under its
own header and MACs.

In the buffer each sealed block is followed by filler, keyed bytes of no meaning, long enough to
complete the last cell for every k. So with layout `contiguous` the primary cells are slices of
the buffer and are never copied, and no run of zeros in a fragment tells where a block ends.

Cells and MACs: the MAC is checked before a cell is decoded, and what is opened carries the seal
of its block besides. The functions run in worker threads: they share nothing but key caches. A
`Scratch` belongs to one call at a time; what was made with it is valid until it is used again.
Fresh memory for every stripe would cost more than all the ciphers together.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TypeVar

from aggfs.coding import scatter
from aggfs.coding.cipher import keystream
from aggfs.coding.erasure import fastest_coder
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.seal import ROOM_BYTES, Place, open_into, prepare, seal_into
from aggfs.coding.writer import FragmentWriter
from aggfs.errors import Damaged
from aggfs.formats.fragment import BLOCKS_LIMIT, K_LIMIT, N_LIMIT, FragmentHeader, Kind
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import (
    CELL_STEP_BYTES,
    FRAGMENT_HEADER_BYTES,
    cell_bytes,
    cells_bytes,
    size_class,
)
from aggfs.formats.staged import StagedHead, decode_staged_head, encode_staged_head
from aggfs.formats.table import encode_table
from aggfs.model import BLOCK_BYTES, Layout

FILLER_BYTES = CELL_STEP_BYTES * K_LIMIT

_ALIGNMENT = 64
Made = TypeVar("Made")


class Scratch:
    """Memory that is used again, by one call at a time."""

    __slots__ = ("_memory",)

    def __init__(self) -> None:
        self._memory = bytearray()

    def room(self, size_bytes: int) -> memoryview:
        """`size_bytes` of unknown content."""
        if len(self._memory) < size_bytes:
            self._memory = bytearray(size_bytes)
        return memoryview(self._memory)[:size_bytes]


@dataclass(frozen=True, slots=True)
class SealedStripe:
    """Sealed blocks, the table last, in one buffer: block i at `offsets[i]`, its filler behind.

    `checked` is false for bytes that come from a disk; `encode_steps` then opens every block
    first, so that damage there is never coded into fragments that look good.
    """

    sid: bytes
    epoch: int
    kind: Kind
    sealed_bytes: tuple[int, ...]
    offsets: tuple[int, ...]
    buffer: memoryview = field(repr=False)
    checked: bool = True

    def block(self, index: int) -> memoryview:
        """A sealed block, without filler."""
        start = self.offsets[index]
        return self.buffer[start : start + self.sealed_bytes[index]]


def offsets_of(sealed_bytes: Iterable[int]) -> tuple[int, ...]:
    """Where sealed blocks begin in a buffer, and last where it ends."""
    strides = (-(-(length + FILLER_BYTES) // _ALIGNMENT) * _ALIGNMENT for length in sealed_bytes)
    return tuple(accumulate(strides, initial=0))


# --- lengths --------------------------------------------------------------------------------------


def fragment_bytes(sealed_bytes: Sequence[int], k: int) -> int:
    """The size of each fragment's object."""
    return size_class(FRAGMENT_HEADER_BYTES + cells_bytes(sealed_bytes, k))


def cell_range(sealed_bytes: Sequence[int], k: int, block: int) -> tuple[int, int]:
    """Where cell and MAC of a block lie within every fragment: (offset, length)."""
    return run_range(sealed_bytes, k, block, 1)


def run_range(sealed_bytes: Sequence[int], k: int, first: int, count: int) -> tuple[int, int]:
    """Where the cells and MACs of `count` blocks from `first` on lie: (offset, length)."""
    offset = FRAGMENT_HEADER_BYTES + cells_bytes(sealed_bytes[:first], k)
    return offset, cells_bytes(sealed_bytes[first : first + count], k)


# --- blocks to a sealed stripe --------------------------------------------------------------------


def seal_steps(
    keys: VolumeKeys,
    *,
    sid: bytes,
    kind: Kind,
    blocks: Sequence[Buffer],
    table: Buffer,
    compress: str | None = None,
    scratch: Scratch | None = None,
) -> Generator[None, None, SealedStripe]:
    """Seal blocks and, as the last, their table (`table` holds its rows, encoded); a step is a
    block.

    `sid` has never been used before: it is what makes nonces unique. `compress` is None, "zlib"
    or "zstd"; blocks that do not get smaller stay as they are, the table uses zlib. ValueError for
    what no stripe can hold.
    """
    if any(len(block) > BLOCK_BYTES for block in blocks):
        raise ValueError(f"a block has at most {BLOCK_BYTES} bytes")
    if len(blocks) >= BLOCKS_LIMIT:
        raise ValueError(f"a stripe has less than {BLOCKS_LIMIT} blocks")
    prepared = []
    for block in blocks:
        prepared.append(prepare(compress, block))
        if compress:
            yield
    sealed_bytes = [length for _, length in prepared]
    prepared.append(prepare("zlib", encode_table(sealed_bytes, table)))
    sealed_bytes.append(prepared[-1][1])
    epoch = keys.epoch
    offsets = offsets_of(sealed_bytes)
    buffer = (scratch or Scratch()).room(offsets[-1])
    filler = keystream(keys.filler_key(epoch, sid), FILLER_BYTES * len(sealed_bytes))
    for index, ((pieces, length), start) in enumerate(zip(prepared, offsets, strict=False)):
        place = place_of(kind, epoch, sid, index, len(sealed_bytes))
        seal_into(keys, place, pieces, buffer[start : start + length + ROOM_BYTES])
        fill(buffer, start + length, offsets[index + 1], filler, index)
        yield
    return SealedStripe(sid, epoch, kind, tuple(sealed_bytes), offsets[:-1], buffer)


def at_once(steps: Generator[object, None, Made]) -> Made:
    """What steps return at their end, for who need not share the loop."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            made: Made = done.value
            return made


def place_of(kind: Kind, epoch: int, sid: bytes, block: int, blocks: int) -> Place:
    """The place of a block; the last of a stripe is its table."""
    return Place(Kind.TABLE if block == blocks - 1 else kind, epoch, sid, block)


def fill(buffer: memoryview, start: int, end: int, filler: bytes, index: int) -> None:
    """Lay the filler of block `index` behind it."""
    used = filler[index * FILLER_BYTES : (index + 1) * FILLER_BYTES]
    buffer[start:end] = used.ljust(end - start, b"\0")


# --- staging --------------------------------------------------------------------------------------


def stage_bytes(sealed: SealedStripe) -> list[Buffer]:
    """What is written to a staging file, in order."""
    head = StagedHead(sealed.kind, sealed.epoch, sealed.sid, sealed.sealed_bytes)
    return [encode_staged_head(head), sealed.buffer]


def load_staged(data: Buffer) -> SealedStripe:
    """The sealed stripe of a staging file's bytes, which it keeps using; or `Damaged`.

    Its blocks are checked when they are opened or coded.
    """
    head, start = decode_staged_head(data)
    *offsets, size_bytes = offsets_of(head.sealed_bytes)
    buffer = memoryview(data)[start : start + size_bytes]
    if len(buffer) < size_bytes:
        raise Damaged("a staging file ends too early")
    return SealedStripe(
        head.sid, head.epoch, head.kind, head.sealed_bytes, tuple(offsets), buffer, checked=False
    )


def open_each(
    keys: VolumeKeys, sealed: SealedStripe, first: int, count: int, scratch: Scratch | None = None
) -> Iterator[Buffer]:
    """The plaintext of blocks of a sealed stripe, one after the other; all are valid until the
    scratch is used again. `Damaged` where one is not what was sealed."""
    lengths = sealed.sealed_bytes[first : first + count]
    room = (scratch or Scratch()).room(sum(lengths))
    for index, length in enumerate(lengths, first):
        place = place_of(sealed.kind, sealed.epoch, sealed.sid, index, len(sealed.sealed_bytes))
        yield open_into(keys, place, length, (sealed.block(index),), room[:length])
        room = room[length:]


def check_steps(keys: VolumeKeys, sealed: SealedStripe) -> Generator[None, None, None]:
    """Open every block and compare every filler, a block a step; `Damaged` at the first that is
    wrong."""
    filler = keystream(
        keys.filler_key(sealed.epoch, sealed.sid), FILLER_BYTES * len(sealed.sealed_bytes)
    )
    scratch = Scratch()
    for index, (start, length) in enumerate(zip(sealed.offsets, sealed.sealed_bytes, strict=True)):
        list(open_each(keys, sealed, index, 1, scratch))
        end = start + length
        expected = filler[index * FILLER_BYTES : (index + 1) * FILLER_BYTES]
        if sealed.buffer[end : end + FILLER_BYTES] != expected:
            raise Damaged("the filler of a sealed block is not what it was")
        yield


# --- a sealed stripe to fragments -----------------------------------------------------------------


def encode_steps(
    keys: VolumeKeys,
    sealed: SealedStripe,
    *,
    k: int,
    n: int,
    layout: Layout,
    indices: Iterable[int] | None = None,
    scratch: Scratch | None = None,
) -> Generator[None, None, dict[int, list[Buffer]]]:
    """The fragments `indices` (all n, if None), each as pieces for a store's `put`; a step is a
    block.

    The pieces lie in the stripe's buffer and in `scratch`: both stay untouched until the puts
    are done. Nothing in a fragment depends on n. Raises `Damaged` for a staged stripe that was read
    again and does not check; ValueError for a code that there is not.
    """
    if not 1 <= k <= n <= N_LIMIT:
        raise ValueError(f"there is no code of {k} of {n}")
    if not sealed.checked:
        yield from check_steps(keys, sealed)
    wanted = sorted(range(n) if indices is None else indices)
    step = -(-fragment_bytes(sealed.sealed_bytes, k) // _ALIGNMENT) * _ALIGNMENT
    room = (scratch or Scratch()).room(step * len(wanted))
    headers = {index: header_of(keys, sealed, k, layout, index) for index in wanted}
    writers = {
        index: FragmentWriter(
            keys,
            header,
            fragment_bytes(sealed.sealed_bytes, k),
            room[at * step : (at + 1) * step],
        )
        for at, (index, header) in enumerate(headers.items())
    }
    parities = [index for index, header in headers.items() if header.cell >= k]
    slices = {index: header.cell for index, header in headers.items() if header.cell < k}
    coder = fastest_coder()
    for block, length in enumerate(sealed.sealed_bytes):
        cell = cell_bytes(length, k)
        primaries = _primaries(keys, sealed, block, k, layout)
        targets = [writers[index].take(cell) for index in parities]
        if parities:
            coder.encode(primaries, parities, targets)
        for index, target in zip(parities, targets, strict=True):
            writers[index].add_mac(block, target)
        for index, cell_index in slices.items():
            writers[index].add_cell(block, primaries[cell_index])
        yield
    return {index: writer.finish() for index, writer in writers.items()}


def _primaries(
    keys: VolumeKeys, sealed: SealedStripe, block: int, k: int, layout: Layout
) -> Sequence[Buffer]:
    """The k primary cells of a block."""
    cell = cell_bytes(sealed.sealed_bytes[block], k)
    start = sealed.offsets[block]
    whole = sealed.buffer[start : start + k * cell]
    if layout.cut is Layout.INTERLEAVE:
        return scatter.scatter(whole, keys.scatter_key(sealed.epoch, sealed.sid, block), k)
    return [whole[at : at + cell] for at in range(0, k * cell, cell)]


def header_of(
    keys: VolumeKeys, sealed: SealedStripe, k: int, layout: Layout, index: int
) -> FragmentHeader:
    """What fragment `index` says of itself."""
    blocks = len(sealed.sealed_bytes)
    return FragmentHeader(
        kind=sealed.kind,
        volume=keys.volume,
        sid=sealed.sid,
        k=k,
        layout=layout,
        index=index,
        epoch=sealed.epoch,
        blocks=blocks,
        table_offset=cell_range(sealed.sealed_bytes, k, blocks - 1)[0],
        table_bytes=sealed.sealed_bytes[-1],
    )
