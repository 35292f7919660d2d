"""A process that serves the memory volume: what the mount tests talk to.

  python -m tests.support.memory_mount MOUNTPOINT STATE_DIRECTORY [NAME=VALUE of MountOptions ...]

Prints "ready" when the folder answers. Some names and verbs misbehave on purpose, see below.
"""

import logging
import os
import sys
from collections.abc import Iterator

import trio

from aggfs.daemon.main import Service, serve
from aggfs.daemon.systemd import ServiceManager
from aggfs.errors import NoSpace
from aggfs.model import InodeRow
from aggfs.mount.invalidate import KernelCaches
from aggfs.mount.options import MountOptions
from tests.support.memory_volume import MemoryFiles, MemoryNamespace, MemoryVolume


class Trap(Exception):
    """Nothing that anybody foresaw."""


class TrappedNamespace(MemoryNamespace):
    """Names that begin with `trap-` raise in the operation that they name."""

    def _spring(self, operation: str, name: bytes) -> None:
        if name == b"trap-" + operation.encode():
            raise Trap(operation)

    def lookup(self, parent: int, name: bytes) -> InodeRow:
        self._spring("lookup", name)
        return super().lookup(parent, name)

    def create(self, parent, name, mode, uid, gid, *, rdev=0, target=b""):
        self._spring("create", name)
        return super().create(parent, name, mode, uid, gid, rdev=rdev, target=target)

    def unlink(self, parent, name):
        self._spring("unlink", name)
        return super().unlink(parent, name)

    def get_xattr(self, number, name):
        self._spring("getxattr", name.removeprefix(b"user."))
        return super().get_xattr(number, name)

    def readdir(self, number: int, after_cookie: int) -> Iterator[tuple[bytes, InodeRow, int]]:
        if b"trap-readdir" in self.children[number]:
            raise Trap("readdir")
        return super().readdir(number, after_cookie)


class TrappedFiles(MemoryFiles):
    """Contents that begin with `trap` raise, or never answer, in the operation that they name."""

    async def write(self, number, offset, data):
        if data == b"trap-write":
            raise Trap("write")
        if data == b"no-space":
            raise NoSpace("full")
        return await super().write(number, offset, data)

    async def read(self, number, offset, length):
        data = await super().read(number, offset, length)
        if data == b"trap-read":
            raise Trap("read")
        if data == b"never":
            await trio.sleep_forever()
        return data

    async def flush(self, number):
        if self.units.get(number, {}).get(0, b"").startswith(b"trap-flush"):
            raise ExceptionGroup("a nursery", [NoSpace("full")])


class TestedVolume(MemoryVolume):
    """The memory volume with traps, and verbs that show what the kernel holds."""

    def __init__(self) -> None:
        self.namespace = TrappedNamespace(os.getuid(), os.getgid())
        self.files = TrappedFiles(self.namespace)
        self.caches = KernelCaches()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def control(self, verb: str, arguments: dict[str, object]) -> dict[str, object]:
        match verb:
            case "echo":
                return dict(arguments)
            case "inodes":
                return {"count": len(self.namespace.rows), "contents": len(self.files.units)}
            case "full":
                raise NoSpace("all accounts\nare full")
            case "trap":
                raise Trap("control")
            case "never":
                await trio.sleep_forever()
            case "write behind the kernel":
                row = self.namespace.lookup(1, str(arguments["name"]).encode())
                await self.files.write(row.number, 0, str(arguments["text"]).encode())
                await self.caches.inode_changed(row.number, attributes_only=False)
            case "rename behind the kernel":
                old, new = str(arguments["old"]).encode(), str(arguments["new"]).encode()
                self.namespace.rename(1, old, 1, new, wait_for_content=False)
                await self.caches.name_changed(1, old)
                await self.caches.name_changed(1, new)
                await self.caches.name_changed(1, b"never heard of")
        return {}


def main(mountpoint: str, state_directory: str, *settings: str) -> None:
    """Serve until told to stop."""
    logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
    chosen = {name: eval(value) for name, value in (s.split("=", 1) for s in settings)}  # noqa: S307 - the tests' own words
    manager = ServiceManager.named_in(os.environ)
    service = Service(mountpoint, state_directory, MountOptions(**chosen), manager)
    trio.run(serve, TestedVolume(), service, lambda: print("ready", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
