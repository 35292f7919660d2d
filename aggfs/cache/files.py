"""The directory of sparse files: which there are, opening them, and getting rid of them."""

import contextlib
import functools
import os
import resource
import tempfile
import threading
from collections.abc import Iterator

from aggfs.cache.database import Database
from aggfs.cache.marks import Marks
from aggfs.cache.presence import FOR_EVER
from aggfs.cache.ranges import NewRanges
from aggfs.cache.sidecar import Sidecar
from aggfs.cache.sparse import SparseFile
from aggfs.cache.sums import TABLE, CleanSums, sweep
from aggfs.cache.unitfile import UnitCipher, UnitFile
from aggfs.disk import sync_directory
from aggfs.errors import Busy, LocalDiskFailed

_PROBE_BYTES = 1024 * 1024
STAT_BLOCK_BYTES = 512
_ENDLESS_DESCRIPTORS = 1 << 20


class SparseFiles:
    """Under one directory: `data/NUMBER.GENERATION` (hexadecimal) the bytes, `marks` the dirty
    marks of all files, and `tails/NUMBER.GENERATION` those that do not fit there."""

    def __init__(self, directory: str, database: Database, new_ranges: NewRanges) -> None:
        self._data = os.path.join(directory, "data")
        self._tails = os.path.join(directory, "tails")
        self._database = database
        self._table = database.table(TABLE)
        self._new_ranges = new_ranges
        self._known: set[tuple[int, int]] = set()
        self._synced: set[tuple[int, int]] = set()  # of these, with nothing left to sync
        self._lingering: dict[tuple[int, int], SparseFile] = {}
        self._doomed: dict[tuple[int, int], bool] = {}  # whether that is committed
        self._purging = threading.Lock()
        for path in (self._data, self._tails):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self._marks = Marks(os.path.join(directory, "marks"))
        sync_directory(directory)

    def _paths(self, number: int, generation: int) -> tuple[str, str]:
        name = f"{number:016x}.{generation:x}"
        return os.path.join(self._data, name), os.path.join(self._tails, name)

    def open(
        self, number: int, generation: int, *, size: int, cipher: UnitCipher | None
    ) -> SparseFile:
        """Loop: open or create. `size` is the file's size as the database has it: local edits
        beyond it were never acknowledged. `cipher` is the same every time for this number.
        Raises OSError, UnknownVersion; Busy for what is to go and may come back still.
        """
        lingering = self._lingering.pop((number, generation), None)
        if lingering is not None:
            return lingering
        if (number, generation) in self._doomed:
            if not self._doomed[number, generation]:
                raise Busy("this file is gone")
            with self._purging:  # left behind by a death, and given again
                self._delete(number, generation)
        raw = UnitFile.open(self._paths(number, generation)[0], cipher)
        return self.open_as(number, generation, raw, size=size)

    def open_as(self, number: int, generation: int, raw: UnitFile, *, size: int) -> SparseFile:
        """Loop: as `open`, of one whose bytes are in `raw`."""
        tail = self._paths(number, generation)[1]
        file = SparseFile(
            number,
            generation,
            raw,
            Sidecar(self._marks, tail, number, generation, self._new_ranges),
            CleanSums(self._table, number, generation),
            directory=self._data,
            new_ranges=self._new_ranges,
            after_commit=self._database.after_commit,
            sync_names=functools.partial(sync_directory, self._data),
        )
        file.recover(
            size,
            trusted=(number, generation) in self._known,
            zeros_may_be_holes=raw.encrypted or self._zeros_may_be_holes,
        )
        if raw.is_longer_than(0) and (number, generation) not in self._synced:
            # Whoever wrote to it, or cut it, need not have synced it.
            file.syncing.needed = file.syncing.cut = True
        self._known.discard((number, generation))
        self._synced.discard((number, generation))
        return file

    def close(self, file: SparseFile) -> None:
        """Loop: close it; its edits are found again by `open`. Raises Busy while it is frozen."""
        key = (file.number, file.generation)
        if file.frozen:
            raise Busy("this file is being sent out")
        if file.settling:  # its marks go with the next commit; `open` may come before that
            file.settle(FOR_EVER)
            self._lingering[key] = file
            self._database.after_commit(lambda: self._close_lingering(key, file))
            return
        file.close()
        self._known.add(key)
        if not file.syncing.pending:
            self._synced.add(key)

    def _close_lingering(self, key: tuple[int, int], file: SparseFile) -> None:
        if self._lingering.get(key) is file:
            del self._lingering[key]
            self.close(file)

    def remove(self, file: SparseFile) -> None:
        """Loop: what the file holds is not wanted any more, once everything put until now is
        committed: another generation, or an inode that is gone. `purge` deletes it then."""
        file.retire()
        self.remove_unopened(file.number, file.generation)

    def remove_unopened(self, number: int, generation: int, *, committed: bool = False) -> None:
        """Loop: as `remove`, of one that is not open. `committed`: no row knew it at the start."""
        self._known.discard((number, generation))
        self._synced.discard((number, generation))
        self._lingering.pop((number, generation), None)
        CleanSums(self._table, number, generation).discard()
        self._doomed[number, generation] = committed
        self._database.after_commit(lambda: self._may_go(number, generation))

    def _may_go(self, number: int, generation: int) -> None:
        if (number, generation) in self._doomed:
            self._doomed[number, generation] = True

    def purge(self) -> None:
        """In a worker: delete the files whose removal is committed. Raises OSError."""
        for key, committed in list(self._doomed.items()):
            with self._purging:
                if committed:
                    self._delete(*key)

    def _delete(self, number: int, generation: int) -> None:
        if (number, generation) not in self._doomed:
            return
        # The marks go first: marks without their bytes would be edits that never were.
        self._marks.discard(number, generation)
        for path in reversed(self._paths(number, generation)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        del self._doomed[number, generation]

    def sync_marks(self) -> None:
        """In a worker: the marks that are gone are gone after a loss of power, too; but for those
        of files with marks left, see `SparseFile.sync`. Raises LocalDiskFailed."""
        try:
            self._marks.sync()
        except OSError as error:
            raise LocalDiskFailed(f"the local disk refused a sync: {error}") from error

    def sweep(self, limit: int = 1000) -> bool:
        """Loop: delete some rows of removed files; whether there may be more."""
        return sweep(self._table, limit)

    def dirty(self) -> list[tuple[int, int]]:
        """(number, generation) of the files that may hold local edits and are not open."""
        return self._marks.tenants()

    def all(self) -> Iterator[tuple[int, int]]:
        """(number, generation) of all files."""
        yield from sorted({*self._marks.tenants(), *self.stored()})

    def stored(self) -> list[tuple[int, int]]:
        """In a worker: (number, generation) of the files that have bytes here, but for those
        that are about to go: at a start, to remove what nobody knows."""
        found = map(_parse, os.listdir(self._data))
        return [key for key in found if key not in self._doomed]

    def usage(self) -> list[tuple[int, int, int]]:
        """In a worker: (time of the last change in ns, number, bytes on the disk) of each file."""
        found = []
        with os.scandir(self._data) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    known = entry.stat()
                    number, _ = _parse(entry.name)
                    found.append((known.st_mtime_ns, number, known.st_blocks * STAT_BLOCK_BYTES))
        return found

    @functools.cached_property
    def _zeros_may_be_holes(self) -> bool:
        """Whether this file system keeps written zeros as holes (ZFS with compression does)."""
        with tempfile.TemporaryFile(dir=self._data) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
            try:
                return os.lseek(probe.fileno(), 0, os.SEEK_DATA) != 0
            except OSError:
                return True


def allow_descriptors() -> int:
    """How many descriptors this process may have from now on: as many as the system lets it.
    Each open file has one; a shell allows 1024."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return _ENDLESS_DESCRIPTORS if most == resource.RLIM_INFINITY else most


def _parse(name: str) -> tuple[int, int]:
    number, generation = name.split(".")
    return int(number, 16), int(generation, 16)
