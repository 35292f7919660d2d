"""The life of a mount: serve the folder, answer the commands, and stop so that nothing is lost.

Order of the start: the volume runs, the folder is mounted, it answers, the commands may come, who
waits is told. Order of the stop, whatever began it (a signal, a command, `umount`): no new
commands, the kernel writes back what programs left in mapped pages and lets go of the folder, what
waits is brought to the accounts as long as the service may linger, the volume makes all it was told
durable. Each step has a deadline: the daemon can always be ended.
"""

import logging
import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from aggfs.daemon import memory
from aggfs.daemon.control import ControlServer, Progress
from aggfs.daemon.folder import Folder
from aggfs.daemon.herald import Herald
from aggfs.daemon.rendezvous import socket_path
from aggfs.daemon.systemd import NOBODY, ServiceManager
from aggfs.engine.progress import listening
from aggfs.errors import AggfsError, Busy
from aggfs.mount.invalidate import KernelCaches
from aggfs.mount.operations import VolumeOperations
from aggfs.mount.options import MountOptions
from aggfs.mount.served import ServedVolume

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
LAST_ANSWERS_SECONDS = 1.0
SWITCH_SECONDS = 0.0005
SAME_WISH_SECONDS = 1.0


class RunningVolume(ServedVolume, Protocol):
    """A volume with its background work and its verbs."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Works until cancelled, then makes all it was told durable and ends."""

    async def control(self, verb: str, arguments: dict[str, object]) -> dict[str, object]: ...

    def watched_by(self, kernel: KernelCaches) -> None:
        """The folder answers: what changes by itself is told there."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is served, and where. `mountpoint` was prepared by `aggfs.daemon.mountpoint`.

    After the folder has gone, up to `linger_seconds` are taken to bring what waits to the accounts.
    What is left then is as safe here as before, and goes on at the next start.
    """

    mountpoint: str
    state_directory: str
    options: MountOptions
    manager: ServiceManager = NOBODY
    linger_seconds: float = 0.0


async def serve(
    volume: RunningVolume, service: Service, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve `volume` as a folder until a signal, a command or `umount` ends it.

    Calls `ready` once the folder answers. Raises `MountRefused` when it cannot be mounted.
    Cancelling is as good as a signal, but for the folder: it goes at once.
    """
    memory.settle()
    sys.setswitchinterval(SWITCH_SECONDS)  # threads that talk to accounts give way to requests
    herald = Herald(service.manager, partial(volume.control, "status", {}))
    with ticking():
        async with trio.open_nursery() as telling:
            herald.opening()
            telling.start_soon(herald.run)
            words = await _serve(volume, service, herald, ready)
            telling.cancel_scope.cancel()
    herald.ended(words)
    log.info("%s is unmounted", service.mountpoint)


async def _serve(
    volume: RunningVolume, service: Service, herald: Herald, ready: Callable[[], None]
) -> str:
    """All of it but the telling; what still waited when the volume stopped, in words."""
    folder = Folder(VolumeOperations(volume, service.options), service.mountpoint)
    verbs = Verbs(volume, folder, service.linger_seconds)
    lingering = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_at_a_signal, folder, lingering)
        await nursery.start(volume.run)
        async with trio.open_nursery() as outside:
            await outside.start(folder.serve)
            volume.watched_by(KernelCaches())
            control = ControlServer(verbs.call)
            await outside.start(control.serve, socket_path(service.state_directory))
            await herald.ready()
            ready()
            await folder.wait_until_left()
            await herald.stopping(verbs.linger_seconds)
            with trio.move_on_after(LAST_ANSWERS_SECONDS):
                await control.idle()
            outside.cancel_scope.cancel()
        if verbs.linger_seconds:
            lingering.deadline = trio.current_time() + verbs.linger_seconds
            await _linger(volume, lingering)
        words = await herald.settling()
        nursery.cancel_scope.cancel()
    return words


async def _linger(volume: RunningVolume, patience: trio.CancelScope) -> None:
    """Bring what waits to the accounts, as long as there is patience."""
    with patience:
        try:
            await volume.control("flush", {})
        except AggfsError as error:
            log.warning("what waits is sent at the next start: %s", error)
    if patience.cancelled_caught:
        log.info("what still waits is sent at the next start")


class Verbs:
    """The few verbs that are about the daemon; all others are the volume's."""

    def __init__(self, volume: RunningVolume, folder: Folder, linger_seconds: float) -> None:
        self.linger_seconds = linger_seconds
        self._volume = volume
        self._folder = folder

    async def call(
        self, verb: str, arguments: dict[str, object], progress: Progress
    ) -> dict[str, object]:
        """`unmount`: refused with `Busy` while the folder is in use; with `now`, what waits is left
        for the next start. `stop`: whatever is in use.
        `kernel`: what the kernel holds of ours, and how many handlers met what nobody foresaw.
        `counters`: what the kernel asked, beside what the volume has counted; only ever grows."""
        if verb == "unmount":
            before, self.linger_seconds = self.linger_seconds, self._linger_for(arguments)
            try:
                await self._folder.unmount()
            except Busy:
                self.linger_seconds = before
                raise
            return {}
        if verb == "stop":
            self._folder.ask_to_leave()
            return {}
        if verb == "kernel":
            return self._folder.held()
        if verb == "counters":
            counted = await self._volume.control(verb, arguments)
            return {**self._folder.figures(), **counted}
        with listening(progress):
            return await self._volume.control(verb, arguments)

    def _linger_for(self, arguments: dict[str, object]) -> float:
        return 0.0 if arguments.get("now") else self.linger_seconds


async def _stop_at_a_signal(folder: Folder, lingering: trio.CancelScope) -> None:
    """The first signal asks, a later one insists; one after the folder has gone ends the lingering.

    What comes at the same moment is the same wish: a terminal and timeout(1) signal the process
    and its group.
    """
    asked, deaf_until = False, -math.inf
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async for number in signals:
            if trio.current_time() < deaf_until:
                continue
            deaf_until = trio.current_time() + SAME_WISH_SECONDS
            log.info("stopping: %s", signal.Signals(number).name)
            if asked or folder.has_been_left:
                lingering.cancel()
            folder.ask_to_leave()
            asked = True


@contextmanager
def ticking() -> Iterator[None]:
    """Interrupt this process once a second.

    The kernel takes back a request whose caller was killed. Where that happens between the
    binding's poll and its read, the read blocks this thread, and all others with it (it holds the
    interpreter's lock), until there is another request. A signal ends such a read.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, TICK_SECONDS, TICK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
