"""One simulated device and its clouds, for hours: programs, bad weather, deaths, recoveries.

`simulate` plays one seed. The volume is the real one, made by `aggfs.assemble` within the real
wrappers; only its stores, its clock and its chance are ours. It dies at any moment (the process,
or the power), is stopped cleanly, and now and then everything becomes quiet: then all must become
full, and be found by a new device in the accounts alone.
"""

import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from aggfs.assemble import making, opening
from aggfs.coding import slots
from aggfs.config import AccountConfig, Config, HistoryConfig, MountConfig, Size
from aggfs.engine.volume import Volume
from aggfs.errors import AggfsError
from aggfs.model import AccountId, DeviceId, Layout, VolumeId
from aggfs.placement.policy import StorageClass
from aggfs.stores.faulty import FaultKind
from tests.simulation import chance as chances
from tests.simulation.chance import DAY_NS, Chance, WallClock
from tests.simulation.checks import Ground
from tests.simulation.clients import Client
from tests.simulation.clouds import Cloud, Line, Trace, Wrong, copy_of
from tests.simulation.disk import Disk, parent_of_temporary_directories
from tests.simulation.oracle import Names, Oracle
from tests.simulation.weather import Weather

SHAPES = (  # k, n, the provider of each account
    (2, 3, "abc"),
    (2, 3, "abcd"),
    (3, 5, "abcde"),
    (2, 3, "aabc"),
    (2, 4, "abcd"),
)
SHAPES_IN_COPIES = (
    (2, 4, "abcd"),
    (2, 4, "abcde"),
    (3, 6, "abcdef"),
    (2, 6, "abcdef"),
)
FIRST_IN_COPIES = 1000  # seeds from here on: fragments that are copies
ENDS = ("kill", "kill", "power", "power", "stop")
QUIET_ONCE_IN = 6.0
LIFE_SECONDS = 400.0  # on average
MOMENT_SECONDS = 3.0
CHECK_SECONDS = 45.0
TRUCE_SECONDS = 300.0
QUIET_SECONDS = 3600.0
PAUSE_SECONDS = 30.0  # of a client, on average
DIRECTORIES = ("d0", "d1")


@dataclass(frozen=True)
class Report:
    """What one seed came to."""

    seed: int
    hours: float
    faults: Mapping[FaultKind, int]
    ends: Mapping[str, int]
    requests: int
    done: int
    refused: int
    recoveries: int
    digest: str


