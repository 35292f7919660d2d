"""How long things are: size classes, sealed blocks, cells, fragments.

All of it follows from lengths alone, so that a reader finds any cell by arithmetic
(`aggfs.coding.codec` does).
"""

from collections.abc import Sequence

FRAGMENT_HEADER_BYTES = 128
FOOTER_BYTES = 4
TAG_BYTES = 16
MAC_BYTES = 16
CELL_STEP_BYTES = 16
SEALED_LEAST_BYTES = 64 + FOOTER_BYTES + TAG_BYTES

_SMALL_STEP_BYTES = 64
_SMALL_LIMIT_BYTES = 4096


def size_class(length: int) -> int:
    """`length` rounded up so that few lengths exist: steps of 64 to 4 KiB, then Padme.

    Padme keeps only the leading bits of a length: at most 12 % is added, less with growing
    length. Nothing is as long as one step, so that empty things do not show.
    """
    if length <= _SMALL_LIMIT_BYTES:
        return max(_SMALL_STEP_BYTES, -(-length // _SMALL_STEP_BYTES) * _SMALL_STEP_BYTES)
    exponent = length.bit_length() - 1
    loose_bits = exponent - exponent.bit_length()
    return -(-length >> loose_bits) << loose_bits


def sealed_length(data_length: int) -> int:
    """The length of a sealed block that holds `data_length` bytes (compressed, if they are)."""
    return size_class(data_length) + FOOTER_BYTES + TAG_BYTES


def cell_bytes(sealed_length: int, k: int) -> int:
    """The length of each of the k cells of a sealed block, without its MAC."""
    return -(-sealed_length // (CELL_STEP_BYTES * k)) * CELL_STEP_BYTES


def cells_bytes(sealed_bytes: Sequence[int], k: int) -> int:
    """The length of one fragment's cells of these blocks, MACs included."""
    step = CELL_STEP_BYTES * k
    cells = sum(-(-length // step) for length in sealed_bytes)
    return cells * CELL_STEP_BYTES + len(sealed_bytes) * MAC_BYTES
