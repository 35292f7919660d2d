"""What a volume takes from outside: time and chance. A simulation has its own."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class World:
    """`wall_ns` gives nanoseconds since 1970, `random_bytes` secrets, `random` numbers in 0..1
    that nobody has to keep secret. What waits uses the clock of its trio run."""

    wall_ns: Callable[[], int] = time.time_ns
    random_bytes: Callable[[int], bytes] = os.urandom
    random: Callable[[], float] = random.random


THIS_WORLD = World()