@dataclass
class Simulation:
    """One seed under way."""

    seed: int
    root: Path
    disk: Disk
    trace: Trace = field(default_factory=Trace)
    wall: WallClock = field(default_factory=WallClock)
    oracle: Oracle = field(default_factory=Oracle)
    ends: Counter[str] = field(default_factory=Counter)
    done: int = 0
    refused: int = 0
    recoveries: int = 0
    lives: int = 0
    durable: bool = True  # what the last end left would survive a loss of power

    def __post_init__(self) -> None:
        self.chance = Chance(self.seed, "life")
        in_copies = self.seed >= FIRST_IN_COPIES
        shapes = SHAPES_IN_COPIES if in_copies else SHAPES
        self.k, self.n, providers = shapes[self.seed % len(shapes)]
        self.layout = Layout.CONTIGUOUS_COPIES if in_copies else Layout.CONTIGUOUS
        self.survivable = self.n // self.k - 1 if in_copies else self.n - self.k
        self.world = chances.new_world(self.seed, "device", self.wall)
        clouds = [
            Cloud(f"a{number}", provider, self.trace, Chance(self.seed, f"cloud {number}"))
            for number, provider in enumerate(providers)
        ]
        self.ground = Ground({AccountId(self.chance.randbytes(8)): one for one in clouds})
        self.clouds = clouds
        for cloud in clouds:
            cloud.fixed = self.ground.fragments
        self.lines: list[Line] = []
        self.weather = Weather(
            clouds, self.survivable, self.ground.fragments, Chance(self.seed, "weather")
        )
        self.state = self.root / "state0"

    async def play(self, hours: float) -> Report:
        """All of it. Raises `Wrong`."""
        await self._make()
        async with trio.open_nursery() as sky:
            for cloud in self.clouds:
                sky.start_soon(cloud.deliver_late)
            until = self.began + hours * 3600
            while trio.current_time() < until:
                async with trio.open_nursery() as weather:
                    weather.start_soon(self.weather.run)
                    while trio.current_time() < until:
                        await self._live(self.chance.choice(ENDS))
                        if self.chance.once_in(QUIET_ONCE_IN):
                            break
                    weather.cancel_scope.cancel()
                await self._live("quiet")
            sky.cancel_scope.cancel()
        return Report(
            self.seed,
            (trio.current_time() - self.began) / 3600,
            {kind: sum(one.faulty.hits[kind] for one in self.clouds) for kind in FaultKind},
            self.ends,
            self.trace.requests,
            self.done,
            self.refused,
            self.recoveries,
            self.trace.hexdigest(),
        )

    # --- the volume ---------------------------------------------------------------------------

    def _open_store(self, settings: AccountConfig) -> Line:
        line = Line(self.ground.clouds[settings.id], self.trace)
        self.lines.append(line)
        return line

    async def _make(self) -> None:
        self.began = trio.current_time()
        chance = self.chance
        mount = MountConfig(
            staging_limit_bytes=Size(chance.choice((24 << 20, 8 << 30))),
            minimum_free_bytes=Size(0),
            collect_after_seconds=chance.choice((60, 600)),
        )
        history = chance.choice((HistoryConfig(), HistoryConfig(0, 0, 0, 0)))
        self.config = Config(
            name="volume",
            volume=VolumeId(chance.randbytes(16)),
            device=DeviceId(chance.randbytes(8)),
            device_name="first",
            classes=(StorageClass(0, "default", self.k, self.n, self.layout),),
            accounts=tuple(
                AccountConfig(account, cloud.name, "memory", cloud.provider)
                for account, cloud in self.ground.clouds.items()
            ),
            mount=mount,
            history=history,
        )
        self.secret = slots.recovery_words(slots.new_recovery_words(chance.randbytes))
        self.state.mkdir()
        await making.create_volume(
            self.config,
            str(self.state),
            secrets=[self.secret],
            open_store=self._open_store,
            world=self.world,
        )
        async with self._running() as volume:
            for name in DIRECTORIES:
                volume.namespace.create(1, name.encode(), 0o040755, 0, 0)
            await volume.control("flush", {})

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Volume]:
        self.disk.note_all(self.state) if not self.lives else None
        self.lives += 1
        volume = opening.open_volume(
            self.config, str(self.state), open_store=self._open_store, world=self.world
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(volume.run)
            yield volume
            nursery.cancel_scope.cancel()

    # --- a life -------------------------------------------------------------------------------

    async def _live(self, end: str) -> None:
        """From an opening of the volume to its end."""
        if self.chance.once_in(10):
            self.wall.skew_ns = self.chance.choice((0, -DAY_NS, DAY_NS))
        seconds = self.chance.expovariate(1 / LIFE_SECONDS)
        next_state = self.state
        self.trace.note("life", self.lives, "until", end)
        async with self._running() as volume, trio.open_nursery() as life:
            if end == "quiet":
                await self._be_quiet(volume)
            else:
                life.start_soon(self._use, volume)
                await trio.sleep(seconds)
                await self._wait_for_a_moment()
            if end in ("kill", "power"):
                next_state = self._left(end)
            life.cancel_scope.cancel()
        self._end(end, next_state)

    async def _wait_for_a_moment(self) -> None:
        """Ends come at any time, and often just after something was promised."""
        if self.chance.once_in(2):
            with trio.move_on_after(LIFE_SECONDS):
                await self.oracle.synced.wait()
            await trio.sleep(self.chance.random() * MOMENT_SECONDS)

    def _left(self, end: str) -> Path:
        """What a crash at this instant leaves, and nobody hears of the daemon any more."""
        for line in self.lines:
            line.is_cut = True
        target = self.root / f"state{self.lives}"
        if end == "kill":
            self.disk.copy_after_death(self.state, target)
        else:
            self.disk.copy_after_power_loss(self.state, target, self.chance)
        return target

    def _end(self, end: str, next_state: Path) -> None:
        self.ends[end] += 1
        self.lines.clear()
        self.durable = end != "kill"
        if next_state != self.state:
            self.disk.forget(self.state)
            shutil.rmtree(self.state)
            self.state = next_state

    async def _use(self, volume: Volume) -> None:
        """Look at what there is, then let programs at it."""
        await self._adopt(volume)
        clients: list[Client] = []
        try:
            async with trio.open_nursery() as nursery:
                for label in ("x", "y", "z"):
                    client = Client(
                        label,
                        volume,
                        self._directories(volume),
                        self.oracle,
                        self.ground,
                        self.chance,
                        PAUSE_SECONDS,
                        self.trace.note,
                    )
                    clients.append(client)
                    nursery.start_soon(client.run)
                await self._watch(volume)
        finally:
            self.done += sum(client.done for client in clients)
            self.refused += sum(client.refused for client in clients)

    async def _watch(self, volume: Volume) -> None:
        while True:
            self.ground.check(volume)
            if self.chance.once_in(30) and not any(cloud.lost for cloud in self.clouds):
                await self._recover(quiet=False)
            await trio.sleep(self.chance.expovariate(1 / CHECK_SECONDS))

    # --- looking ------------------------------------------------------------------------------

    @staticmethod
    def _directories(volume: Volume) -> dict[str, int]:
        return {name: volume.namespace.lookup(1, name.encode()).number for name in DIRECTORIES}

    async def _adopt(self, volume: Volume) -> None:
        """After any end: what is there must be what may be there."""
        self.ground.check(volume)
        for cloud in self.clouds:
            cloud.truce = True
        try:
            names, contents = await self._all(volume)
        finally:
            for cloud in self.clouds:
                cloud.truce = False
        self.oracle.adopt(names, contents, durable=self.durable)
        for inode in contents:
            self.oracle.files[inode].number = volume.namespace.by_inode(inode).number

    async def _all(self, volume: Volume) -> tuple[Names, dict[bytes, bytes]]:
        """All names and contents."""
        names: Names = {}
        contents: dict[bytes, bytes] = {}
        for directory, number in self._directories(volume).items():
            for name, row, _ in volume.namespace.readdir(number, 2):
                names[directory, name] = row.inode
        for place, inode in names.items():
            with trio.move_on_after(TRUCE_SECONDS):
                while inode not in contents:
                    number = volume.namespace.by_inode(inode).number
                    try:
                        contents[inode] = bytes(await volume.files.read(number, 0, 1 << 30))
                    except AggfsError as error:
                        self.trace.note(place, error)
                        await trio.sleep(2)
            if inode not in contents:
                raise Wrong(f"{place} cannot be read though nothing is in its way")
        return names, contents

    # --- quiet --------------------------------------------------------------------------------

    async def _be_quiet(self, volume: Volume) -> None:
        """All is well, and nobody changes anything: everything must become full."""
        await self._adopt(volume)
        with trio.move_on_after(QUIET_SECONDS) as scope:
            while True:
                await volume.control("scrub", {"repair": True})
                await volume.control("flush", {})
                if await self._is_full(volume):
                    break
                await trio.sleep(5)
        if scope.cancelled_caught:
            lost = {cloud.name: len(cloud.lost) for cloud in self.clouds}
            raise Wrong(f"not all becomes full: {lost} {await volume.control('status', {})}")
        self.ground.check(volume)
        await self._judge_itself(volume)
        await volume.control("evict", {})
        self.oracle.check_same(*await self._all(volume))
        for inode in self.oracle.names.values():
            self.oracle.is_stored(self.oracle.files[inode])
        await self._recover(quiet=True)

    @staticmethod
    async def _judge_itself(volume: Volume) -> None:
        """What the volume says of itself when nothing is wrong."""
        scrubbed = await volume.control("scrub", {"full": True})
        if scrubbed["faults"]:
            raise Wrong(f"a scrub finds faults: {scrubbed}")
        audit = await volume.control("audit-no-complete-copy", {})
        if audit["complete"]:
            raise Wrong(f"the audit finds complete copies: {audit}")
        await volume.control("gc", {})

    async def _is_full(self, volume: Volume) -> bool:
        status = await volume.control("status", {})
        waiting = ("outbox_entries", "segments_pending", "under_replicated", "dirty_bytes")
        return not any(status[what] for what in waiting) and not any(
            cloud.lost for cloud in self.clouds
        )

    # --- another device -----------------------------------------------------------------------

    async def _recover(self, *, quiet: bool) -> None:
        """A new device on copies of the clouds. As many as may fail show old heads, or are away:
        that only when all is full."""
        number = self.recoveries
        self.recoveries += 1
        copies = {cloud.name: copy_of(cloud, self.seed) for cloud in self.clouds}
        bad = {cloud.provider for cloud in self.clouds if cloud.lost}
        good = sorted({cloud.provider for cloud in self.clouds} - bad)
        failing = self.chance.sample(good, max(0, self.survivable - len(bad)))
        given = []
        for settings in self.config.accounts:
            away = settings.provider in failing
            if away and (not quiet or self.chance.once_in(2)):
                for key, data in self._cloud(settings.name).former.items():
                    copies[settings.name].objects.write(key, data)
            elif away:
                continue
            given.append(replace(settings, id=AccountId(bytes(8)), provider=""))
        state = self.root / f"second{number}"
        state.mkdir()
        opens = {name: Line(copy, Trace()) for name, copy in copies.items()}
        world = chances.new_world(self.seed, f"second {number}", self.wall)
        config = await making.recover_volume(
            given,
            str(state),
            secret=self.secret,
            name="volume",
            device_name=f"second{number}",
            report=lambda text: None,
            open_store=lambda settings: opens[settings.name],
            world=world,
        )
        second = opening.open_volume(
            config, str(state), open_store=lambda settings: opens[settings.name], world=world
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(second.run)
            names, contents = await self._all(second)
            nursery.cancel_scope.cancel()
        self.disk.forget(state)
        shutil.rmtree(state)
        self.oracle.check_published(names, contents)
        if quiet:
            self.oracle.check_same(names, contents)

    def _cloud(self, name: str) -> Cloud:
        return next(cloud for cloud in self.clouds if cloud.name == name)


@dataclass(frozen=True)
class Failed:
    """A seed that showed something that never may be, or ended in an error; and what was asked
    of the clouds before that."""

    seed: int
    why: str
    lines: tuple[str, ...]


def simulate(seed: int, *, hours: float) -> Report | Failed:
    """Play one seed."""
    root = tempfile.mkdtemp(prefix="aggfs-simulation-", dir=parent_of_temporary_directories())
    disk = Disk()
    simulation = Simulation(seed, Path(root), disk)

    async def main() -> Report:
        return await simulation.play(hours)

    try:
        with disk.noting():
            return chances.run(seed, main)
    except Exception as error:  # noqa: BLE001 - a seed that fails is told with its trace
        found = _errors(error)
        wrong = [one for one in found if isinstance(one, Wrong)]
        first = (wrong or found)[0]
        why = str(first) if wrong else "".join(traceback.format_exception(first))
        return Failed(seed, why, tuple(simulation.trace.lines))
    finally:
        shutil.rmtree(root)


def _errors(error: BaseException) -> list[BaseException]:
    """An error, or those of a group."""
    if isinstance(error, BaseExceptionGroup):
        return [one for each in error.exceptions for one in _errors(each)]
    return [error]
