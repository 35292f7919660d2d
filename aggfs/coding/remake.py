"""Fragments of a stripe of data, made again of others: the same bytes as ever.

In code they are made of any k: these are joined to the sealed stripe, which is then coded. In
copies each is made of one other, which has the same cells: they come under another header and
other MACs, and nothing is decoded.
"""

from collections.abc import Collection, Mapping

from aggfs.coding.codec import at_once, cell_range, encode_steps, fragment_bytes
from aggfs.coding.decode import check_cell, join_stripe
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.whole import header_in
from aggfs.coding.writer import FragmentWriter
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import Coded, Layout, StripeRow, cell_of, spare


def made_together(code: Coded, wanted: Collection[int]) -> list[tuple[int, ...]]:
    """These fragments, in groups of such as are made of the same others."""
    if not Layout(code.layout).in_copies:
        return [tuple(sorted(wanted))]
    groups: dict[int, list[int]] = {}
    for index in sorted(wanted):
        groups.setdefault(cell_of(code, index), []).append(index)
    return [tuple(group) for group in groups.values()]


def needed_count(code: Coded, wanted: Collection[int]) -> int:
    """How many others it takes to make these."""
    return len(made_together(code, wanted)) if Layout(code.layout).in_copies else code.k


def is_of_use(code: Coded, index: int, held: Collection[int], wanted: Collection[int]) -> bool:
    """Whether fragment `index` is needed to make the wanted ones, beside those that are held."""
    if not Layout(code.layout).in_copies:
        return spare(code, held) < 0
    lacking = {cell_of(code, one) for one in wanted} - {cell_of(code, one) for one in held}
    return cell_of(code, index) in lacking


def make_again(
    keys: VolumeKeys, row: StripeRow, good: Mapping[int, bytes], wanted: Collection[int]
) -> Mapping[int, list[Buffer]]:
    """The wanted fragments, as pieces, of others that are whole and good: as many as are needed.

    Raises `DamagedFragment` for a cell that is not what it should be.
    """
    if Layout(row.layout).in_copies:
        held = {cell_of(row, index): index for index in good}
        sources = {index: held[cell_of(row, index)] for index in wanted}
        return {index: _copy(keys, row, sources[index], index, good) for index in wanted}
    sealed = join_stripe(keys, row, Kind.DATA, good)
    return at_once(
        encode_steps(
            keys, sealed, k=row.k, n=len(row.places), layout=Layout(row.layout), indices=wanted
        )
    )


def _copy(
    keys: VolumeKeys, row: StripeRow, source: int, index: int, good: Mapping[int, bytes]
) -> list[Buffer]:
    size = fragment_bytes(row.sealed_bytes, row.k)
    writer = FragmentWriter(keys, header_in(keys, row, index), size, memoryview(bytearray(size)))
    whole = memoryview(good[source])
    for block in range(len(row.sealed_bytes)):
        start, length = cell_range(row.sealed_bytes, row.k, block)
        cell = check_cell(keys, row, source, block, whole[start : start + length])
        writer.add_cell(block, cell)
    return writer.finish()
