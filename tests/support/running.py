"""Real volumes over directories, without a mount: made, filled with all there is, compared."""

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio
from trio.testing import MockClock

from aggfs.assemble import making, opening
from aggfs.assemble.accounts import OpenStore
from aggfs.assemble.world import THIS_WORLD, World
from aggfs.coding import slots
from aggfs.coding.slots import Secret
from aggfs.config import AccountConfig, Config
from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, AccountId, DeviceId, InodeRow, Layout, VolumeId
from aggfs.placement.policy import StorageClass
from aggfs.stores.registry import open_store
from aggfs.threads import without_threads
from tests.support.checking import assert_sound
from tests.support.stripes import content

FLUSH_SECONDS = 60
READ_BYTES = 1 << 20
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Place:
    """A volume of a test: its accounts under `root`, one state directory, its recovery words."""

    root: Path
    config: Config
    state: Path
    words: str

    @property
    def secret(self) -> Secret:
        return slots.recovery_words(self.words)

    @property
    def accounts(self) -> list[AccountConfig]:
        """The accounts as a user types them: nothing is known but where they are."""
        return [replace(one, id=AccountId(bytes(8)), provider="") for one in self.config.accounts]


async def make_volume(
    root: Path,
    *,
    k: int = 2,
    n: int = 3,
    accounts: int | None = None,
    layout: Layout = Layout.CONTIGUOUS,
    compression: str | None = None,
    secrets: tuple[Secret, ...] = (),
    open_store: OpenStore = open_store,
) -> Place:
    """A new volume; every account is a directory, and its own provider. `open_store` may give
    them other stores."""
    settings = []
    for number in range(accounts or n):
        path = root / f"account{number}"
        path.mkdir(parents=True)
        identity = AccountId(os.urandom(8))
        settings.append(
            AccountConfig(identity, f"a{number}", "directory", f"p{number}", path=str(path))
        )
    state = root / "state"
    state.mkdir()
    config = Config(
        name="volume",
        volume=VolumeId(os.urandom(16)),
        device=DeviceId(os.urandom(8)),
        device_name="first",
        classes=(StorageClass(0, "default", k, n, layout, compression),),
        accounts=tuple(settings),
    )
    words = slots.new_recovery_words(os.urandom)
    known = [slots.recovery_words(words), *secrets]
    await making.create_volume(config, str(state), secrets=known, open_store=open_store)
    return Place(root, config, state, words)


@asynccontextmanager
async def running(
    config: Config,
    state: Path,
    *,
    open_store: OpenStore = open_store,
    world: World = THIS_WORLD,
    sound: bool = True,
) -> AsyncIterator[Volume]:
    """The volume, its tasks at work. What it leaves on the disk must be in order in the end, but
    where a test damages it on purpose (`sound=False`).

    Under a mock clock there are no threads: it jumps as soon as no task has anything to do, and a
    thread on a busy machine would see a minute pass during one write.
    """
    if isinstance(trio.lowlevel.current_clock(), MockClock):
        without_threads()
    volume = opening.open_volume(config, str(state), open_store=open_store, world=world)
    async with trio.open_nursery() as nursery:
        await nursery.start(volume.run)
        yield volume
        nursery.cancel_scope.cancel()
    if sound:
        await assert_sound(state)


class Turns:
    """How often another task had its turn."""

    count = 0

    async def take(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1


@asynccontextmanager
async def counted_turns() -> AsyncIterator[Turns]:
    """While the block runs. From then on each step of a long walk is a slice of its own, and there
    are no threads."""
    without_threads()
    turns = Turns()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.take)
        yield turns
        nursery.cancel_scope.cancel()


async def flush(volume: Volume) -> None:
    with trio.fail_after(FLUSH_SECONDS):
        await volume.control("flush", {})


async def write(volume: Volume, row: InodeRow, offset: int, data: bytes) -> None:
    await volume.files.opened(row.number, truncate=False)
    await volume.files.write(row.number, offset, data)
    await volume.files.released(row.number)


async def new_file(volume: Volume, parent: int, name: bytes, data: bytes = b"") -> InodeRow:
    row = volume.namespace.create(parent, name, stat.S_IFREG | 0o640, 1000, 100)
    if data:
        await write(volume, row, 0, data)
    return row


async def read(volume: Volume, name: bytes) -> bytes:
    """A file of the top directory, to its end."""
    row = volume.namespace.lookup(1, name)
    return bytes(await volume.files.read(row.number, 0, row.size + 1))


