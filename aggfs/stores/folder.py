"""The file work of a directory account: whole files or none, under names that keys give.

A file is written under a *part* name in its own directory, synced, and then gets its real name
in one step (rename, or link where an existing file must win); then the directory is synced. So a
reader, also after a power cut, sees the old file, the new file or none. Part names are never
listed. A part left by a dead writer is removed when it is an hour old; should its writer be alive
after all, its rename fails, and the caller of `put` hears that trying again may help.

Everything here blocks, and is called in worker threads, several at once. Nothing here is told to
stop: a caller that gave up has taken back the loan of its buffers, and the file gets no name.
"""

import ctypes
import errno
import itertools
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator

from aggfs.disk import read_part, sync_directory, write_whole
from aggfs.errors import Refused, Unreachable
from aggfs.stores.base import ObjectInfo
from aggfs.stores.threaded import Loan

STALE_SECONDS = 3600.0
_PART = re.compile(r"\.aggfs-[0-9a-f]{16}\.part")
_RENUMBERING = re.compile(r"(overlay|msdos|vfat|exfat|fuse\S*) ")
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_NO_HARD_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NO_EXCLUSIVE_RENAME = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_UNREADABLE_BY_DESIGN = "lost+found/"  # at the top of an ext4 disk, root's alone
_libc = ctypes.CDLL(None, use_errno=True)


