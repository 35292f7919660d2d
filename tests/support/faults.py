"""Volumes over accounts in memory that misbehave: the real engine, no threads, no real time.

Use it under trio's mock clock. What an account holds outlives the volume that is open over it, as
do its faults: a volume can be stopped and opened again in the middle of an outage.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path

import trio

from aggfs.config import AccountConfig, Size
from aggfs.engine.volume import Volume
from aggfs.model import InodeRow, Layout
from aggfs.stores.base import Store
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.threads import without_threads
from tests.support.running import Place, make_volume, running
from tests.support.stripes import content

Contents = Mapping[str, Mapping[str, bytes]]

READ_SECONDS = 30.0  # what a reader may have to wait, for bytes or for an error
FLUSH_SECONDS = 60.0
FULL_SECONDS = 600.0
FILE_BYTES = 700_000
ALL = 1 << 30

DOWN = Fault(FaultKind.DOWN)
HUNG = Fault(FaultKind.HANG)
SLOW = Fault(FaultKind.SLOW, seconds=4.0, jitter_seconds=2.0)
STUCK = Fault(FaultKind.SLOW, seconds=300.0)  # slower than anybody may wait
CORRUPT = Fault(FaultKind.BITFLIP)
ROLLED_BACK = Fault(FaultKind.STALE)


class RecordingStore(FaultyStore):
    """Remembers every object that was asked for, in the order of asking."""

    def __init__(self, store: Store, *, seed: int, asked: list[str]) -> None:
        super().__init__(store, seed=seed)
        self._asked = asked

    async def get(self, key: str) -> bytes:
        self._asked.append(key)
        return await super().get(key)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        self._asked.append(key)
        return await super().get_range(key, start, length)


class Clouds:
    """The accounts of one volume, by name: what lies there, and the faults before it. `asked` are
    the keys of objects that were read, in order."""

    def __init__(self, names: Iterable[str]) -> None:
        self.asked: list[str] = []
        self.objects = {name: MemoryObjects(name) for name in names}
        self.stores = {
            name: RecordingStore(MemoryStore(objects), seed=number, asked=self.asked)
            for number, (name, objects) in enumerate(self.objects.items())
        }

    def open_store(self, settings: AccountConfig) -> Store:
        """The account's store: the same each time."""
        return self.stores[settings.name]

    @contextmanager
    def failing(self, names: Collection[str], fault: Fault) -> Iterator[None]:
        """While the block runs, these accounts misbehave."""
        for name in names:
            self.stores[name].inject(fault)
        try:
            yield
        finally:
            for name in names:
                self.stores[name].heal()

    def contents(self) -> Contents:
        """Everything that lies in each account."""
        return {
            name: {key: objects.read(key) for key in objects.keys("", "", ALL)}
            for name, objects in self.objects.items()
        }

    def roll_back(self, names: Collection[str], former: Contents) -> None:
        """These accounts go on from what they had: their operator has brought back a backup."""
        for name in names:
            objects = self.objects[name]
            for key in list(objects.keys("", "", ALL)):
                objects.remove(key)
            for key, data in former[name].items():
                objects.write(key, data)

    @contextmanager
    def rolled_back(self, names: Collection[str], former: Contents) -> Iterator[None]:
        """The same while the block runs; in the end, what is missing comes back as well."""
        latest = self.contents()
        self.roll_back(names, former)
        try:
            yield
        finally:
            for name in names:
                for key, data in latest[name].items():
                    if key not in self.objects[name]:
                        self.objects[name].write(key, data)


