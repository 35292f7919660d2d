"""Random operations on the real mount and on a plain directory: no program sees a difference.

Sending out, eviction, unmounting, `kill -9` after fsync, and an account that goes and comes are
operations too. `scripts/drill model` does more of it.
"""

import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from aggfs.cli.client import NotRunning
from tests.support.mounting import ServedFolder, needs_fuse, served
from tests.support.steps import (
    Step,
    file,
    histories,
    length,
    mode,
    one,
    passages,
    path,
    seed,
    slot,
    value,
    writes_in_flush,
    xattr,
)
from tests.support.twins import Twins, paths_below
from tests.support.volumes import drop_pages

pytestmark = needs_fuse

ROUNDS = os.environ.get("AGGFS_MODEL_ROUNDS", "")  # at random where a number is given
STARTS = 3  # of the daemon in one round: they take longest
HISTORIES = histories(
    one("create", path, mode, st.just(0)),
    one("append", file, length, seed),
    one("chown", path, st.just(os.getuid()), st.sampled_from([-1, os.getgid(), 1234])),
    one("set_xattr", path, xattr, value, st.sampled_from([0, os.XATTR_CREATE, os.XATTR_REPLACE])),
    one("open", slot, file, st.sampled_from([os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY])),
    one("look_at_open", slot),
    one("fsync_open", slot),
    one("begin_flush"),
    one("unmount"),
    one("kill"),
    passage=passages(os.O_RDWR, again="unmount"),
)


class Mounted:
    """A volume of 2-of-3 over directories, mounted; and the twins, one of them in it."""

    def __init__(self, top: Path, stack: ExitStack, flushes: ThreadPoolExecutor) -> None:
        self._top = top
        self._stack = stack
        self._folder = self._start()
        self._starts = 1
        self._lost: Path | None = None
        self._flushes = flushes
        self._flushing: Future[object] | None = None
        (top / "plain").mkdir()
        self.twins = Twins(top / "plain", Path(self._folder.path))

    def _start(self) -> ServedFolder:
        return self._stack.enter_context(served("tests.support.volume_mount", self._top))

    def play(self, steps: list[Step]) -> None:
        """All steps; names and attributes are compared after each."""
        for kind, *arguments in steps:
            owner = self if hasattr(self, kind) else self.twins
            getattr(owner, kind)(*arguments)
            self.twins.compare()

    def end(self) -> None:
        """Everything comes from the accounts now."""
        self.find()
        self.look()
        self.flush()
        self.twins.check_room()
        self.evict()
        self.twins.compare()
        self.look()

    # --- what only ours has -------------------------------------------------------------------

    def look(self) -> None:
        self.twins.compare_contents()

    def begin_flush(self) -> None:
        """What comes next is done while everything is sent out."""
        self.end_flush()
        self._flushing = self._flushes.submit(self._folder.ask, "flush")

    def write_in_flush(self, path: bytes, *where: int) -> None:
        self.begin_flush()
        for write in writes_in_flush(*where):
            if self._flushing is None or self._flushing.done():
                break
            self.twins.write(path, *write)

    def end_flush(self) -> None:
        if self._flushing is not None:
            flushing, self._flushing = self._flushing, None
            flushing.result()

    def flush(self) -> None:
        self.end_flush()
        self._folder.ask("flush")

    def evict(self) -> None:
        self._folder.ask("evict")
        for found in paths_below(os.fsencode(self._folder.path)):
            drop_pages(Path(self._folder.path) / os.fsdecode(found))

    def unmount(self) -> None:
        if self._starts < STARTS:
            self.end_flush()
            self.twins.close_all()
            assert self._folder.stop() == 0
            self._start_again()

    def kill(self) -> None:
        if self._starts < STARTS:
            self.twins.sync()
            self._folder.process.kill()
            self._folder.process.wait()
            with suppress(NotRunning):  # a flush is cut short as well
                self.end_flush()
            self.twins.close_all()
            self._start_again()

    def _start_again(self) -> None:
        self._stack.close()
        self._folder = self._start()
        self._starts += 1

    def lose(self, number: int) -> None:
        if self._lost is None:
            self._lost = self._top / f"account{number}"
            self._lost.rename(self._lost.with_suffix(".away"))

    def find(self) -> None:
        if self._lost is not None:
            self._lost.with_suffix(".away").rename(self._lost)
            self._lost = None


# To shrink what failed would take minutes.
@settings(max_examples=int(ROUNDS or 6), derandomize=not ROUNDS, phases=(Phase.generate,))
@given(HISTORIES)
def test_the_mount_is_a_plain_directory(steps: list[Step]):
    top = Path(tempfile.mkdtemp(prefix="aggfs-twins-"))
    try:
        with ThreadPoolExecutor(1) as flushes, ExitStack() as stack:
            mounted = Mounted(top, stack, flushes)
            try:
                mounted.play(steps)
                mounted.end()
            finally:
                mounted.twins.close_all()
    finally:
        shutil.rmtree(top)
