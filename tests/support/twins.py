"""Two directories on which the same is done: a plain one of this machine, and one that must be no
different in anything that a program sees."""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from aggfs.model import BLOCK_BYTES
from tests.support.renaming import renameat2
from tests.support.stripes import content_or_zeros

SECTOR_BYTES = 512
SECOND = 1_000_000_000
OLD, OLDER = 1_000_000_000 * SECOND + 123_456_789, -SECOND - 1
SET_TIMES = (OLD, OLDER)  # what utime sets; any other time is "when it happened"

Shown = dict[bytes, tuple[object, ...]]


class Twins:
    """`plain` and `ours`, empty at first; `xattrs` when the plain one's file system has them.
    Every operation asserts that both answer the same, a value or an errno."""

    def __init__(self, plain: Path, ours: Path) -> None:
        self._tops = os.fsencode(plain), os.fsencode(ours)
        self._open: dict[int, tuple[int, int]] = {}
        self.xattrs = outcome(lambda: os.setxattr(plain, "user.probe", b"1")) is None
        if self.xattrs:
            os.removexattr(plain, "user.probe")

    def _do(self, call: Callable[[bytes], object]) -> None:
        """`call` gets each top directory."""
        expected, found = (outcome(partial(call, top)) for top in self._tops)
        assert found == expected, f"{found} where the plain directory has {expected}"

    # --- names --------------------------------------------------------------------------------

    def create(self, path: bytes, mode: int, flags: int = os.O_EXCL) -> None:
        flags |= os.O_CREAT | os.O_WRONLY
        self._do(lambda top: os.close(os.open(join(top, path), flags, mode)))

    def mkdir(self, path: bytes, mode: int) -> None:
        self._do(lambda top: os.mkdir(join(top, path), mode))

    def rmdir(self, path: bytes) -> None:
        self._do(lambda top: os.rmdir(join(top, path)))

    def unlink(self, path: bytes) -> None:
        self._do(lambda top: os.unlink(join(top, path)))

    def symlink(self, path: bytes, target: bytes) -> None:
        self._do(lambda top: os.symlink(target, join(top, path)))

    def link(self, path: bytes, new: bytes) -> None:
        self._do(lambda top: os.link(join(top, path), join(top, new), follow_symlinks=False))

    def rename(self, path: bytes, new: bytes, flags: int) -> None:
        self._do(lambda top: renameat2(join(top, path), join(top, new), flags))

    # --- contents -----------------------------------------------------------------------------

    def write(self, path: bytes, offset: int, length: int, seed: int, flags: int = 0) -> None:
        def write(top: bytes) -> int:
            descriptor = os.open(join(top, path), os.O_WRONLY | flags)
            try:
                return os.pwrite(descriptor, content_or_zeros(length, seed), offset)
            finally:
                os.close(descriptor)

        self._do(write)

    def append(self, path: bytes, length: int, seed: int) -> None:
        self.write(path, 0, length, seed, os.O_APPEND)

    def write_anew(self, path: bytes, length: int, seed: int) -> None:
        self.write(path, 0, length, seed, os.O_TRUNC)

    def truncate(self, path: bytes, size: int) -> None:
        self._do(lambda top: os.truncate(join(top, path), size))

    # --- attributes ---------------------------------------------------------------------------

    def chmod(self, path: bytes, mode: int) -> None:
        self._do(lambda top: os.chmod(join(top, path), mode))

    def chown(self, path: bytes, user: int, group: int) -> None:
        self._do(lambda top: os.chown(join(top, path), user, group, follow_symlinks=False))

    def utime(self, path: bytes, atime_ns: int, mtime_ns: int) -> None:
        times = (atime_ns, mtime_ns)
        self._do(lambda top: os.utime(join(top, path), ns=times, follow_symlinks=False))

    def set_xattr(self, path: bytes, name: bytes, value: bytes, flags: int) -> None:
        if self.xattrs:
            self._do(lambda top: os.setxattr(join(top, path), name, value, flags))

    def remove_xattr(self, path: bytes, name: bytes) -> None:
        if self.xattrs:
            self._do(lambda top: os.removexattr(join(top, path), name))

    # --- open files, in slots -----------------------------------------------------------------

    def open(self, slot: int, path: bytes, flags: int) -> None:
        self.close(slot)
        made = [outcome(lambda top=top: os.open(join(top, path), flags)) for top in self._tops]
        if all(isinstance(one, int) for one in made):
            self._open[slot] = (made[0], made[1])
            return
        for one in made:
            if isinstance(one, int):
                os.close(one)
        assert made[1] == made[0]

    def _on_open(self, slot: int, call: Callable[[int], object]) -> None:
        """`call` gets the descriptors of a slot; nothing where it is empty."""
        if slot in self._open:
            expected, found = (outcome(partial(call, one)) for one in self._open[slot])
            assert found == expected, f"{found} where the plain file has {expected}"

    def write_open(self, slot: int, offset: int, length: int, seed: int) -> None:
        data = content_or_zeros(length, seed)
        self._on_open(slot, lambda descriptor: os.pwrite(descriptor, data, offset))

    def read_open(self, slot: int, offset: int, length: int) -> None:
        self._on_open(slot, lambda descriptor: os.pread(descriptor, length, offset))

    def truncate_open(self, slot: int, size: int) -> None:
        self._on_open(slot, lambda descriptor: os.ftruncate(descriptor, size))

    def look_at_open(self, slot: int) -> None:
        self._on_open(slot, status_of)

    def fsync_open(self, slot: int) -> None:
        self._on_open(slot, os.fsync)

    def close(self, slot: int) -> None:
        """A dead mount's may fail."""
        plain, ours = self._open.pop(slot, (None, None))
        if plain is not None and ours is not None:
            os.close(plain)
            with contextlib.suppress(OSError):
                os.close(ours)

    def close_all(self) -> None:
        for slot in list(self._open):
            self.close(slot)

    # --- the whole ----------------------------------------------------------------------------

    def sync(self) -> None:
        """fsync of every file and directory of ours: it is as it is now after any crash."""
        for path in [b"", *paths_below(self._tops[1])]:
            if not stat.S_ISLNK(os.lstat(join(self._tops[1], path)).st_mode):
                descriptor = os.open(join(self._tops[1], path), os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def compare(self) -> None:
        """Names, attributes and links are the same."""
        self._do(partial(shown, xattrs=self.xattrs))

    def compare_contents(self) -> None:
        """Every file's bytes are the same."""
        for path in paths_below(self._tops[0]):
            expected, found = (outcome(partial(content, join(top, path))) for top in self._tops)
            assert found == expected, path

    def check_room(self) -> None:
        """Ours says that each block which is not all zeros takes room, and nothing beyond the
        end does."""
        for path in paths_below(self._tops[0]):
            data, told = content(join(self._tops[0], path)), os.lstat(join(self._tops[1], path))
            blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
            least = sum(len(block) for block in blocks if any(block))
            if stat.S_ISREG(told.st_mode):
                assert least <= told.st_blocks * SECTOR_BYTES < len(data) + SECTOR_BYTES, path


def outcome(call: Callable[[], object]) -> object:
    """What a call returns, or the name of its errno."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def join(top: bytes, path: bytes) -> bytes:
    """A path below `top`, which itself is the empty path."""
    return os.path.join(top, path) if path else top


def paths_below(top: bytes) -> Iterator[bytes]:
    """All paths below a directory, sorted."""
    found = []
    for directory, names, files in os.walk(top):
        found += [os.path.join(directory, name) for name in (*names, *files)]
    return (path[len(top) + 1 :] for path in sorted(found))


def shown(top: bytes, *, xattrs: bool) -> Shown:
    """What `stat` and others tell of every path; hard links share the first of their names."""
    found: Shown = {}
    first: dict[int, bytes] = {}
    for path in [b"", *paths_below(top)]:
        full = join(top, path)
        status = os.lstat(full)
        is_directory = stat.S_ISDIR(status.st_mode)
        found[path] = (
            *(oct(status.st_mode), status.st_nlink, status.st_uid, status.st_gid),
            *("directory" if is_directory else status.st_size, moment(status.st_mtime_ns)),
            first.setdefault(status.st_ino, path),
            os.readlink(full) if stat.S_ISLNK(status.st_mode) else b"",
            xattrs_of(full) if xattrs else {},
        )
    return found


def status_of(descriptor: int) -> tuple[object, ...]:
    """What `fstat` tells of an open file, which may have no name any more."""
    status = os.fstat(descriptor)
    return oct(status.st_mode), status.st_nlink, status.st_size, moment(status.st_mtime_ns)


def moment(time_ns: int) -> int | str:
    """A time that was set, or that it was none."""
    return time_ns if time_ns in SET_TIMES else "when it happened"


def xattrs_of(path: bytes) -> dict[str, bytes]:
    """All extended attributes of users."""
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if name.startswith("user.")
    }


def content(path: bytes) -> bytes:
    """A file's bytes, empty for what is none."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        return b""
    with open(path, "rb") as file:
        return file.read()
