"""The erasure code: k cells become any number of cells, any k of which give the k back.

Theory of operation. zfec's matrix *is* the code: cell i of a block is row i of zfec's systematic
Vandermonde matrix times the k primary cells; rows do not depend on n. Where Debian's `libisal2`
is present, the same rows run through ISA-L, byte for byte the same and many times faster. ISA-L
gets its matrices from zfec itself: a code is linear, so what zfec makes of unit vectors is its
matrix, and what it decodes them to is the inverse. `fastest_coder` compares the two before
trusting ISA-L, and uses zfec when anything differs.

Coders keep no state but caches, and may be shared by threads.
"""

import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

import zfec

from aggfs.formats.fragment import N_LIMIT
from aggfs.formats.record import Buffer

_ISAL_LIBRARY = "libisal.so.2"
_TABLE_BYTES_PER_FACTOR = 32
_CACHED_MATRICES = 1024


class Coder(Protocol):
    """A way to compute the code. All cells of a call have one length, at least 16."""

    @property
    def name(self) -> str: ...

    def encode(
        self, primaries: Sequence[Buffer], indices: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """Put the cells `indices` (k or above) of the k primaries into `out`."""

    def decode(
        self, k: int, cells: Mapping[int, Buffer], wanted: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """Put the primary cells `wanted` (below k, none of them given) into `out`, from exactly
        k given cells."""


def _require_one_length(sources: Iterable[Buffer], out: Iterable[Buffer]) -> int:
    """The length of all these buffers. Beyond one of them would lie foreign memory."""
    lengths = {*map(len, sources), *map(len, out)}
    if len(lengths) != 1:
        raise ValueError(f"cells of one block have one length, these have {sorted(lengths)}")
    return lengths.pop()


class ZfecCoder:
    """The definition, and the fallback."""

    name = "zfec"

    def encode(
        self, primaries: Sequence[Buffer], indices: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """See `Coder`."""
        _require_one_length(primaries, out)
        made = _encoder(len(primaries)).encode(tuple(primaries), tuple(indices))
        for target, cell in zip(out, made, strict=True):
            target[:] = cell

    def decode(
        self, k: int, cells: Mapping[int, Buffer], wanted: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """See `Coder`."""
        _require_one_length(cells.values(), out)
        made = _decoder(k).decode(tuple(cells.values()), tuple(cells))
        for target, index in zip(out, wanted, strict=True):
            target[:] = made[index]


class IsalCoder:
    """The same code through ISA-L. Built by `fastest_coder`, which tests it first."""

    name = "isa-l"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._init_tables = library.ec_init_tables
        self._init_tables.restype = None
        self._init_tables.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
        self._run = library.ec_encode_data
        self._run.restype = None
        self._run.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, *[ctypes.c_void_p] * 3]
        self._encode_tables = lru_cache(_CACHED_MATRICES)(self._make_encode_tables)
        self._decode_tables = lru_cache(_CACHED_MATRICES)(self._make_decode_tables)

    def encode(
        self, primaries: Sequence[Buffer], indices: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """See `Coder`."""
        self._multiply(self._encode_tables(len(primaries), tuple(indices)), primaries, out)

    def decode(
        self, k: int, cells: Mapping[int, Buffer], wanted: Sequence[int], out: Sequence[memoryview]
    ) -> None:
        """See `Coder`."""
        tables = self._decode_tables(tuple(cells), tuple(wanted))
        self._multiply(tables, tuple(cells.values()), out)

    def _make_encode_tables(self, k: int, indices: tuple[int, ...]) -> bytes:
        return self._tables(k, encode_rows(k, indices))

    def _make_decode_tables(self, given: tuple[int, ...], wanted: tuple[int, ...]) -> bytes:
        return self._tables(len(given), decode_rows(given, wanted))

    def _tables(self, k: int, rows: Sequence[bytes]) -> bytes:
        tables = ctypes.create_string_buffer(_TABLE_BYTES_PER_FACTOR * k * len(rows))
        self._init_tables(k, len(rows), b"".join(rows), tables)
        return tables.raw

    def _multiply(self, tables: bytes, sources: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """out = matrix times sources."""
        length = _require_one_length(sources, out)
        # Held until the call is over: a buffer that is viewed can neither move nor go.
        read = [memoryview(buffer) for buffer in sources]
        write = [memoryview(buffer) for buffer in out]
        self._run(length, len(read), len(write), tables, _addresses(read), _addresses(write))


def encode_rows(k: int, indices: Sequence[int]) -> list[bytes]:
    """Rows of zfec's matrix: cell i is the sum of row[j] times primary j."""
    columns = [
        _encoder(k).encode(tuple(bytes([byte]) for byte in unit), tuple(indices))
        for unit in _unit_vectors(k)
    ]
    return [b"".join(bytes(column[row]) for column in columns) for row in range(len(indices))]


def decode_rows(given: Sequence[int], wanted: Sequence[int]) -> list[bytes]:
    """Rows of the inverse: primary i is the sum of row[j] times the j-th given cell."""
    columns = [
        _decoder(len(given)).decode(tuple(bytes([byte]) for byte in unit), tuple(given))
        for unit in _unit_vectors(len(given))
    ]
    return [b"".join(bytes(column[index]) for column in columns) for index in wanted]


def _unit_vectors(k: int) -> Iterator[bytes]:
    for one in range(k):
        yield bytes(int(position == one) for position in range(k))


@lru_cache(N_LIMIT)
def _encoder(k: int) -> zfec.Encoder:
    return zfec.Encoder(k, N_LIMIT)


@lru_cache(N_LIMIT)
def _decoder(k: int) -> zfec.Decoder:
    return zfec.Decoder(k, N_LIMIT)


# --- addresses of buffers -------------------------------------------------------------------------


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer (stable ABI since 3.11)."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_void_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_PY_BUF_SIMPLE = 0
_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None


def _addresses(views: Sequence[memoryview]) -> ctypes.Array[ctypes.c_void_p]:
    """Where viewed buffers lie, as a C array."""
    return (ctypes.c_void_p * len(views))(*(_address(view) for view in views))


def _address(view: memoryview) -> int | None:
    if not view.readonly:
        return ctypes.addressof(ctypes.c_char.from_buffer(view))
    held = _PyBuffer()
    _get_buffer(view, held, _PY_BUF_SIMPLE)
    address: int | None = held.buf
    _release_buffer(held)
    return address


# --- which coder ----------------------------------------------------------------------------------

_TRIAL_BYTES = 16 + 61
_TRIALS = ((1, 3), (2, 3), (3, 5), (4, 6), (10, 14), (N_LIMIT // 2, N_LIMIT))


@lru_cache(1)
def fastest_coder() -> Coder:
    """ISA-L where it is installed and agrees with zfec, else zfec."""
    try:
        coder = IsalCoder(ctypes.CDLL(_ISAL_LIBRARY))
    except (OSError, AttributeError):
        return ZfecCoder()
    return coder if agrees(coder, ZfecCoder()) else ZfecCoder()


def agrees(coder: Coder, reference: Coder) -> bool:
    """Whether two coders compute the same on a set of trials, both ways."""
    return all(
        _parity(coder, primaries, n) == _parity(reference, primaries, n)
        and _survives(coder, primaries, n)
        for primaries, n in _trials()
    )


def _trials() -> Iterable[tuple[list[bytes], int]]:
    for k, n in _TRIALS:
        yield [bytes((i * i + 7 * j + k) % 256 for i in range(_TRIAL_BYTES)) for j in range(k)], n


def _parity(coder: Coder, primaries: Sequence[bytes], n: int) -> list[bytearray]:
    out = [bytearray(_TRIAL_BYTES) for _ in range(len(primaries), n)]
    coder.encode(primaries, range(len(primaries), n), [memoryview(cell) for cell in out])
    return out


def _survives(coder: Coder, primaries: Sequence[bytes], n: int) -> bool:
    """Whether the last k of n cells give the primaries back that are not among them."""
    k = len(primaries)
    cells: list[Buffer] = [*primaries, *_parity(coder, primaries, n)]
    given = {index: cells[index] for index in range(n - k, n)}
    wanted = range(min(k, n - k))
    out = [bytearray(_TRIAL_BYTES) for _ in wanted]
    coder.decode(k, given, wanted, [memoryview(cell) for cell in out])
    return all(cell == primaries[index] for cell, index in zip(out, wanted, strict=True))
