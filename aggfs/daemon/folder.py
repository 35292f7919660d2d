"""One mounted folder: from mount to unmount.

There is one per process: the binding keeps its session in globals.
"""

import ctypes
import errno
import logging
import os
import tempfile

import pyfuse3
import trio

from aggfs.daemon.mountpoint import mounted_at, raise_read_ahead
from aggfs.errors import Busy, MountRefused
from aggfs.mount.operations import VolumeOperations

log = logging.getLogger(__name__)

UNMOUNT_SECONDS = 30  # for each step until the name is gone
LEAVE_SECONDS = 10  # for programs that have files open, after the name is gone
NAMESPACE_SECONDS = 1  # for the session to end by itself, after a plain unmount
ABORT_SECONDS = 5  # for requests under way, after the session ended


def _has_a_reader(record: logging.LogRecord) -> bool:
    """Whether a complaint of the binding is one: a reply to a request that the kernel took back
    (its program was killed, the folder is being unmounted) is missed by nobody."""
    return not record.getMessage().endswith(f"failed with {os.strerror(errno.ENOENT)}")


class Folder:
    """Serves handlers at a mount point. `serve` runs once, as a task; all else is called beside."""

    def __init__(self, operations: VolumeOperations, mountpoint: str) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._asked = trio.Event()
        self._asked_again = trio.Event()
        self._ended = trio.Event()
        self._mounted_at = trio.current_time()

    def ask_to_leave(self) -> None:
        """Unmount, whoever uses the folder. Asked twice: end the session at once."""
        (self._asked_again if self._asked.is_set() else self._asked).set()

    def held(self) -> dict[str, object]:
        """Lookups and open files that the kernel has not given back; faults met so far."""
        operations = self._operations
        return {
            "lookups": operations.known.lookup_count,
            "opened": operations.known.open_count,
            "faults": operations.faults.count,
        }

    def figures(self) -> dict[str, object]:
        """What the kernel asked from the mount until now, by one clock; only ever grows."""
        return {
            "clock_seconds": trio.current_time(),
            "mounted_seconds": self._mounted_at,
            **self._operations.counts.figures(),
        }

    @property
    def has_been_left(self) -> bool:
        """Whether the folder was unmounted, by us or by anybody else."""
        return self._ended.is_set()

    async def wait_until_left(self) -> None:
        """Until the folder is unmounted, by us or by anybody else."""
        await self._ended.wait()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Mount, tell the starter when the folder answers, answer requests until unmounted.

        Raises `MountRefused` when it cannot be mounted. Cancelling ends the session at once.
        """
        _mount(self._operations, self._mountpoint)
        self._mounted_at = trio.current_time()
        logging.getLogger("pyfuse3").addFilter(_has_a_reader)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._leave_when_asked, nursery.cancel_scope)
                nursery.start_soon(self._tell_when_it_answers, task_status)
                await self._answer()
                nursery.cancel_scope.cancel()
            self._operations.known.drop_all()
        finally:
            pyfuse3.close(unmount=True)
            self._ended.set()

    async def _answer(self) -> None:
        """Answer requests until the session ends. Of an unmount in the middle of a request the
        kernel tells in another way than of others."""
        try:
            await pyfuse3.main(max_tasks=self._operations.options.concurrent_requests)
        except* ConnectionAbortedError:
            log.info("%s: the kernel has ended the session", self._mountpoint)

    async def unmount(self) -> None:
        """Unmount if nobody uses the folder; `Busy` if somebody does, and it stays."""
        code, complaint = await self._fusermount("-u")
        if code:
            raise Busy(f"{self._mountpoint} stays mounted: {complaint}")
        self.ask_to_leave()  # does nothing more where the session ends by itself

    async def _tell_when_it_answers(self, task_status: trio.TaskStatus[None]) -> None:
        await trio.to_thread.run_sync(os.stat, self._mountpoint, abandon_on_cancel=True)
        # After the first answer: the kernel sets the small default while the session begins.
        await trio.to_thread.run_sync(
            raise_read_ahead, self._mountpoint, self._operations.options.read_ahead_kib
        )
        task_status.started()

    async def _leave_when_asked(self, session: trio.CancelScope) -> None:
        await self._asked.wait()
        async with trio.open_nursery() as patience:
            patience.start_soon(self._cancel_when_asked_again, patience.cancel_scope)
            with trio.move_on_after(UNMOUNT_SECONDS + LEAVE_SECONDS):
                await self._let_go()
            patience.cancel_scope.cancel()
        await self._end_session(session)

    async def _end_session(self, session: trio.CancelScope) -> None:
        """Whoever still holds the folder gets an error from now on."""
        pyfuse3.terminate()
        with trio.move_on_after(ABORT_SECONDS):
            await self._asked_again.wait()
        session.cancel()

    async def _cancel_when_asked_again(self, patience: trio.CancelScope) -> None:
        await self._asked_again.wait()
        patience.cancel()

    async def _let_go(self) -> None:
        """Unmount; where that is refused, write mapped pages back and take the name away.

        The session usually ends meanwhile, and this with it. It goes on for programs that have
        files open, and for mount namespaces that were copied with the mount in them.
        """
        code, _ = await self._fusermount("-u")
        if code == 0 or mounted_at(self._mountpoint) is None:
            await trio.sleep(NAMESPACE_SECONDS)
            return
        await trio.to_thread.run_sync(_write_back, self._mountpoint, abandon_on_cancel=True)
        await self._fusermount("-u", "-z")
        await trio.sleep(LEAVE_SECONDS)
        log.warning("%s is still in use; its users are cut off", self._mountpoint)

    async def _fusermount(self, *options: str) -> tuple[int, str]:
        """Exit code, and the last line that it printed."""
        with trio.move_on_after(UNMOUNT_SECONDS):
            done = await trio.run_process(
                ["fusermount3", *options, "--", self._mountpoint],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            return done.returncode, lines[-1] if lines else "no reason"
        return 1, f"no answer within {UNMOUNT_SECONDS} s"


def _write_back(path: str) -> None:
    """syncfs(2), by ctypes: the binding's own holds the interpreter's lock and would never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None).syncfs(descriptor)
    finally:
        os.close(descriptor)


def _mount(operations: VolumeOperations, mountpoint: str) -> None:
    """Mount; libfuse and fusermount3 print why they fail, and the last line of it is told."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), 2)
        try:
            pyfuse3.init(operations, mountpoint, operations.options.for_fuse())
        except RuntimeError as error:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else str(error)
            raise MountRefused(f"{mountpoint} cannot be mounted: {reason}") from None
        finally:
            os.dup2(kept, 2)
            os.close(kept)
