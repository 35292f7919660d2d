"""What a volume takes from outside: time and chance. A simulation has its own."""

import functools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@functools.cache
def _stamped_file() -> int:
    return os.memfd_create("what the kernel stamps")


def kernel_ns() -> int:
    """The time that the kernel gives a file now, which is not quite what a clock says: of a tick
    all alike, or finer where it matters. Some times of our files come from the kernel (touch), some
    from us (a write): by another clock than its own, what is done later would look older."""
    descriptor = _stamped_file()
    os.utime(descriptor)
    return os.fstat(descriptor).st_mtime_ns


@dataclass(frozen=True, slots=True)
class World:
    """`wall_ns` gives nanoseconds since 1970, `random_bytes` secrets, `random` numbers in 0..1
    that nobody has to keep secret; `kernel_ns` what files are stamped with, where that is not by
    `wall_ns`. What waits uses the clock of its trio run."""

    wall_ns: Callable[[], int] = time.time_ns
    random_bytes: Callable[[int], bytes] = os.urandom
    random: Callable[[], float] = random.random
    kernel_ns: Callable[[], int] | None = None

    @property
    def file_ns(self) -> Callable[[], int]:
        """The clock of the times of files."""
        return self.kernel_ns or self.wall_ns


THIS_WORLD = World(kernel_ns=kernel_ns)
