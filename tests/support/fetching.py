"""A fetcher over accounts in memory that count what is asked of them and can be made to fail."""

from collections.abc import Sequence
from pathlib import Path

from aggfs.cache.staging import Staging
from aggfs.coding import codec
from aggfs.engine.accounts import Account, Accounts, Ledger
from aggfs.engine.reading.fetch import Fetcher, Run
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import AccountId, StripeRow
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from tests.support.stripes import fragments_of, keys_of_test_volume, row_of, sealed_stripe

READS = frozenset({"get_range"})


class CountingStore(MemoryStore):
    """Remembers every range that was asked for."""

    def __init__(self, objects: MemoryObjects) -> None:
        super().__init__(objects)
        self.ranges: list[tuple[int, int]] = []

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self.ranges.append((start, length))
        return await super().get_range(key, start, length)


class Ground:
    """n accounts, each its own provider, and a fetcher of k-of-n stripes."""

    def __init__(
        self, directory: Path, ledger: Ledger, *, k: int = 3, n: int = 5, deadline: float = 25
    ) -> None:
        self.k, self.n = k, n
        self.keys = keys_of_test_volume()
        self.objects = [MemoryObjects(f"a{index}") for index in range(n)]
        self.counters = [CountingStore(objects) for objects in self.objects]
        self.faulty = [FaultyStore(store, seed=1) for store in self.counters]
        self.accounts = Accounts(
            [
                Account(AccountId(b"account%d" % i), f"a{i}", "memory", f"p{i}", 0, store, dict)
                for i, store in enumerate(self.faulty)
            ],
            ledger,
        )
        self.staging = Staging(directory / "staging")
        self.damaged: list[tuple[bytes, int]] = []
        self.fetcher = Fetcher(
            self.keys,
            self.accounts,
            self.staging,
            on_damage=lambda sid, index: self.damaged.append((sid, index)),
            deadline_seconds=deadline,
        )

    def store(self, blocks: Sequence[bytes], sid: bytes) -> StripeRow:
        """A stripe that lies in the accounts."""
        sealed = sealed_stripe(self.keys, blocks, sid=sid)
        places = tuple(account.id for account in self.accounts)
        bare = row_of(sealed, k=self.k, n=self.n)
        row = StripeRow(
            bare.sid, bare.k, bare.layout, 0, bare.epoch, bare.sealed_bytes, tuple(places)
        )
        for index, data in fragments_of(self.keys, sealed, k=self.k, n=self.n).items():
            self.objects[index].write(self.name(row, index), data)
        return row

    def name(self, row: StripeRow, index: int) -> str:
        account = AccountId(row.places[index])
        return self.keys.fragment_name(row.epoch, row.sid, index, account)

    def spoil(self, row: StripeRow, index: int) -> None:
        """Every cell of a fragment is wrong from now on."""
        name = self.name(row, index)
        self.objects[index].write(name, bytes(len(self.objects[index].read(name))))

    def break_all(self, kind: FaultKind, indices: Sequence[int], **how: float) -> None:
        for index in indices:
            self.faulty[index].inject(Fault(kind, READS, **how))  # type: ignore[arg-type]

    async def read(self, row: StripeRow, first: int, count: int) -> list[bytes]:
        """The plaintext of some blocks."""
        found: list[bytes] = []

        async def use(blocks: Sequence[Buffer]) -> None:
            found.extend(bytes(block) for block in blocks)

        await self.fetcher.blocks(Run(row, Kind.DATA, first, count), use)
        return found

    @property
    def requests(self) -> int:
        """How many ranges were asked for."""
        return sum(len(store.ranges) for store in self.counters)

    def cell_bytes(self, row: StripeRow, block: int) -> int:
        """A cell and its MAC."""
        return codec.cell_range(row.sealed_bytes, row.k, block)[1]
