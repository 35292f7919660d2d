"""Cells back to blocks: every MAC is checked before its cell is used.

The other half of `codec`, whose words and whose `Scratch` it shares.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from aggfs.coding import scatter
from aggfs.coding.cipher import keystream
from aggfs.coding.codec import (
    FILLER_BYTES,
    Scratch,
    SealedStripe,
    fill,
    offsets_of,
    place_of,
    run_range,
)
from aggfs.coding.erasure import fastest_coder
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.seal import open_into
from aggfs.errors import Damaged
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import MAC_BYTES, cell_bytes
from aggfs.model import Coded, Layout, StripeRow, cell_of, spare


class DamagedFragment(Damaged):
    """A cell of fragment `index` is not what was stored."""

    def __init__(self, text: str, index: int) -> None:
        super().__init__(text)
        self.index = index


def chosen(code: Coded, indices: Iterable[int]) -> dict[int, int]:
    """Of these fragments those that are used, by the cell that they hold: k different ones where
    there are so many, primaries first."""
    found: dict[int, int] = {}
    for index in sorted(indices):
        if len(found) < code.k:
            found.setdefault(cell_of(code, index), index)
    return found


def check_cell(
    keys: VolumeKeys, row: StripeRow, index: int, block: int, cell_with_mac: Buffer
) -> memoryview:
    """The cell of a block in fragment `index`, its MAC being right; else `DamagedFragment`."""
    view = memoryview(cell_with_mac)
    cell = cell_bytes(row.sealed_bytes[block], row.k)
    mac = keys.cell_mac(row.epoch, row.sid, row.k, row.layout, index)
    if len(view) != cell + MAC_BYTES or not mac.check(block, view[:cell], view[cell:]):
        text = f"cell {block} of fragment {index} of stripe {row.sid.hex()} is damaged"
        raise DamagedFragment(text, index)
    return view[:cell]


def decode_block(
    keys: VolumeKeys,
    row: StripeRow,
    kind: Kind,
    block: int,
    cells: Mapping[int, Buffer],
    scratch: Scratch | None = None,
) -> Buffer:
    """The plaintext of a block from k (or more) of its cells, by fragment, checked before and
    without MAC; ValueError where they do not give it back. `kind` is the stripe's; its last block
    is opened as the table that it is."""
    length = row.sealed_bytes[block]
    place = place_of(kind, row.epoch, row.sid, block, len(row.sealed_bytes))
    extra_bytes = _extra_bytes(row, (length,))
    room = (scratch or Scratch()).room(extra_bytes + length)
    pieces = _sealed_pieces(keys, row, block, cells, room[:extra_bytes])
    return open_into(keys, place, length, pieces, room[extra_bytes:])


def decode_each(
    keys: VolumeKeys,
    row: StripeRow,
    kind: Kind,
    first: int,
    count: int,
    fragments: Mapping[int, Buffer],
    scratch: Scratch | None = None,
) -> Iterator[Buffer]:
    """The plaintext of `count` blocks from `first` on, one after the other, from the runs of cells
    and MACs that at least k fragments hold of them (see `run_range`). All cells that are used are
    checked. All blocks are valid until the scratch is used again."""
    lengths = row.sealed_bytes[first : first + count]
    extra_bytes = _extra_bytes(row, lengths)
    room = (scratch or Scratch()).room(extra_bytes + sum(lengths))
    extra, room = room[:extra_bytes], room[extra_bytes:]
    for block, cells in _checked_cells(keys, row, first, count, fragments):
        length = row.sealed_bytes[block]
        place = place_of(kind, row.epoch, row.sid, block, len(row.sealed_bytes))
        pieces = _sealed_pieces(keys, row, block, cells, extra)
        yield open_into(keys, place, length, pieces, room[:length])
        room = room[length:]


def join_stripe(
    keys: VolumeKeys,
    row: StripeRow,
    kind: Kind,
    fragments: Mapping[int, Buffer],
    scratch: Scratch | None = None,
) -> SealedStripe:
    """The sealed stripe itself from at least k whole fragments, byte for byte what it was: what
    repair needs. Nothing but cells is checked."""
    offsets = offsets_of(row.sealed_bytes)
    buffer = (scratch or Scratch()).room(offsets[-1])
    blocks = len(row.sealed_bytes)
    filler = keystream(keys.filler_key(row.epoch, row.sid), FILLER_BYTES * blocks)
    extra = memoryview(bytearray(_extra_bytes(row, row.sealed_bytes)))
    start, length = run_range(row.sealed_bytes, row.k, 0, blocks)
    runs = {index: memoryview(data)[start : start + length] for index, data in fragments.items()}
    for block, cells in _checked_cells(keys, row, 0, blocks, runs):
        whole = b"".join(_sealed_pieces(keys, row, block, cells, extra))
        start, end = offsets[block], offsets[block] + row.sealed_bytes[block]
        buffer[start:end] = whole[: end - start]
        fill(buffer, end, offsets[block + 1], filler, block)
    return SealedStripe(row.sid, row.epoch, kind, row.sealed_bytes, offsets[:-1], buffer)


def _checked_cells(
    keys: VolumeKeys, row: StripeRow, first: int, count: int, runs: Mapping[int, Buffer]
) -> Iterator[tuple[int, dict[int, Buffer]]]:
    """For each block its number and k checked cells by fragment, primaries where there are."""
    views = {index: memoryview(runs[index]) for index in chosen(row, runs).values()}
    at = 0
    for block in range(first, first + count):
        end = at + cell_bytes(row.sealed_bytes[block], row.k) + MAC_BYTES
        yield (
            block,
            {
                index: check_cell(keys, row, index, block, view[at:end])
                for index, view in views.items()
            },
        )
        at = end


def _extra_bytes(row: StripeRow, lengths: Sequence[int]) -> int:
    """Room for all cells of the longest of these blocks."""
    return row.k * cell_bytes(max(lengths, default=0), row.k)


def _sealed_pieces(
    keys: VolumeKeys, row: StripeRow, block: int, cells: Mapping[int, Buffer], extra: memoryview
) -> Sequence[Buffer]:
    """The sealed block and its filler in pieces, from k or more cells; in `extra` lie those that
    had to be decoded."""
    if spare(row, cells) < 0:
        raise ValueError(f"{len(cells)} cells cannot give a block of {row.k} back")
    used = {cell: cells[index] for cell, index in chosen(row, cells).items()}
    missing = [index for index in range(row.k) if index not in used]
    if missing:
        cell = cell_bytes(row.sealed_bytes[block], row.k)
        made = [extra[at * cell : (at + 1) * cell] for at in range(len(missing))]
        fastest_coder().decode(row.k, used, missing, made)
        used |= zip(missing, made, strict=True)
    primaries = [used[index] for index in range(row.k)]
    if Layout(row.layout).cut is Layout.INTERLEAVE:
        return [scatter.gather(primaries, keys.scatter_key(row.epoch, row.sid, block))]
    return primaries
