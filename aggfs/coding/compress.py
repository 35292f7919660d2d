"""Compression of a block before it is sealed; the seal's footer names the method."""

import enum
import zlib

import zstandard

from aggfs.errors import Damaged
from aggfs.formats.record import Buffer

_ZLIB_LEVEL = 6
_ZSTD_LEVEL = 3


class Compression(enum.IntEnum):
    """How the data of a sealed block is compressed. ZLIB is in every Python."""

    NONE = 0
    ZLIB = 1
    ZSTD = 2


METHODS = {"zlib": Compression.ZLIB, "zstd": Compression.ZSTD}


def compress(method: str | None, data: Buffer) -> tuple[Compression, Buffer]:
    """The data, smaller if `method` makes it so, and the method that was used after all."""
    if method is None or len(data) == 0:
        return Compression.NONE, data
    used = METHODS[method]
    if used is Compression.ZLIB:
        smaller = zlib.compress(data, _ZLIB_LEVEL)
    else:
        smaller = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
    return (used, smaller) if len(smaller) < len(data) else (Compression.NONE, data)


def decompress(method: Compression, data: Buffer, length: int) -> bytes:
    """The `length` bytes that were compressed; zeros may trail `data`. Or `Damaged`."""
    try:
        whole, behind = _UNPACK[method](data, length)
    except (zlib.error, zstandard.ZstdError) as error:
        raise Damaged(f"a block does not decompress: {error}") from None
    if len(whole) != length:
        raise Damaged("a block decompresses to another length than its footer says")
    if behind.strip(b"\0"):
        raise Damaged("the padding of a block is not zero")
    return whole


def _unpack_zlib(data: Buffer, length: int) -> tuple[bytes, bytes]:
    unpacker = zlib.decompressobj()
    whole = unpacker.decompress(data, length + 1)
    if not unpacker.eof:
        raise Damaged("a block's compressed stream does not end")
    return whole, unpacker.unused_data


def _unpack_zstd(data: Buffer, length: int) -> tuple[bytes, bytes]:
    if zstandard.get_frame_parameters(data).content_size != length:
        raise Damaged("a block was compressed from another length than its footer says")
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    return unpacker.decompress(data), unpacker.unused_data


_UNPACK = {Compression.ZLIB: _unpack_zlib, Compression.ZSTD: _unpack_zstd}
