"""Strict, bounded reading of bytes that nobody vouches for.

Every decoder of this room is built on `Reader`: it never reads past the end, never believes a
length beyond its limit, and knows one error, `Damaged`.
"""

from aggfs.errors import Damaged

Buffer = bytes | bytearray | memoryview


class Reader:
    """Takes fields off the front of some bytes, in order; big endian throughout.

    `what` names the record in error texts. A decoder ends with `end()`, so that nothing may
    trail a record unread.
    """

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: Buffer, what: str) -> None:
        self._data = memoryview(data).cast("B")
        self._position = 0
        self._what = what

    @property
    def left(self) -> int:
        """How many bytes were not taken yet."""
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if not 0 <= count <= self.left:
            raise self.damaged("it ends too early")
        start = self._position
        self._position += count
        return bytes(self._data[start : self._position])

    def number(self, size_bytes: int, *, low: int = 0, high: int | None = None) -> int:
        """The next unsigned number, refused outside low..high (both included)."""
        value = int.from_bytes(self.take(size_bytes), "big")
        if value < low or (high is not None and value > high):
            raise self.damaged(f"a number is out of range: {value}")
        return value

    def counted(self, size_bytes: int, *, limit: int) -> bytes:
        """Bytes led by their count, which may not pass `limit`."""
        return self.take(self.number(size_bytes, high=limit))

    def text(self, size_bytes: int, *, limit: int) -> str:
        """UTF-8 text led by its length in bytes."""
        try:
            return self.counted(size_bytes, limit=limit).decode()
        except UnicodeDecodeError:
            raise self.damaged("a text is no UTF-8") from None

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.left)

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise self.damaged(f"{self.left} bytes trail it")

    def zeros(self) -> None:
        """All that is left is zero bytes, and is taken."""
        if any(self.rest()):
            raise self.damaged("its padding is not zero")

    def damaged(self, why: str) -> Damaged:
        """The error to raise, naming the record."""
        return Damaged(f"this {self._what} is damaged: {why}")
