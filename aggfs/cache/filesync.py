"""Making a sparse file survive a loss of power: its marks, its bytes, its names."""

import threading
from collections.abc import Callable

from aggfs.cache.sidecar import Sidecar
from aggfs.cache.unitfile import UnitFile
from aggfs.errors import LocalDiskFailed


class FileSync:
    """Syncs one sparse file, one at a time, and never again once that failed.

    `needed` is set, with the file's lock held, by whoever changed something that must survive;
    `cut`, besides, by who took bytes away that a loss of power may bring back.
    """

    def __init__(
        self,
        raw: UnitFile,
        sidecar: Sidecar,
        lock: threading.Lock,
        sync_names: Callable[[], None],
    ) -> None:
        self._raw = raw
        self._sidecar = sidecar
        self._lock = lock
        self._sync_names = sync_names
        self._named = False
        self._failed = False
        self._running = threading.Lock()
        self.needed = bool(sidecar.marked)
        self.cut = False

    @property
    def pending(self) -> bool:
        """Whether something that must survive may not be on the disk yet."""
        return self.needed or self._running.locked()

    def sync(self) -> None:
        """Blocks. Raises LocalDiskFailed."""
        with self._running:
            if self._failed:
                raise LocalDiskFailed("a sync of this file failed before")
            with self._lock:
                needed, self.needed = self.needed, False
            if not needed:
                return
            try:
                self._sync()
            except OSError as error:
                self._failed = True
                raise LocalDiskFailed(f"the local disk refused a sync: {error}") from error
            with self._lock:
                self.cut = self.cut and self.needed  # there may be another one by now

    def _sync(self) -> None:
        if self._sidecar.long:
            self._sidecar.compact(self._lock)
            self._named = False
        self._sidecar.sync()
        self._raw.sync()
        if not self._named:
            self._sync_names()
            self._named = True
