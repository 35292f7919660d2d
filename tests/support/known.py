"""What may be in a file after a crash, whatever wrote it: each byte is the one that was made sure
last, or one that was written there since."""

from dataclasses import dataclass, field

LOOKED_AT_BYTES = 61


@dataclass
class Known:
    """What may be in a file."""

    sure: bytes = b""
    now: bytes = b""
    sizes: set[int] = field(default_factory=lambda: {0})
    written: list[tuple[int, bytes]] = field(default_factory=list)

    def may_write(self, offset: int, data: bytes) -> None:
        """A write has begun."""
        self.written.append((offset, data))
        self.sizes.add(max(len(self.now), offset + len(data)))

    def may_truncate(self, size: int) -> None:
        """A truncation has begun."""
        self.sizes.add(size)

    def is_now(self, data: bytes) -> None:
        """What was begun is done."""
        self.now = data
        self.sizes.add(len(data))

    def make_sure(self) -> None:
        """It would survive a loss of power."""
        self.sure, self.sizes, self.written = self.now, {len(self.now)}, []

    def copy(self) -> "Known":
        return Known(self.sure, self.now, set(self.sizes), list(self.written))

    def fault(self, found: bytes) -> str:
        """Why this cannot be, or nothing."""
        if len(found) not in self.sizes:
            return f"size {len(found)}, not of {sorted(self.sizes)}"
        if len(self.sizes) == 1 and not self.written:
            return "" if found == self.sure else "other bytes than those made sure"
        zeros_may_be = min(self.sizes)
        for at in range(0, len(found), LOOKED_AT_BYTES):
            byte = found[at : at + 1]
            allowed = {self.sure[at : at + 1]} | {
                data[at - offset : at - offset + 1]
                for offset, data in self.written
                if offset <= at < offset + len(data)
            }
            if byte not in allowed and not (byte == b"\0" and at >= zeros_may_be):
                return f"byte {at} is {byte!r}, not of {allowed}"
        return ""
