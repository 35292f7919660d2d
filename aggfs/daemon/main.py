"""The life of a mount: serve the folder, answer the commands, and stop so that nothing is lost.

Order of the start: the volume runs, the folder is mounted, it answers, the commands may come, who
waits is told. Order of the stop, whatever began it (a signal, a command, `umount`): no new
commands, the kernel writes back what programs left in mapped pages and lets go of the folder, the
volume makes all it was told durable. Each step has a deadline: the daemon can always be ended.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from aggfs.daemon import memory
from aggfs.daemon.control import ControlServer, Progress
from aggfs.daemon.folder import Folder
from aggfs.daemon.rendezvous import socket_path
from aggfs.daemon.systemd import notify
from aggfs.mount.operations import VolumeOperations
from aggfs.mount.options import MountOptions
from aggfs.mount.served import ServedVolume

log = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
TICK_SECONDS = 1.0
LAST_ANSWERS_SECONDS = 1.0
SAME_WISH_SECONDS = 1.0


class RunningVolume(ServedVolume, Protocol):
    """A volume with its background work and its verbs."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Works until cancelled, then makes all it was told durable and ends."""

    async def control(self, verb: str, arguments: dict[str, object]) -> dict[str, object]: ...


@dataclass(frozen=True, slots=True)
class Service:
    """What is served, and where. `mountpoint` was prepared by `aggfs.daemon.mountpoint`."""

    mountpoint: str
    state_directory: str
    options: MountOptions
    notify_address: str | None = None


async def serve(
    volume: RunningVolume, service: Service, ready: Callable[[], None] = lambda: None
) -> None:
    """Serve `volume` as a folder until a signal, a command or `umount` ends it.

    Calls `ready` once the folder answers. Raises `MountRefused` when it cannot be mounted.
    Cancelling is as good as a signal, but for the folder: it goes at once.
    """
    memory.settle()
    folder = Folder(VolumeOperations(volume, service.options), service.mountpoint)
    verbs = Verbs(volume, folder)
    with ticking():
        async with trio.open_nursery() as nursery:
            await nursery.start(volume.run)
            async with trio.open_nursery() as outside:
                outside.start_soon(_stop_at_a_signal, folder)
                await outside.start(folder.serve)
                control = ControlServer(verbs.call)
                await outside.start(control.serve, socket_path(service.state_directory))
                notify(service.notify_address, "READY=1")
                ready()
                await folder.wait_until_left()
                notify(service.notify_address, "STOPPING=1")
                with trio.move_on_after(LAST_ANSWERS_SECONDS):
                    await control.idle()
                outside.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    log.info("%s is unmounted", service.mountpoint)


class Verbs:
    """The few verbs that are about the daemon; all others are the volume's."""

    def __init__(self, volume: RunningVolume, folder: Folder) -> None:
        self._volume = volume
        self._folder = folder

    async def call(
        self, verb: str, arguments: dict[str, object], progress: Progress
    ) -> dict[str, object]:
        """`unmount`: refused with `Busy` while the folder is in use. `stop`: whatever is in use.
        `kernel`: what the kernel holds of ours, and how many handlers met what nobody foresaw."""
        if verb == "unmount":
            await self._folder.unmount()
            return {}
        if verb == "stop":
            self._folder.ask_to_leave()
            return {}
        if verb == "kernel":
            return self._folder.held()
        return await self._volume.control(verb, arguments)


async def _stop_at_a_signal(folder: Folder) -> None:
    """The first signal asks, a later one insists.

    What comes at the same moment is the same wish: a terminal and timeout(1) signal the process
    and its group.
    """
    deaf_until = -math.inf
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async for number in signals:
            if trio.current_time() < deaf_until:
                continue
            deaf_until = trio.current_time() + SAME_WISH_SECONDS
            log.info("stopping: %s", signal.Signals(number).name)
            folder.ask_to_leave()


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
