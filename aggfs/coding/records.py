"""Stripes that must be read without their row: journal segments, checkpoints, recovery.

A fragment's header tells its stripe, k, layout and where the table is; the table tells the
lengths of all blocks. So k fragments of anything of ours can be opened with the keyring alone.
Segments and checkpoints are one record each, cut into blocks and coded like data; a head is the
same with one fragment, k = 1, and the same object on every account. The names of their objects
do not follow from the sid, hence a reader may meet fragments of several stripes under the names
of one record and takes those that belong together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggfs.coding.codec import Scratch, SealedStripe, at_once, run_range, seal_steps
from aggfs.coding.decode import DamagedFragment, check_cell, chosen, decode_block, decode_each
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.keys import VolumeKeys
from aggfs.errors import Damaged, TooFewFragments
from aggfs.formats.fragment import FragmentHeader, Kind
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import MAC_BYTES, cell_bytes
from aggfs.formats.table import decode_table
from aggfs.model import BLOCK_BYTES, NO_ACCOUNT, StripeRow, spare


@dataclass(frozen=True, slots=True)
class Record:
    """The bytes that were sealed as a record, and the stripe they lay in. `bad` are the positions
    of objects that are damaged or belong to another stripe."""

    data: bytes
    row: StripeRow
    kind: Kind
    bad: tuple[int, ...]


def seal_record(
    keys: VolumeKeys, *, sid: bytes, kind: Kind, record: Buffer, scratch: Scratch | None = None
) -> SealedStripe:
    """A segment, checkpoint or head as a stripe of its own."""
    view = memoryview(record)
    blocks = [view[at : at + BLOCK_BYTES] for at in range(0, len(view), BLOCK_BYTES)]
    return at_once(
        seal_steps(
            keys, sid=sid, kind=kind, blocks=blocks, table=b"", compress="zlib", scratch=scratch
        )
    )


def open_record(keys: VolumeKeys, kind: Kind, objects: Iterable[Buffer]) -> Record:
    """The record that whole objects of different accounts hold.

    `TooFewFragments` when no k of them are good and belong together, with what was wrong.
    """
    failures: list[Exception] = []
    stripes: dict[FragmentHeader, dict[int, int]] = {}
    held = list(objects)
    for position, data in enumerate(held):
        try:
            header = open_header_of_fragment(keys, data)
        except Damaged as error:
            failures.append(error)
            continue
        if header.kind is kind:
            stripes.setdefault(header.of_stripe(), {})[header.index] = position
    for stripe in sorted(stripes, key=lambda one: len(stripes[one]), reverse=True):
        record = _open_stripe(keys, stripe, stripes[stripe], held, failures)
        if record is not None:
            return record
    text = f"no stripe can be put together from {len(held)} objects"
    raise TooFewFragments(text, tuple(failures))


def _open_stripe(
    keys: VolumeKeys,
    stripe: FragmentHeader,
    positions: Mapping[int, int],
    held: list[Buffer],
    failures: list[Exception],
) -> Record | None:
    """The record of one stripe, leaving out one damaged fragment after the other."""
    fragments = {index: held[position] for index, position in positions.items()}
    while spare(stripe, fragments) >= 0:
        try:
            row, _ = read_table(keys, stripe, fragments)
            start, length = run_range(row.sealed_bytes, row.k, 0, len(row.sealed_bytes) - 1)
            runs = {i: memoryview(data)[start : start + length] for i, data in fragments.items()}
            blocks = list(decode_each(keys, row, stripe.kind, 0, len(row.sealed_bytes) - 1, runs))
        except DamagedFragment as error:
            failures.append(error)
            del fragments[error.index]
            continue
        except Damaged as error:
            failures.append(error)
            return None
        good = {positions[index] for index in fragments}
        bad = tuple(position for position in range(len(held)) if position not in good)
        return Record(b"".join(blocks), row, stripe.kind, bad)
    return None


def table_range(header: FragmentHeader) -> tuple[int, int]:
    """Where the table's cell and MAC lie in every fragment of a stripe: (offset, length)."""
    return header.table_offset, cell_bytes(header.table_bytes, header.k) + MAC_BYTES


def read_table(
    keys: VolumeKeys, header: FragmentHeader, fragments: Mapping[int, Buffer]
) -> tuple[StripeRow, bytes]:
    """The row of a stripe (with no places) and its table's rows, encoded, from k fragments."""
    start, length = table_range(header)
    cells = {index: memoryview(data)[start : start + length] for index, data in fragments.items()}
    return read_table_cells(keys, header, cells)


def read_table_cells(
    keys: VolumeKeys, header: FragmentHeader, cells: Mapping[int, Buffer]
) -> tuple[StripeRow, bytes]:
    """As `read_table`, from k cells with MACs that were read by `table_range`."""
    blocks = header.blocks
    # Only the table's own length matters for its cell; those of the other blocks lie in it.
    known = _row(header, (header.table_bytes,) * blocks)
    checked = {
        index: check_cell(keys, known, index, blocks - 1, cells[index])
        for index in chosen(header, cells).values()
    }
    plain = decode_block(keys, known, header.kind, blocks - 1, checked)
    lengths, rows = decode_table(plain)
    row = _row(header, (*lengths, header.table_bytes))
    offset, _ = run_range(row.sealed_bytes, row.k, len(lengths), 1)
    if len(row.sealed_bytes) != blocks or offset != header.table_offset:
        raise Damaged("a stripe's table does not agree with its header")
    return row, rows


def _row(header: FragmentHeader, sealed_bytes: tuple[int, ...]) -> StripeRow:
    return StripeRow(
        sid=header.sid,
        k=header.k,
        layout=header.layout,
        storage_class=0,
        epoch=header.epoch,
        sealed_bytes=sealed_bytes,
        places=(NO_ACCOUNT,) * header.k,
    )