async def recover(
    place: Place,
    state: Path,
    accounts: Sequence[AccountConfig] = (),
    *,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[Path, Config]:
    """The volume on another machine, from all accounts or these: its state directory and
    configuration there."""
    state.mkdir()
    config = await making.recover_volume(
        accounts or place.accounts,
        str(state),
        secret=place.secret,
        name="volume",
        device_name="second",
        report=report,
    )
    return state, config


# --- a bit of everything --------------------------------------------------------------------------


async def fill(volume: Volume) -> None:
    """Files of every kind and size, flushed; edited and flushed again."""
    names = volume.namespace
    directory = names.create(1, b"directory", stat.S_IFDIR | 0o750, 7, 8)
    await _fill_sizes(volume, directory.number)
    _fill_others(volume, directory.number)
    await flush(volume)
    await _edit(volume, directory.number)
    await flush(volume)


async def _fill_sizes(volume: Volume, parent: int) -> None:
    sizes = (0, 1, 1024, 1025, 5000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3_000_000)
    for size in sizes:
        await new_file(volume, parent, b"size%d" % size, content(size, size))
    await new_file(volume, parent, b"text", b"compressible " * 40_000)
    sparse = await new_file(volume, parent, b"sparse")
    await write(volume, sparse, 3 * BLOCK_BYTES + 100, content(700, 1))
    await write(volume, sparse, 9 * BLOCK_BYTES, content(2 * BLOCK_BYTES, 2))
    await volume.files.truncate(sparse.number, 20 * BLOCK_BYTES + 5)
    empty = await new_file(volume, parent, b"gap only")
    await volume.files.truncate(empty.number, 5 * BLOCK_BYTES)


def _fill_others(volume: Volume, parent: int) -> None:
    names = volume.namespace
    names.create(parent, b"link", stat.S_IFLNK | 0o777, 1, 2, target=b"size1024")
    names.create(parent, b"pipe", stat.S_IFIFO | 0o600, 1, 2)
    names.create(parent, b"null", stat.S_IFCHR | 0o666, 0, 0, rdev=os.makedev(1, 3))
    names.create(1, b"\xff\xfe not UTF-8", stat.S_IFDIR | 0o700, 1, 2)
    linked = names.lookup(parent, b"size5000")
    names.link(linked.number, 1, b"other name")
    names.set_xattr(linked.number, b"user.colour", b"blue\0\xff")
    names.set_xattr(linked.number, b"user.gone", b"x")
    names.remove_xattr(linked.number, b"user.gone")
    deep = parent
    for level in range(5):
        deep = names.create(deep, b"level%d" % level, stat.S_IFDIR | 0o755, 1, 1).number
    names.create(deep, b"bottom", stat.S_IFREG | 0o600, 1, 1)


async def _edit(volume: Volume, parent: int) -> None:
    names, files = volume.namespace, volume.files
    big = names.lookup(parent, b"size3000000")
    await write(volume, big, 5 * BLOCK_BYTES + 10, content(100, 5))
    await files.truncate(names.lookup(parent, b"size%d" % BLOCK_BYTES).number, 1500)
    shrunk = names.lookup(parent, b"size%d" % (BLOCK_BYTES + 1))
    await files.truncate(shrunk.number, BLOCK_BYTES - 77)
    await flush(volume)
    await files.truncate(shrunk.number, 4 * BLOCK_BYTES)
    small = names.lookup(parent, b"size1024")
    await write(volume, small, 1000, content(5000, 6))
    await new_file(volume, parent, b".new", content(2000, 7))
    names.rename(parent, b".new", parent, b"size1025", wait_for_content=True)
    names.rename(parent, b"level0", 1, b"moved", wait_for_content=False)
    names.exchange(parent, b"size0", parent, b"size1")
    names.unlink(parent, b"text")
    await new_file(volume, parent, b"doomed", content(300_000, 8))
    await flush(volume)
    names.unlink(parent, b"doomed")
    pipe = names.lookup(parent, b"pipe")
    names.set_attributes(pipe.number, mode=0o644, uid=3, mtime_ns=1_234_567_890_123_456_789)
    names.set_attributes(parent, atime_ns=5 * SECOND, mtime_ns=1_000_000_007 * SECOND + 7)


# --- comparing ------------------------------------------------------------------------------------

Dump = dict[bytes, tuple[object, ...]]


async def dump(volume: Volume) -> Dump:
    """Everything that a user sees of a tree, by path. Hard links share an inode id."""
    found: Dump = {}
    for path, row in _walk(volume, b"/", volume.namespace.by_number(1)):
        kind = stat.S_IFMT(row.mode)
        names = volume.namespace
        xattrs = {name: names.get_xattr(row.number, name) for name in names.list_xattrs(row.number)}
        digest = await _digest(volume, row) if kind == stat.S_IFREG else row.target
        found[path] = (
            *(row.inode, row.mode, row.uid, row.gid, row.rdev, row.size, row.nlink),
            *(row.atime_ns, row.mtime_ns, row.ctime_ns),
            xattrs,
            digest,
        )
    return found


def _walk(volume: Volume, path: bytes, row: InodeRow) -> Iterator[tuple[bytes, InodeRow]]:
    yield path, row
    if stat.S_ISDIR(row.mode):
        for name, child, _ in volume.namespace.readdir(row.number, 2):
            yield from _walk(volume, path.rstrip(b"/") + b"/" + name, child)


async def recovered_dump(place: Place, state: Path, accounts: Sequence[AccountConfig] = ()) -> Dump:
    """What another machine finds in the accounts."""
    state, config = await recover(place, state, accounts)
    async with running(config, state) as volume:
        return await dump(volume)


async def _digest(volume: Volume, row: InodeRow) -> bytes:
    digest = hashlib.sha256()
    for offset in range(0, row.size, READ_BYTES):
        digest.update(await volume.files.read(row.number, offset, READ_BYTES))
    return digest.digest()


async def checkpoint(volume: Volume, place: Place) -> int:
    """Make a checkpoint, and delete the segments that it makes superfluous; how many went."""
    await flush(volume)
    await volume.control("checkpoint", {})
    await flush(volume)
    keys, state = volume.parts.keys, volume.parts.publisher.state
    device = volume.parts.checkpointer.device
    gone = 0
    for chain, end in enumerate((state.control.sequence, state.namespace.sequence)):
        for sequence in range(1, end + 1):
            for account in place.config.accounts:
                name = keys.segment_name(1, device, chain, sequence, account.id)
                path = Path(account.path) / name
                gone += path.exists()
                path.unlink(missing_ok=True)
    return gone
