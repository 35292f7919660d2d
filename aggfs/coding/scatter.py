"""The layout `interleave`: how a sealed block is strewn over its k cells.

Theory of operation. A block is a row of groups of 16·k bytes. Within a group, each k bytes that
follow each other go to k different cells (which one gets which byte is a permutation of its own
for each of the 16 rows), and each cell takes its 16 bytes in a shuffled order. So a cell never
holds two bytes of one row, hence no run of three bytes of the block, wherever it begins; and it
holds what it has in no order that could be guessed. All groups of a block share one pattern, and
every block of every stripe has a pattern of its own.

The pattern moves whole strides at C speed: byte p of every group is one slice of the block.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

from aggfs.formats.record import Buffer

GROUP_ROWS = 16

_EXPAND_BYTES_PER_STEP = 4


def pattern(key: bytes, k: int) -> tuple[tuple[int, int], ...]:
    """For each byte of a group: (its cell, its place among the 16 bytes that the cell takes)."""
    return _pattern(key, k)


@lru_cache(256)
def _pattern(key: bytes, k: int) -> tuple[tuple[int, int], ...]:
    steps = 2 * GROUP_ROWS * k
    stream = hashlib.shake_256(b"aggfs interleave" + bytes((k,)) + key).digest(
        steps * _EXPAND_BYTES_PER_STEP
    )
    draws = (
        int.from_bytes(stream[at : at + _EXPAND_BYTES_PER_STEP], "big")
        for at in range(0, len(stream), _EXPAND_BYTES_PER_STEP)
    )
    cells_of_row = [_shuffled(k, draws) for _ in range(GROUP_ROWS)]
    place_in_cell = [_shuffled(GROUP_ROWS, draws) for _ in range(k)]
    return tuple(
        (cell, place_in_cell[cell][row]) for row in range(GROUP_ROWS) for cell in cells_of_row[row]
    )


def _shuffled(count: int, draws: Iterator[int]) -> list[int]:
    """Fisher and Yates, from the last; 32-bit draws make the bias of a remainder nothing here."""
    order = list(range(count))
    for last in range(count - 1, -1, -1):
        other = next(draws) % (last + 1)
        order[last], order[other] = order[other], order[last]
    return order


def scatter(block: Buffer, key: bytes, k: int) -> list[bytearray]:
    """The k cells of a block whose length is a multiple of 16·k."""
    group = GROUP_ROWS * k
    cells = [bytearray(len(block) // k) for _ in range(k)]
    for position, (cell, place) in enumerate(pattern(key, k)):
        cells[cell][place::GROUP_ROWS] = block[position::group]
    return cells


def gather(cells: Sequence[Buffer], key: bytes) -> bytearray:
    """The reverse of `scatter`, given all k cells in order."""
    k = len(cells)
    group = GROUP_ROWS * k
    block = bytearray(len(cells[0]) * k)
    for position, (cell, place) in enumerate(pattern(key, k)):
        block[position::group] = cells[cell][place::GROUP_ROWS]
    return block
