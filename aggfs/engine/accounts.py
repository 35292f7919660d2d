"""The accounts of a running volume: their stores, what lies in them, and who answers.

The ledger counts, per account, the bytes of every object that is there or may be there (a put
that was begun counts until the object's deletion is confirmed). It changes in the same LMDB
transaction as the row that names the object, so it never drifts from the rows.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.cache.table import Tables
from aggfs.engine.arrivals import Arrivals
from aggfs.errors import QuotaFull, StoreError, Unreachable
from aggfs.model import AccountId
from aggfs.placement.accounts import AccountState
from aggfs.stores.base import Buffer, Store
from aggfs.stores.metered import Figures

TABLES = ("ledger", "objects")
FIRST_LATENCY_SECONDS = 0.02
LATENCY_WEIGHT = 0.2
SPACE_SECONDS = 10.0
PUT_SECONDS, PUT_LIMIT_SECONDS = 60.0, 480.0
FULL_SECONDS = 300.0
NEVER = -math.inf


class Ledger:
    """Bytes per account, and the objects that are no data fragments (those have stripe rows)."""

    def __init__(self, database: Tables) -> None:
        """Over a database, or over a snapshot of one, which is only read."""
        self._used = database.table("ledger")
        self._objects = database.table("objects")

    def used_bytes(self, account: AccountId) -> int:
        """What lies, or may lie, in the account."""
        value = self._used.get(account)
        return int.from_bytes(value) if value else 0

    def add(self, account: AccountId, size_bytes: int) -> None:
        """Count an object that is about to be put; negative: one whose deletion is confirmed."""
        total = max(0, self.used_bytes(account) + size_bytes)
        self._used.put(account, total.to_bytes(8))

    def put_object(self, account: AccountId, key: str, size_bytes: int) -> None:
        """An object of the journal or a header is put, or replaced by one of another size."""
        name = account + key.encode()
        old = self._objects.get(name)
        self.add(account, size_bytes - (int.from_bytes(old) if old else 0))
        self._objects.put(name, size_bytes.to_bytes(8))

    def drop_object(self, account: AccountId, key: str) -> None:
        """An object of the journal is confirmed to be gone."""
        name = account + key.encode()
        old = self._objects.get(name)
        if old:
            self.add(account, -int.from_bytes(old))
            self._objects.delete(name)

    def drop_account(self, account: AccountId) -> None:
        """The account is no part of the volume any more, whatever lies there."""
        for key, _ in self._objects.scan(account):
            self._objects.delete(key)
        self._used.delete(account)

    def object_bytes(self, account: AccountId, key: str) -> int | None:
        """The size of one of the account's objects that are no data fragments, None if there is
        no such object."""
        value = self._objects.get(account + key.encode())
        return None if value is None else int.from_bytes(value)

    def objects(self, account: AccountId) -> list[tuple[str, int]]:
        """(key, size in bytes) of the account's objects that are no data fragments."""
        rows = self._objects.scan(account)
        return [(key[len(account) :].decode(), int.from_bytes(value)) for key, value in rows]