class Folder:
    """A directory tree as a flat set of files. Raises `OSError` as the system does, and
    `Unreachable` when the root is not (or no longer) the directory that it was."""

    def __init__(self, root: str) -> None:
        """The root need not be there yet: its disk may be mounted later."""
        self.root = os.path.realpath(root)
        self._identity: tuple[int, int] | None = None
        self._renumbering: dict[int, bool] = {}
        self._prepared: set[str] = set()
        self._parts = itertools.count(secrets.randbits(64))  # asking each time is a system call
        self._lock = threading.Lock()

    def path(self, key: str) -> str:
        """The file of a key; `Refused` for a key that can be no path below the root."""
        for part in key.split("/"):
            if part in ("", ".", "..") or "\0" in part or _PART.fullmatch(part):
                raise Refused(f"{self.root}: {key!r} cannot be the name of an object")
        return f"{self.root}/{key}"

    def check_root(self) -> None:
        """`Unreachable` unless the root is there and the same directory as at first sight.

        Asked only where something is missing: an empty mount point must not look like an empty
        account, nor be filled.
        """
        try:
            identity = (file_system_id(self.root), self._inode_number())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unreachable(
                f"{self.root}: there is no such directory; is its disk mounted?"
            ) from error
        with self._lock:
            if self._identity is None:
                self._identity = identity
            if identity != self._identity:
                raise Unreachable(f"{self.root}: another directory is there now; disk unmounted?")

    def _inode_number(self) -> int:
        """The root's, 0 where such numbers do not last: then only its file system tells."""
        status = os.stat(self.root)
        if status.st_dev not in self._renumbering:  # what a device is, it stays
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                anew = numbers_inodes_anew(status.st_dev, file.read())
            self._renumbering[status.st_dev] = anew
        return 0 if self._renumbering[status.st_dev] else status.st_ino

    def replace(self, path: str, loan: Loan) -> None:
        """Store what is lent under `path`, durably; what was there is replaced."""
        part = self._write_part(os.path.dirname(path), loan)
        with _removing_on_failure(part):
            loan.keep()
            os.rename(part, path)
        sync_directory(os.path.dirname(path))

    def add(self, path: str, loan: Loan) -> None:
        """As `replace`, but `FileExistsError` when there is a file already: of two, one wins."""
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        part = self._write_part(os.path.dirname(path), loan)
        with _removing_on_failure(part):
            loan.keep()
            try:
                os.link(part, path)
            except OSError as error:
                if error.errno not in _NO_HARD_LINKS:
                    raise
                rename_exclusively(part, path)
            else:
                os.unlink(part)
        sync_directory(os.path.dirname(path))

    def remove(self, path: str) -> None:
        """Remove a file, and the directories that it leaves empty. An absent file is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            self.check_root()
            return
        directory = os.path.dirname(path)
        while directory != self.root:
            try:
                os.rmdir(directory)
            except OSError:  # not empty, or in use: it stays
                return
            directory = os.path.dirname(directory)

    def read(self, path: str, start: int, length: int | None) -> bytes:
        """`length` bytes from `start`, fewer where the file ends; None: the whole file."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise Refused(f"{path}: not a plain file")
            left = max(0, status.st_size - start)
            return read_part(descriptor, start, left if length is None else min(length, left))
        finally:
            os.close(descriptor)

    def scan(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        """The files whose key has `prefix` and sorts after `after`, in the order of keys."""
        self.check_root()
        return self._scan_below("", prefix, after)

    def _scan_below(self, parent: str, prefix: str, after: str) -> Iterator[ObjectInfo]:
        for key, entry in self._entries(parent):
            if not key.endswith("/"):
                if key.startswith(prefix) and key > after:
                    yield from _told(key, entry)
            elif (key.startswith(prefix) or prefix.startswith(key)) and (
                key > after or after.startswith(key)
            ):
                yield from self._scan_below(key, prefix, after)

    def _entries(self, parent: str) -> list[tuple[str, "os.DirEntry[str]"]]:
        """Files and directories (their key ends with a slash), sorted as their keys sort."""
        found = []
        try:
            with os.scandir(f"{self.root}/{parent}") as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        found.append((f"{parent}{entry.name}/", entry))
                    elif entry.is_file(follow_symlinks=False) and not _PART.fullmatch(entry.name):
                        found.append((parent + entry.name, entry))
        except FileNotFoundError:
            self.check_root()  # a directory below it may go while we look: it was empty
        except PermissionError:
            if parent != _UNREADABLE_BY_DESIGN:
                raise
        found.sort(key=lambda pair: pair[0])
        return found

    def _write_part(self, directory: str, loan: Loan) -> str:
        """A synced file with what is lent, under a part name."""
        part, descriptor = self._open_part(directory)
        with _removing_on_failure(part):
            try:
                write_whole(descriptor, loan.pieces, taken=loan.keep)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        return part

    def _open_part(self, directory: str) -> tuple[str, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        for _ in range(8):
            part = f"{directory}/.aggfs-{next(self._parts) % (1 << 64):016x}.part"
            try:
                if directory not in self._prepared:
                    self._prepare(directory)
                return part, os.open(part, flags, 0o666)
            except FileNotFoundError:  # somebody removed the directory, being empty
                self._prepared.discard(directory)
        raise Unreachable(f"{directory}: the directory goes away again and again")

    def _prepare(self, directory: str) -> None:
        """Make the directory durably, or clear it of stale parts: once for each directory."""
        self.check_root()
        made, new = self.root, False
        for name in filter(None, directory[len(self.root) :].split("/")):
            parent, made = made, f"{made}/{name}"
            try:
                os.mkdir(made)
                new = True
            except FileExistsError:
                new = False
            sync_directory(parent)  # also when another thread, or a dead process, has made it
        if not new:
            remove_stale_parts(directory)
        self._prepared.add(directory)


def file_system_id(path: str) -> int:
    """What tells one file system from another, the same after a remount where that is possible."""
    return os.statvfs(path).f_fsid or os.stat(path).st_dev


def numbers_inodes_anew(device: int, mountinfo: str) -> bool:
    """Whether a directory of this device may get another inode number when the kernel has
    forgotten it for a while: so it is where several layers make one file system (containers), with
    those of sticks and cards, and with many that a program serves."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if number in before.split(" ")[2:3]:
            return _RENUMBERING.match(after) is not None
    return False


def remove_stale_parts(directory: str) -> None:
    """Remove parts of writers that are long dead, by the clock of that file system."""
    with os.scandir(directory) as entries:
        found = [
            entry.path
            for entry in entries
            if _PART.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]
    if not found:
        return
    now = _file_system_now(directory)
    for path in found:
        try:
            if now - os.stat(path, follow_symlinks=False).st_mtime > STALE_SECONDS:
                os.unlink(path)
        except FileNotFoundError:
            continue  # its writer, or another cleaner, was faster


def rename_exclusively(source: str, target: str) -> None:
    """Rename unless the target exists (`FileExistsError`); for file systems without hard links."""
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE
    )
    if result != 0:
        number = ctypes.get_errno()
        if number in _NO_EXCLUSIVE_RENAME:
            raise Refused(f"{target}: this file system has no exclusive create")
        raise OSError(number, os.strerror(number), target)


def _told(key: str, entry: "os.DirEntry[str]") -> Iterator[ObjectInfo]:
    try:
        yield ObjectInfo(key, entry.stat(follow_symlinks=False).st_size)
    except FileNotFoundError:
        return  # removed while we looked: no longer there


def _file_system_now(directory: str) -> float:
    """The time by the clock that stamps the files here: a server's may differ from ours."""
    probe = f"{directory}/.aggfs-{secrets.token_hex(8)}.part"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        return os.stat(probe).st_mtime
    finally:
        os.unlink(probe)


class _removing_on_failure:  # noqa: N801 - used as a function
    """Remove a part when what is done inside fails."""

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            try:
                os.unlink(self._part)
            except FileNotFoundError:
                return