class Ground:
    """A volume of k of n, or of k in so many copies, over such accounts."""

    def __init__(self, place: Place, clouds: Clouds, k: int, n: int, layout: Layout) -> None:
        self.place = place
        self.clouds = clouds
        self.k, self.n = k, n
        self.in_copies = layout.in_copies
        self.may_fail = n // k - 1 if self.in_copies else n - k
        self.files: dict[bytes, bytes] = {}

    @property
    def names(self) -> list[str]:
        """The accounts."""
        return list(self.clouds.stores)

    def subsets(self, *sizes: int) -> list[tuple[str, ...]]:
        """All choices of so many accounts."""
        return list(chain.from_iterable(combinations(self.names, size) for size in sizes))

    def survivable(self) -> list[tuple[str, ...]]:
        """All choices of accounts that may fail together, at least one."""
        return self.subsets(*range(1, self.may_fail + 1))

    def fatal(self, volume: Volume, row: InodeRow, names: tuple[str, ...]) -> tuple[str, ...]:
        """So many accounts that a file of one stripe cannot be read without them: in code these;
        in copies all that have what the first of these has."""
        if not self.in_copies:
            return names
        (sid,) = volume.sids_of(volume.namespace.by_number(row.number))
        fragments = self.fragments(volume)
        held = {
            account: index % self.k for (of, index), (account, _) in fragments.items() if of == sid
        }
        return tuple(account for account in held if held[account] == held[names[0]])

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Volume]:
        """The volume at work."""
        config, state = self.place.config, self.place.state
        async with running(config, state, open_store=self.clouds.open_store) as volume:
            yield volume

    async def write_file(
        self, volume: Volume, name: bytes, size_bytes: int = FILE_BYTES
    ) -> InodeRow:
        """A new file, known here; not in the accounts yet."""
        data = content(size_bytes, len(self.files))
        row = volume.namespace.create(1, name, 0o100640, 0, 0)
        await volume.files.opened(row.number, truncate=False)
        await volume.files.write(row.number, 0, data)
        await volume.files.released(row.number)
        await volume.files.fsync(row.number)
        self.files[name] = data
        return volume.namespace.by_number(row.number)

    def fragments(self, volume: Volume) -> dict[tuple[bytes, int], tuple[str, str]]:
        """(stripe, index) -> (account, key) of every fragment that is in place."""
        found, keys = {}, volume.parts.keys
        for state in volume.parts.blocks.stripes():
            row = state.row
            for index, place in enumerate(row.places):
                account = volume.parts.accounts.get(place)
                if account is not None and state.confirmed >> index & 1:
                    key = keys.fragment_name(row.epoch, row.sid, index, account.id)
                    found[row.sid, index] = (account.name, key)
        return found

    def keys_of(self, volume: Volume, row: InodeRow) -> set[str]:
        """The keys of all fragments that hold a file."""
        wanted = set(volume.sids_of(volume.namespace.by_number(row.number)))
        return {key for (sid, _), (_, key) in self.fragments(volume).items() if sid in wanted}

    def read_object(self, account: str, key: str) -> bytes | None:
        """What lies there, None where nothing does."""
        objects = self.clouds.objects[account]
        return objects.read(key) if key in objects else None

    async def until_there(self, objects: Mapping[tuple[str, str], bytes | None]) -> None:
        """Each of these, (account, key), comes to be what it should be."""
        with trio.fail_after(FULL_SECONDS):
            while any(  # noqa: ASYNC110 - as a user looks
                self.read_object(*place) != data for place, data in objects.items()
            ):
                await trio.sleep(1)

    async def assert_reads(self, volume: Volume, names: Iterable[bytes] = ()) -> None:
        """These files (all) read as they were written, each within the reader's deadline."""
        for name in names or self.files:
            row = volume.namespace.lookup(1, name)
            with trio.fail_after(READ_SECONDS):
                data = await volume.files.read(row.number, 0, row.size)
            assert bytes(data) == self.files[name]

    async def assert_reads_cold(self, volume: Volume) -> None:
        """As `assert_reads`, of all files, from the accounts."""
        await volume.control("evict", {})
        await self.assert_reads(volume)


async def new_ground(
    root: Path,
    k: int,
    n: int,
    *,
    layout: Layout = Layout.CONTIGUOUS,
    accounts: int | None = None,
    quota_bytes: int = 0,
) -> Ground:
    """A new volume over n accounts, or more. From now on this trio run has no threads."""
    without_threads()
    count = accounts or n
    clouds = Clouds(f"a{number}" for number in range(count))
    place = await make_volume(
        root, k=k, n=n, layout=layout, accounts=count, open_store=clouds.open_store
    )
    declared = tuple(replace(one, quota_bytes=Size(quota_bytes)) for one in place.config.accounts)
    place = replace(place, config=replace(place.config, accounts=declared))
    return Ground(place, clouds, k, n, layout)


async def flushed(volume: Volume) -> None:
    """Everything is stored and published, in reasonable time."""
    with trio.fail_after(FLUSH_SECONDS):
        await volume.control("flush", {})


async def until_full(volume: Volume) -> None:
    """Every stripe and segment comes to be in all its accounts by itself."""
    with trio.fail_after(FULL_SECONDS):
        while volume.parts.blocks.unfinished() or volume.parts.publisher.pending():  # noqa: ASYNC110
            await trio.sleep(1)
