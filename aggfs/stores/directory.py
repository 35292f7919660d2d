"""An account in a local (or mounted) directory: one file for each object, no index beside them."""

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator, Sequence

from aggfs.errors import (
    AlreadyThere,
    NotFound,
    QuotaFull,
    Refused,
    StoreError,
    Unreachable,
)
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space
from aggfs.stores.folder import Folder
from aggfs.stores.threaded import READ_SLOTS, WRITE_SLOTS, Loan, Threads

PAGE_OBJECTS = 1000
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.EINVAL: "the file system does not take this name",
    errno.EILSEQ: "the file system does not take this name",
    errno.EISDIR: "there is a directory of this name",
    errno.ENOTDIR: "a file is where a directory is needed",
    errno.ELOOP: "a symbolic link is in the way",
    errno.EFBIG: "the object is too large for this file system",
}


class DirectoryStore:
    """One directory as an account. Foreign files are listed, and never changed.

    The directory itself is never made: a disk that is not mounted makes the account unreachable
    rather than empty. Every call is one worker hop and may be abandoned; an abandoned `put`
    stores nothing, or the whole object.
    """

    def __init__(
        self,
        path: str,
        *,
        writes: int = WRITE_SLOTS,
        reads: int = READ_SLOTS,
        page_objects: int = PAGE_OBJECTS,
    ) -> None:
        self._folder = Folder(path)
        self._threads = Threads(writes=writes, reads=reads)
        self._page_objects = page_objects

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(create_only=True, reports_space=True)

    @property
    def place(self) -> str:
        return f"file://{self._folder.root}"

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled half way: the old object is there, or (rarely) the new one, whole."""
        await self._threads.lend(self._put, key, pieces)

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """Cancelled half way: as `put`."""
        await self._threads.lend(self._create, key, pieces)

    async def get(self, key: str) -> bytes:
        return await self._threads.read(self._get, key, 0, None)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._threads.read(self._get, key, start, length)

    async def head(self, key: str) -> ObjectInfo:
        return await self._threads.read(self._head, key)

    async def list_page(self, prefix: str, after: str) -> Page:
        return await self._threads.write(self._list_page, prefix, after)

    async def delete(self, key: str) -> None:
        """Cancelled half way: the object is gone, or not; perhaps only later."""
        await self._threads.write(self._delete, key)

    async def space(self) -> Space | None:
        """The room of the whole file system, which other accounts may share."""
        return await self._threads.write(self._space)

    async def prepare(self) -> None:
        """There is nothing to make: what a directory is, each call looks at anew."""

    async def aclose(self) -> None:
        """Nothing to give back: no file stays open between calls."""

    def _put(self, key: str, loan: Loan) -> None:
        with self._telling(key):
            self._folder.replace(self._folder.path(key), loan)

    def _create(self, key: str, loan: Loan) -> None:
        with self._telling(key):
            try:
                self._folder.add(self._folder.path(key), loan)
            except FileExistsError as error:
                raise AlreadyThere(f"{self.place}: {key} is there already") from error

    def _get(self, key: str, start: int, length: int | None) -> bytes:
        with self._telling(key), self._missing_is_told(key):
            return self._folder.read(self._folder.path(key), start, length)

    def _head(self, key: str) -> ObjectInfo:
        with self._telling(key), self._missing_is_told(key):
            return ObjectInfo(key, os.stat(self._folder.path(key)).st_size)

    def _list_page(self, prefix: str, after: str) -> Page:
        with self._telling(prefix):
            found = self._folder.scan(prefix, after)
            objects = tuple(itertools.islice(found, self._page_objects))
            more = next(found, None) is not None
        return Page(objects, objects[-1].key if more else None)

    def _delete(self, key: str) -> None:
        with self._telling(key):
            self._folder.remove(self._folder.path(key))

    def _space(self) -> Space:
        with self._telling(""):
            self._folder.check_root()
            status = os.statvfs(self._folder.root)
        return Space(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)

    @contextlib.contextmanager
    def _missing_is_told(self, key: str) -> Iterator[None]:
        """No such file: `NotFound`, if the account itself is there."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            self._folder.check_root()
            raise NotFound(f"{self.place}: there is no object {key}") from error

    @contextlib.contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        """Errors of the system become errors of ours."""
        try:
            yield
        except OSError as error:
            raise _meaning(f"{self.place}/{key}", error) from error


def _meaning(name: str, error: OSError) -> StoreError:
    number = error.errno or 0
    if number in _FULL:
        return QuotaFull(f"{name}: the file system is full")
    if number in _REFUSED:
        return Refused(f"{name}: {_REFUSED[number]}")
    return Unreachable(f"{name}: {os.strerror(number)}")
