"""Handlers called as the binding calls them, where the kernel cannot be made to."""

import errno
import os
import stat

import pyfuse3
import pytest

from aggfs.errors import NoSpace
from aggfs.mount.operations import VolumeOperations
from aggfs.mount.options import MountOptions
from tests.support.memory_volume import ROOT_NUMBER, MemoryVolume


class Caller:
    uid = gid = pid = umask = 0


CALLER = Caller()
WRITE = os.O_WRONLY | os.O_CREAT


@pytest.fixture
def operations() -> VolumeOperations:
    return VolumeOperations(MemoryVolume(), MountOptions())


async def test_creating_a_name_that_another_device_made_opens_it(operations):
    made, entry = await operations.create(ROOT_NUMBER, b"f", 0o644, WRITE, CALLER)
    await operations.write(made.fh, 0, b"content")
    again, same = await operations.create(ROOT_NUMBER, b"f", 0o600, WRITE, CALLER)
    assert (again.fh, same.st_ino, same.st_size) == (made.fh, entry.st_ino, 7)
    _, emptied = await operations.create(ROOT_NUMBER, b"f", 0o600, WRITE | os.O_TRUNC, CALLER)
    assert emptied.st_size == 0
    assert operations.known.lookup_count == operations.known.open_count == 3


async def test_creating_exclusively_or_over_no_file_is_refused(operations):
    await operations.create(ROOT_NUMBER, b"f", 0o644, WRITE, CALLER)
    await operations.mkdir(ROOT_NUMBER, b"d", 0o755, CALLER)
    for name, flags in ((b"f", WRITE | os.O_EXCL), (b"d", WRITE)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.create(ROOT_NUMBER, name, 0o644, flags, CALLER)
        assert caught.value.errno == errno.EEXIST
    assert operations.known.open_count == 1


async def test_an_open_that_fails_holds_nothing(operations):
    _, entry = await operations.create(ROOT_NUMBER, b"f", 0o644, WRITE, CALLER)

    async def refuse(number, *, truncate):
        raise NoSpace("full")

    operations.files.opened = refuse
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.open(entry.st_ino, os.O_WRONLY | os.O_TRUNC, CALLER)
    assert caught.value.errno == errno.ENOSPC
    assert operations.known.open_count == 1


async def test_an_absent_name_is_an_answer_that_the_kernel_remembers(operations):
    entry = await operations.lookup(ROOT_NUMBER, b"absent", CALLER)
    assert entry.st_ino == 0
    assert entry.entry_timeout == MountOptions().entry_seconds
    assert operations.known.lookup_count == 0


async def test_dots_can_be_looked_up(operations):
    below = await operations.mkdir(ROOT_NUMBER, b"d", 0o755, CALLER)
    itself = await operations.lookup(below.st_ino, b".", CALLER)
    above = await operations.lookup(below.st_ino, b"..", CALLER)
    assert (itself.st_ino, above.st_ino) == (below.st_ino, ROOT_NUMBER)


async def test_without_xattrs_the_kernel_is_told_never_to_ask_again():
    operations = VolumeOperations(MemoryVolume(), MountOptions(xattrs=False))
    for call in (
        operations.getxattr(ROOT_NUMBER, b"user.a", CALLER),
        operations.setxattr(ROOT_NUMBER, b"user.a", b"1", CALLER),
        operations.listxattr(ROOT_NUMBER, CALLER),
        operations.removexattr(ROOT_NUMBER, b"user.a", CALLER),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await call
        assert caught.value.errno == errno.ENOSYS


async def test_only_devices_have_a_device_number(operations):
    fifo = await operations.mknod(ROOT_NUMBER, b"p", stat.S_IFIFO | 0o600, 77, CALLER)
    device = await operations.mknod(ROOT_NUMBER, b"c", stat.S_IFCHR | 0o600, 77, CALLER)
    assert (fifo.st_rdev, device.st_rdev) == (0, 77)


def test_a_volume_name_cannot_smuggle_in_mount_options():
    chosen = MountOptions(volume_name="a,suid\\,dev é").for_fuse()
    assert chosen == {"default_permissions", "subtype=aggfs", "fsname=aggfs:a_suid__dev ?"}