@dataclass(slots=True)
class Account:
    """One account at run time. `last_error` is empty while it answers. `looked_at` says when its
    head of our journal was looked at; `NEVER`, since the account failed last: it may have come back
    as it once was. A leaving one is read and takes nothing new."""

    id: AccountId
    name: str
    driver: str
    provider: str
    quota_bytes: int
    store: Store
    meter: Callable[[], Mapping[str, Figures]]
    wake: Callable[[], None] = lambda: None
    last_error: str = ""
    looked_at: float = NEVER
    full: bool = False
    full_at: float = 0.0
    in_flight: int = 0
    latency_seconds: float = FIRST_LATENCY_SECONDS
    pool: str = ""
    pool_free_bytes: int | None = None
    used_when_asked: int = 0
    foreign_bytes: int = 0
    leaving: bool = False
    put_seconds: float = PUT_SECONDS
    arrivals: Arrivals = field(default_factory=Arrivals)

    @property
    def healthy(self) -> bool:
        """Whether its last call was answered."""
        return not self.last_error

    def answered(self, seconds: float | None = None) -> None:
        """A call was answered, after so many seconds if it was a read worth timing."""
        self.last_error = ""
        if seconds is not None:
            self.latency_seconds += LATENCY_WEIGHT * (seconds - self.latency_seconds)

    def was_late(self, seconds: float) -> None:
        """A read was given up after so many seconds: the next one may take as long."""
        self.latency_seconds = max(self.latency_seconds, seconds)

    def failed(self, error: StoreError) -> None:
        """A call was not answered, or the account said no."""
        self.last_error = str(error) or type(error).__name__
        self.looked_at = NEVER
        if isinstance(error, QuotaFull):
            self.full = True
            self.full_at = trio.current_time()

    def try_again(self) -> None:
        """What was full for a while may have room again: the next put will tell."""
        if self.full and trio.current_time() - self.full_at >= FULL_SECONDS:
            self.full = False

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Put an object. Raises as its store does, and `Unreachable` where it takes too long;
        `arrivals` knows what may come of that."""
        began, limit = trio.current_time(), self.put_seconds
        with trio.move_on_after(limit) as scope, self.arrivals.put(key):
            await self.store.put(key, pieces)
        self._put_ended(trio.current_time() - began, in_time=not scope.cancelled_caught)
        if scope.cancelled_caught:
            raise Unreachable(f"account {self.name} took longer than {limit:.0f} s")

    def _put_ended(self, seconds: float, *, in_time: bool) -> None:
        """On a slow line the next put gets more time: else none would ever end."""
        if in_time:
            self.put_seconds = max(PUT_SECONDS, 3 * seconds, 0.9 * self.put_seconds)
        else:
            self.put_seconds *= 2
        self.put_seconds = min(self.put_seconds, PUT_LIMIT_SECONDS)

    async def delete_for_good(self, key: str) -> bool:
        """Whether an object is gone now, and no put of this run can bring it back. Never raises
        `StoreError`: that is noted here."""
        return not self.arrivals.may_come(key) and await self.delete(key)

    async def delete(self, key: str) -> bool:
        """Whether an object is gone now. Never raises `StoreError`: that is noted here."""
        try:
            await self.store.delete(key)
        except StoreError as error:
            self.failed(error)
            return False
        return True

    def requests(self) -> int:
        """How many requests were sent since the start."""
        return sum(figures.requests for figures in self.meter().values())

    def cost(self) -> float:
        """How long the next read will take here, as far as anyone can tell. Quick ones are all
        alike, so that they take turns, and one that was not asked yet gets its turn."""
        seconds = max(self.latency_seconds, FIRST_LATENCY_SECONDS)
        return seconds * (1 + self.in_flight) + (0.0 if self.healthy else 1e3)


class Accounts:
    """All accounts of a volume, by id, and the figures that placement works on."""

    def __init__(self, accounts: Iterable[Account], ledger: Ledger) -> None:
        self._accounts: dict[AccountId, Account] = {account.id: account for account in accounts}
        self.ledger = ledger

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def __len__(self) -> int:
        return len(self._accounts)

    def get(self, account: bytes) -> Account | None:
        """The account with this id, None if the volume has no such account any more."""
        return self._accounts.get(AccountId(account))

    def add(self, account: Account) -> None:
        """An account joined while the volume runs."""
        self._accounts[account.id] = account

    def remove(self, account: AccountId) -> None:
        """An account is no part of the volume any more."""
        self._accounts.pop(account, None)

    def staying(self) -> list[Account]:
        """Those that take something new."""
        return [account for account in self._accounts.values() if not account.leaving]

    async def prepare(self) -> None:
        """Let all of them be ready, one after the other, before somebody waits for a read."""
        for account in list(self._accounts.values()):
            await account.store.prepare()

    async def ask_space(self) -> None:
        """Ask the accounts that can tell how much room they have. Never raises for an account's
        fault: what is not known stays as it was."""
        for account in list(self._accounts.values()):
            account.try_again()
            if not account.store.capabilities.reports_space:
                continue
            try:
                with trio.move_on_after(SPACE_SECONDS):
                    space = await account.store.space()
                    if space is not None:
                        account.pool_free_bytes = space.free_bytes
                        account.used_when_asked = self.ledger.used_bytes(account.id)
            except StoreError as error:
                account.failed(error)

    def states(self, *, pressed: bool = False) -> Sequence[AccountState]:
        """What placement may know of the accounts, in a stable order. `pressed`: what is to be
        placed was accepted already, and may go where else nothing more is accepted."""
        grown: dict[str, int] = {}
        for one in self._accounts.values():
            more = self.ledger.used_bytes(one.id) - one.used_when_asked
            grown[one.pool] = grown.get(one.pool, 0) + more
        return [
            self._state(one, grown[one.pool], pressed=pressed) for one in self._accounts.values()
        ]

    def _state(self, account: Account, grown_bytes: int, *, pressed: bool) -> AccountState:
        used = self.ledger.used_bytes(account.id) + account.foreign_bytes
        free = account.pool_free_bytes
        return AccountState(
            account=account.id,
            name=account.name,
            provider=account.provider,
            quota_bytes=max(1, used) if account.full else account.quota_bytes,
            used_bytes=used,
            healthy=account.healthy,
            writable=not account.full and not account.leaving,
            pool=account.pool if free is not None else "",
            pool_free_bytes=None if free is None else max(0, free - grown_bytes),
            pressed=pressed,
        )
