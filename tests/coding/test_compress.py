"""Compression within a block: never larger, bounded, strict."""

import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding.compress import METHODS, Compression, compress, decompress
from aggfs.errors import Damaged


@pytest.mark.parametrize("method", list(METHODS))
@given(st.binary(max_size=300), st.integers(0, 200))
def test_padding_behind_a_compressed_block_is_ignored(method, data, padding) -> None:
    used, packed = compress(method, data * 3)
    assert len(packed) <= len(data) * 3
    if used is not Compression.NONE:
        assert decompress(used, bytes(packed) + bytes(padding), len(data) * 3) == data * 3


@pytest.mark.parametrize("method", list(METHODS))
def test_a_wrong_length_or_stream_is_damaged(method) -> None:
    used, packed = compress(method, bytes(1000))
    assert used is METHODS[method]
    for data, length in [(packed, 999), (packed, 1001), (packed[:-5], 1000), (b"", 1000)]:
        with pytest.raises(Damaged):
            decompress(used, data, length)
    with pytest.raises(Damaged, match="padding"):
        decompress(used, bytes(packed) + b"\0\1", 1000)


def test_a_bomb_is_not_unpacked() -> None:
    for used, bomb in [
        (Compression.ZLIB, zlib.compress(bytes(1 << 24))),
        (Compression.ZSTD, zstandard.ZstdCompressor().compress(bytes(1 << 24))),
    ]:
        with pytest.raises(Damaged):
            decompress(used, bomb, 1000)
