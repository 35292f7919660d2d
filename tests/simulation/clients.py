"""Programs that use the volume: each has files of its own, and does one thing after the other.

What a program does is told to the oracle before it is begun and when it is done; each read is
compared. The daemon may be gone at any await.
"""

import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError, Busy, NoSpace, StoreError, TooFewFragments
from aggfs.model import BLOCK_BYTES
from tests.simulation.chance import Chance
from tests.simulation.checks import Ground
from tests.simulation.clouds import Wrong
from tests.simulation.oracle import File, Oracle

NAMES_EACH = 4
READ_SECONDS = 30.0
FLUSH_SECONDS = 90.0
PIECE_BYTES = 100_000
REFUSALS = (NoSpace, TooFewFragments, StoreError, Busy)
SIZES = (1, 17, 900, 1024, 1025, 4096, 9000, 20_000, 70_000, BLOCK_BYTES - 1, BLOCK_BYTES + 1)

Place = tuple[str, bytes]


@dataclass
class Client:
    """One program."""

    label: str
    volume: Volume
    directories: dict[str, int]
    oracle: Oracle
    ground: Ground
    chance: Chance
    pause_seconds: float
    note: Callable[..., None]
    refused: int = 0
    done: int = 0

    async def run(self) -> None:
        """For ever."""
        deeds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self.write, 20),
            (self.append, 8),
            (self.read, 20),
            (self.replace, 8),
            (self.truncate, 6),
            (self.empty, 4),
            (self.rename, 5),
            (self.unlink, 4),
            (self.fsync, 14),
            (self.flush, 5),
            (self.evict, 12),
            (self.collect, 2),
            (self.scrub, 1),
        ]
        while True:
            [deed] = self.chance.choices([one for one, _ in deeds], [often for _, often in deeds])
            try:
                await deed()
                self.done += 1
            except REFUSALS as error:
                self.note(self.label, "refused:", type(error).__name__)
                self.refused += 1
            if self.chance.once_in(2):
                await trio.sleep(self.chance.random())
            else:
                await trio.sleep(self.chance.expovariate(0.5 / self.pause_seconds))

    # --- which --------------------------------------------------------------------------------

    def _places(self) -> Sequence[Place]:
        return [
            (directory, b"%s-%d" % (self.label.encode(), number))
            for directory in self.directories
            for number in range(NAMES_EACH // 2)
        ]

    def _mine(self) -> list[Place]:
        return [place for place in self._places() if place in self.oracle.names]

    def _file(self, place: Place) -> File:
        return self.oracle.files[self.oracle.names[place]]

    def _some(self) -> tuple[Place, File]:
        """A file, made if there is none yet."""
        place = self.chance.choice(self._places())
        if place not in self.oracle.names:
            self._create(place)
        return place, self._file(place)

    def _create(self, place: Place) -> File:
        directory, name = place
        parent = self.directories[directory]
        row = self.volume.namespace.create(parent, name, stat.S_IFREG | 0o644, 0, 0)
        self.oracle.names[place] = row.inode
        self.note(self.label, "creates", place, row.inode.hex()[:6])
        self.oracle.names_changed()
        return self.oracle.created(row.inode, row.number)

    def _data(self) -> bytes:
        size = self.chance.choice(SIZES)
        if self.chance.once_in(12):
            size = self.chance.randrange(4 * BLOCK_BYTES)
        data = self.chance.randbytes(min(size, 4096))
        return (data * (size // len(data) + 1))[:size] if size else b""

    # --- contents -----------------------------------------------------------------------------

    async def write(self) -> None:
        _, file = self._some()
        end = len(file.known.now)
        await self._write(file, self.chance.randrange(end + 1) if end else 0, self._data())

    async def append(self) -> None:
        _, file = self._some()
        beyond = self.chance.choice((0, 0, 0, 5000, BLOCK_BYTES + 100))
        await self._write(file, len(file.known.now) + beyond, self._data())

    async def _write(self, file: File, offset: int, data: bytes) -> None:
        if offset + len(data) > 8 * BLOCK_BYTES:
            return
        files = self.volume.files
        await files.opened(file.number, truncate=False)
        try:
            for at in range(0, len(data), PIECE_BYTES):
                piece = data[at : at + PIECE_BYTES]
                after = self.oracle.may_write(file, offset + at, piece)
                self.note(self.label, "writes", _told(file), offset + at, len(piece))
                await files.write(file.number, offset + at, piece)
                self.oracle.is_now(file, after)
        finally:
            await files.released(file.number)

    async def truncate(self) -> None:
        _, file = self._some()
        size = self.chance.choice((*SIZES, len(file.known.now) // 2))
        self.note(self.label, "truncates", _told(file), size)
        after = self.oracle.may_truncate(file, size)
        await self.volume.files.truncate(file.number, size)
        self.oracle.is_now(file, after)

    async def empty(self) -> None:
        """O_TRUNC, and something new."""
        _, file = self._some()
        self.note(self.label, "empties", _told(file))
        after = self.oracle.may_truncate(file, 0)
        await self.volume.files.opened(file.number, truncate=True)
        try:
            self.oracle.is_now(file, after)
            data = self._data()
            after = self.oracle.may_write(file, 0, data)
            await self.volume.files.write(file.number, 0, data)
            self.oracle.is_now(file, after)
        finally:
            await self.volume.files.released(file.number)

    async def read(self) -> None:
        mine = self._mine()
        if mine:
            place = self.chance.choice(mine)
            length = len(self._file(place).known.now)
            start = self.chance.randrange(length) if length and self.chance.once_in(2) else 0
            await self.compare(place, start, self.chance.choice((1, 5000, 1 << 20)))

    async def compare(self, place: Place, start: int, length: int) -> None:
        """Read, and compare. An error is right only where too few clouds are well."""
        file = self._file(place)
        expected = file.known.now[start : start + length]
        began = trio.current_time()
        try:
            with trio.fail_after(READ_SECONDS):
                found = bytes(await self.volume.files.read(file.number, start, length))
        except AggfsError as error:
            if self.ground.can_be_read(self.volume, file.inode, since=began):
                raise Wrong(f"{place} cannot be read, and could be: {error}") from error
            raise
        except trio.TooSlowError:
            raise Wrong(f"a read of {place} did not end in {READ_SECONDS} s") from None
        if found != expected:
            raise Wrong(f"wrong bytes in {place} ({file.inode.hex()[:6]}) from {start} on")

    # --- names --------------------------------------------------------------------------------

    async def replace(self) -> None:
        """Write a new file, and rename it over an old one."""
        spare = ("d0", b"%s-new" % self.label.encode())
        file = self._file(spare) if spare in self.oracle.names else self._create(spare)
        await self._write(file, 0, self._data())
        if self.chance.once_in(2):
            await self._fsync(file)
        self._rename(spare, self.chance.choice(self._places()))

    async def rename(self) -> None:
        mine = self._mine()
        if mine:
            self._rename(self.chance.choice(mine), self.chance.choice(self._places()))
        await trio.lowlevel.checkpoint()

    def _rename(self, old: Place, new: Place) -> None:
        """As the mount does it, see `aggfs.mount.names`."""
        if old == new:
            return
        names, files, oracle = self.volume.namespace, self.volume.files, self.oracle
        moved = self._file(old)
        replaced = names.rename(
            *self._at(old), *self._at(new), wait_for_content=files.is_dirty(moved.number)
        )
        self.note(self.label, "renames", _told(moved), old, new)
        oracle.names[new] = oracle.names.pop(old)
        oracle.names_changed()
        if replaced is not None:
            if files.is_dirty(moved.number):
                files.sync_before_commit(moved.number)
            oracle.replaces(moved)
            names.drop_unlinked(replaced.number)

    def _at(self, place: Place) -> tuple[int, bytes]:
        return self.directories[place[0]], place[1]

    async def unlink(self) -> None:
        mine = self._mine()
        if mine:
            place = self.chance.choice(mine)
            row = self.volume.namespace.unlink(*self._at(place))
            self.note(self.label, "unlinks", place, row.inode.hex()[:6])
            del self.oracle.names[place]
            self.oracle.names_changed()
            self.volume.namespace.drop_unlinked(row.number)
        await trio.lowlevel.checkpoint()

    # --- making sure --------------------------------------------------------------------------

    async def fsync(self) -> None:
        mine = self._mine()
        if mine:
            await self._fsync(self._file(self.chance.choice(mine)))

    async def _fsync(self, file: File) -> None:
        state = self.oracle.state_number
        await self.volume.files.fsync(file.number)
        self.note(self.label, "has synced", _told(file))
        self.oracle.is_sure(file)
        self.oracle.names_are_sure(state)

    async def flush(self) -> None:
        """Bring everything into the accounts; what is mine is there then."""
        state = self.oracle.state_number
        with trio.move_on_after(FLUSH_SECONDS) as scope:
            await self.volume.control("flush", {})
        if scope.cancelled_caught:
            return
        self.note(self.label, "has flushed")
        self.oracle.names_are_sure(state)
        for place in self._mine():
            file = self._file(place)
            self.oracle.is_sure(file)
            self.oracle.is_stored(file)

    async def collect(self) -> None:
        """What nothing refers to may go."""
        self.note(self.label, "collects")
        await self.volume.control("gc", {})

    async def scrub(self) -> None:
        """What is missing in the accounts is made again."""
        self.note(self.label, "scrubs")
        await self.volume.control("scrub", {"repair": True})

    async def evict(self) -> None:
        """What is in the accounts need not be here."""
        self.note(self.label, "evicts")
        if self.chance.once_in(3):
            await self.volume.control("evict", {})
        elif self._mine():
            directory, name = self.chance.choice(self._mine())
            await self.volume.control("evict", {"path": f"/{directory}/{name.decode()}"})


def _told(file: File) -> str:
    return f"{file.inode.hex()[:6]} ({len(file.known.now)} bytes)"
