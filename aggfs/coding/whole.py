"""A whole fragment, judged: is it byte for byte what was put?

Reads check the cells that they use. Who copies a fragment elsewhere, and deletes it then where it
was, must check all of it: header, each cell with its MAC, and the tail that fills it up.
"""

from collections.abc import Generator

from aggfs.coding.cipher import keystream
from aggfs.coding.codec import cell_range, fragment_bytes, run_range
from aggfs.coding.decode import DamagedFragment, check_cell
from aggfs.coding.headers import seal_header
from aggfs.coding.keys import VolumeKeys
from aggfs.formats.fragment import SALT_BYTES, FragmentHeader, Kind
from aggfs.formats.record import Buffer
from aggfs.model import Layout, Sid, StripeRow


def whole_fragment_steps(
    keys: VolumeKeys, row: StripeRow, index: int, data: Buffer
) -> Generator[None, None, None]:
    """Check fragment `index` of a stripe of data, a block a step. Raises `DamagedFragment`."""
    view = memoryview(data)
    if len(view) != fragment_bytes(row.sealed_bytes, row.k):
        raise DamagedFragment(f"fragment {index} of stripe {row.sid.hex()} has a wrong size", index)
    blocks = len(row.sealed_bytes)
    header = seal_header(keys, header_in(keys, row, index))
    end = sum(run_range(row.sealed_bytes, row.k, 0, blocks))
    tail = keystream(keys.tail_key(row.epoch, header[:SALT_BYTES]), len(view) - end)
    if view[: len(header)] != header or view[end:] != tail:
        text = f"header or tail of fragment {index} of stripe {row.sid.hex()} is damaged"
        raise DamagedFragment(text, index)
    for block in range(blocks):
        start, length = cell_range(row.sealed_bytes, row.k, block)
        check_cell(keys, row, index, block, view[start : start + length])
        yield


def header_in(keys: VolumeKeys, row: StripeRow, index: int) -> FragmentHeader:
    """What fragment `index` of a stripe of data says of itself."""
    blocks = len(row.sealed_bytes)
    return FragmentHeader(
        kind=Kind.DATA,
        volume=keys.volume,
        sid=Sid(row.sid),
        k=row.k,
        layout=Layout(row.layout),
        index=index,
        epoch=row.epoch,
        blocks=blocks,
        table_offset=cell_range(row.sealed_bytes, row.k, blocks - 1)[0],
        table_bytes=row.sealed_bytes[-1],
    )
