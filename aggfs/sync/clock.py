"""Stamps: hybrid logical clock readings, and their 16 bytes in rows and keys.

A clock reading is 48 bits of milliseconds and 16 bits of counter in one number. It never goes
back, whatever the wall clock does, and never falls behind a reading that was observed from
another device: so an entry that was made knowing another one sorts after it.
"""

from aggfs.model import DeviceId, Stamp

COUNTER_BITS = 16


def reading(wall_ns: int) -> int:
    """The clock reading of a wall clock time, counter 0."""
    return max(0, wall_ns // 1_000_000) << COUNTER_BITS


def milliseconds(clock: int) -> int:
    """The wall clock part of a reading: milliseconds since 1970."""
    return clock >> COUNTER_BITS


def pack(stamp: Stamp) -> bytes:
    """A stamp as 16 bytes that compare as stamps do."""
    return stamp.clock.to_bytes(8) + stamp.device


def unpack(when: bytes) -> Stamp:
    """The stamp that `pack` made these bytes of."""
    return Stamp(int.from_bytes(when[:8]), when[8:])


class HybridClock:
    """One device's clock. `last` is the highest reading given or observed."""

    __slots__ = ("device", "last")

    def __init__(self, device: DeviceId, last: int = 0) -> None:
        self.device = device
        self.last = last

    def tick(self, wall_ns: int) -> Stamp:
        """A stamp above everything given or observed before."""
        self.last = max(self.last + 1, reading(wall_ns))
        return Stamp(self.last, self.device)

    def observe(self, stamp: Stamp) -> None:
        """Another device's stamp was taken in: ours will be above it."""
        self.last = max(self.last, stamp.clock)
