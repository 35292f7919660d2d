"""One fragment being written, piece by piece, without copying what is long."""

from aggfs.coding.cipher import keystream
from aggfs.coding.headers import seal_header
from aggfs.coding.keys import VolumeKeys
from aggfs.formats.fragment import SALT_BYTES, FragmentHeader
from aggfs.formats.record import Buffer
from aggfs.formats.sizes import MAC_BYTES

SLICE_BYTES = 4096  # shorter cells are copied: a put of a few pieces beats one of thousands


class FragmentWriter:
    """Collects the pieces of a fragment of `size_bytes` in `room`, which is as long. Long cells
    that are handed in are pieces as they lie."""

    __slots__ = (
        "_at",
        "_begun",
        "_foreign",
        "_mac",
        "_pieces",
        "_room",
        "_size_bytes",
        "_tail_key",
    )

    def __init__(
        self, keys: VolumeKeys, header: FragmentHeader, size_bytes: int, room: memoryview
    ) -> None:
        sealed = seal_header(keys, header)
        self._mac = keys.cell_mac(header.epoch, header.sid, header.k, header.layout, header.index)
        self._tail_key = keys.tail_key(header.epoch, sealed[:SALT_BYTES])
        self._size_bytes = size_bytes
        self._room = room
        self._pieces: list[Buffer] = []
        self._foreign = 0  # how many bytes of the pieces do not lie in `room`
        self._begun = 0  # what lies in `room` from here to `_at` is no piece yet
        self._at = 0
        self.take(len(sealed))[:] = sealed

    def take(self, size_bytes: int) -> memoryview:
        """The next bytes of the fragment, for the caller to write."""
        start = self._at
        self._at += size_bytes
        return self._room[start : self._at]

    def add_mac(self, block: int, cell: Buffer) -> None:
        """The MAC of the cell that came last."""
        self._mac.write(block, cell, self.take(MAC_BYTES))

    def add_cell(self, block: int, cell: Buffer) -> None:
        """A cell and its MAC."""
        if len(cell) < SLICE_BYTES:
            self.take(len(cell))[:] = cell
        else:
            self._close_piece()
            self._pieces.append(cell)
            self._foreign += len(cell)
        self.add_mac(block, cell)

    def finish(self) -> list[Buffer]:
        """All pieces; the tail fills the fragment up to its size."""
        tail = keystream(self._tail_key, self._size_bytes - self._foreign - self._at)
        self.take(len(tail))[:] = tail
        self._close_piece()
        return self._pieces

    def _close_piece(self) -> None:
        self._pieces.append(self._room[self._begun : self._at])
        self._begun = self._at
