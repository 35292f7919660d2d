"""What placement may know of an account: figures, never the account itself.

Room is counted in three steps. The *capacity* is what the account may hold in all: its declared
quota, or what its disk has, less a reserve for journals, deletes and repair. The *free* bytes are
the capacity less what lies there. The *level* is their ratio, the figure that balancing equalises.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aggfs.model import AccountId

MIB = 1 << 20
TIB = 1 << 40
RESERVE_BYTES = 64 * MIB
# An account that declares no quota and reports no room counts as this much, or as twice what it
# already holds: `df` must show something, and the first quota error corrects it.
UNDECLARED_BYTES = TIB


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account at one moment.

    `quota_bytes` 0 means: not declared. `pool` names the space that several accounts share (two
    directories on one file system); `pool_free_bytes` is what that space has left, None where
    nobody says. A healthy account answers; a writable one may take new fragments (not drained,
    not read-only). `pressed`: what is to be placed was accepted already.
    """

    account: AccountId
    name: str
    provider: str
    quota_bytes: int
    used_bytes: int
    healthy: bool = True
    writable: bool = True
    pool: str = ""
    pool_free_bytes: int | None = None
    pressed: bool = False

    @property
    def capacity_bytes(self) -> int:
        """What it may hold in all, its present content included."""
        bounds = []
        if self.quota_bytes:
            bounds.append(self.quota_bytes)
        if self.pool_free_bytes is not None:
            bounds.append(self.used_bytes + self.pool_free_bytes)
        gross = min(bounds) if bounds else max(UNDECLARED_BYTES, 2 * self.used_bytes)
        return gross - reserve_bytes(gross, pressed=self.pressed)

    @property
    def free_bytes(self) -> int:
        """What it may take in addition; 0 if it takes nothing."""
        return max(0, self.capacity_bytes - self.used_bytes) if self.writable else 0

    def level_with(self, more_bytes: int) -> float:
        """How full it would be with `more_bytes` more: 0 is empty, 1 is at its capacity."""
        return (self.used_bytes + more_bytes) / max(1, self.capacity_bytes)


def reserve_bytes(gross_bytes: int, *, pressed: bool = False) -> int:
    """What is kept for segments, deletes and repair: 1 % or 64 MiB, whichever is more.

    At most an eighth, so that a small account stays usable. Half of it where accepted data must
    go somewhere: writers are granted bytes, but stripes go in whole fragments.
    """
    reserve = max(gross_bytes // 100, min(RESERVE_BYTES, gross_bytes // 8))
    return reserve // 2 if pressed else reserve


def pool_free_bytes(accounts: Iterable[AccountState]) -> Mapping[str, int]:
    """Room left in each shared space, its one reserve taken off.

    Where two accounts of one pool disagree (they asked at different moments), the lower counts.
    """
    free: dict[str, int] = {}
    used: dict[str, int] = {}
    pressed = False
    for state in accounts:
        pressed = pressed or state.pressed
        if state.pool and state.pool_free_bytes is not None:
            free[state.pool] = min(state.pool_free_bytes, free.get(state.pool, 1 << 63))
            used[state.pool] = used.get(state.pool, 0) + state.used_bytes
    return {
        pool: max(0, free[pool] - reserve_bytes(used[pool] + free[pool], pressed=pressed))
        for pool in free
    }
