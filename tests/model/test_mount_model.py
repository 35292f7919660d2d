"""Random operations on the real mount and on a plain directory: no program sees a difference.

Sending out, eviction, unmounting, `kill -9` after fsync, and an account that goes and comes are
operations too. `scripts/drill model` does more of it.
"""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aggfs.model import BLOCK_BYTES
from tests.support.mounting import ServedFolder, needs_fuse, served
from tests.support.renaming import EXCHANGE, NOREPLACE, renameat2
from tests.support.stripes import content
from tests.support.twins import OLD, OLDER, Twins, join, paths_below
from tests.support.volumes import drop_pages

pytestmark = needs_fuse

ROUNDS = os.environ.get("AGGFS_MODEL_ROUNDS", "")  # at random where a number is given
SETTINGS = settings(
    max_examples=int(ROUNDS or 10),
    stateful_step_count=50,
    derandomize=not ROUNDS,
    phases=(Phase.generate,),  # to shrink what failed would take minutes; its steps are told
)
STARTS = 3  # of the daemon in one example: they take longest

paths = st.sampled_from([b"a", b"b", b"c", b"a/a", b"a/b", b"b/a", b"b/c", b"c/b", b"a/b/c"])
slots = st.integers(0, 2)
sizes = st.sampled_from(
    [0, 1, 900, 1024, 1025, 4096, 70_000, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7]
)
lengths = st.sampled_from([0, 1, 17, 1024, 1025, 5000, 130_000, BLOCK_BYTES, 300_001])
seeds = st.integers(0, 250)
# Who is not root must be able to look into everything.
file_modes = st.sampled_from([0o600, 0o644, 0o6755, 0o2644, 0o1777])
directory_modes = st.sampled_from([0o700, 0o755, 0o2775, 0o1777])
times = st.sampled_from([OLD, OLDER])
names_of_xattrs = st.sampled_from([b"user.a", b"user.b"])
flags_of_xattrs = st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
flags_of_renames = st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE])
flags_of_opens = st.sampled_from([os.O_RDWR, os.O_RDWR | os.O_APPEND, os.O_RDONLY])


class MountIsADirectory(RuleBasedStateMachine):
    """One volume of 2-of-3 over directories, mounted anew for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.top = Path(tempfile.mkdtemp(prefix="aggfs-twins-"))
        (self.top / "plain").mkdir()
        self.stack = ExitStack()
        self.folder = self.start()
        self.starts = 1
        self.lost: Path | None = None
        self.twins = Twins(self.top / "plain", Path(self.folder.path))
        self.do = self.twins.do

    def start(self) -> ServedFolder:
        return self.stack.enter_context(served("tests.support.volume_mount", self.top))

    @initialize(size=sizes)
    def begin(self, size):
        self.do(lambda top: os.mkdir(join(top, b"a")))
        for path in (b"b", b"a/b"):
            self.create(path, 0o644, exclusive=True)
            self.write(path, 0, size, 1)

    # --- names --------------------------------------------------------------------------------

    @rule(path=paths, mode=file_modes, exclusive=st.booleans())
    def create(self, path, mode, exclusive):
        flags = os.O_CREAT | os.O_WRONLY | (os.O_EXCL if exclusive else 0)
        self.do(lambda top: os.close(os.open(join(top, path), flags, mode)))

    @rule(path=paths, mode=directory_modes)
    def mkdir(self, path, mode):
        self.do(lambda top: os.mkdir(join(top, path), mode))

    @rule(path=paths)
    def rmdir(self, path):
        self.do(lambda top: os.rmdir(join(top, path)))

    @rule(path=paths)
    def unlink(self, path):
        self.do(lambda top: os.unlink(join(top, path)))

    @rule(path=paths, wherever=paths)
    def symlink(self, path, wherever):
        self.do(lambda top: os.symlink(wherever, join(top, path)))

    @rule(path=paths, new=paths)
    def link(self, path, new):
        self.do(lambda top: os.link(join(top, path), join(top, new), follow_symlinks=False))

    @rule(path=paths, new=paths, flags=flags_of_renames)
    def rename(self, path, new, flags):
        self.do(lambda top: renameat2(join(top, path), join(top, new), flags))

    # --- contents -----------------------------------------------------------------------------

    def written(self, path, flags, offset, length, seed):
        def write(top):
            descriptor = os.open(join(top, path), os.O_WRONLY | flags)
            try:
                return os.pwrite(descriptor, content(length, seed), offset)
            finally:
                os.close(descriptor)

        self.do(write)

    @rule(path=paths, offset=sizes, length=lengths, seed=seeds)
    def write(self, path, offset, length, seed):
        self.written(path, 0, offset, length, seed)

    @rule(path=paths, length=lengths, seed=seeds)
    def append(self, path, length, seed):
        self.written(path, os.O_APPEND, 0, length, seed)

    @rule(path=paths, length=lengths, seed=seeds)
    def write_anew(self, path, length, seed):
        self.written(path, os.O_TRUNC, 0, length, seed)

    @rule(path=paths, size=sizes)
    def truncate(self, path, size):
        self.do(lambda top: os.truncate(join(top, path), size))

    @rule()
    def look(self):
        self.twins.compare_contents()

    # --- attributes ---------------------------------------------------------------------------

    @rule(path=paths, mode=file_modes)
    def chmod(self, path, mode):
        self.do(lambda top: os.chmod(join(top, path), mode | 0o100))

    @rule(path=paths, group=st.sampled_from([-1, os.getgid(), 1234]))
    def chown(self, path, group):
        self.do(lambda top: os.chown(join(top, path), os.getuid(), group, follow_symlinks=False))

    @rule(path=paths, atime=times, mtime=times)
    def utime(self, path, atime, mtime):
        self.do(lambda top: os.utime(join(top, path), ns=(atime, mtime), follow_symlinks=False))

    @precondition(lambda self: self.twins.xattrs)
    @rule(path=paths, name=names_of_xattrs, value=st.binary(max_size=20), flags=flags_of_xattrs)
    def set_xattr(self, path, name, value, flags):
        self.do(lambda top: os.setxattr(join(top, path), name, value, flags))

    @precondition(lambda self: self.twins.xattrs)
    @rule(path=paths, name=names_of_xattrs)
    def remove_xattr(self, path, name):
        self.do(lambda top: os.removexattr(join(top, path), name))

    # --- open files, some of them without a name by now ---------------------------------------

    @rule(slot=slots, path=paths, flags=flags_of_opens)
    def open(self, slot, path, flags):
        self.twins.open(slot, path, flags)

    @rule(slot=slots, offset=sizes, length=lengths, seed=seeds)
    def write_open(self, slot, offset, length, seed):
        data = content(length, seed)
        self.twins.on_open(slot, lambda descriptor: os.pwrite(descriptor, data, offset))

    @rule(slot=slots, offset=sizes, length=lengths)
    def read_open(self, slot, offset, length):
        self.twins.on_open(slot, lambda descriptor: os.pread(descriptor, length, offset))

    @rule(slot=slots, size=sizes)
    def truncate_open(self, slot, size):
        self.twins.on_open(slot, lambda descriptor: os.ftruncate(descriptor, size))

    @rule(slot=slots)
    def look_at_open(self, slot):
        self.twins.on_open(slot, status_of)

    @rule(slot=slots)
    def fsync_open(self, slot):
        self.twins.on_open(slot, os.fsync)

    @rule(slot=slots)
    def close(self, slot):
        self.twins.close(slot)

    # --- what only ours has -------------------------------------------------------------------

    @rule()
    def flush(self):
        self.folder.ask("flush")

    @rule()
    def evict(self):
        self.folder.ask("evict")
        for path in paths_below(os.fsencode(self.folder.path)):
            drop_pages(Path(self.folder.path) / os.fsdecode(path))

    @precondition(lambda self: self.starts < STARTS)
    @rule()
    def unmount(self):
        self.twins.close_all()
        assert self.folder.stop() == 0
        self.start_again()

    @precondition(lambda self: self.starts < STARTS)
    @rule()
    def kill(self):
        self.twins.sync()
        self.folder.process.kill()
        self.folder.process.wait()
        self.twins.close_all()
        self.start_again()

    def start_again(self):
        self.stack.close()
        self.folder = self.start()
        self.starts += 1

    @precondition(lambda self: self.lost is None)
    @rule(number=st.integers(0, 2))
    def lose(self, number):
        self.lost = self.top / f"account{number}"
        self.lost.rename(self.lost.with_suffix(".away"))

    @precondition(lambda self: self.lost is not None)
    @rule()
    def find(self):
        self.lost.with_suffix(".away").rename(self.lost)
        self.lost = None

    # --- always -------------------------------------------------------------------------------

    @invariant()
    def they_are_the_same(self):
        self.twins.compare()

    def teardown(self):
        try:
            if self.lost is not None:
                self.find()
            self.twins.compare_contents()
            self.flush()
            self.evict()
            self.twins.compare()
            self.twins.compare_contents()
        finally:
            self.twins.close_all()
            self.stack.close()
            shutil.rmtree(self.top)


def status_of(descriptor):
    status = os.fstat(descriptor)
    return oct(status.st_mode), status.st_nlink, status.st_size


def test_the_mount_is_a_plain_directory():
    run_state_machine_as_test(MountIsADirectory, settings=SETTINGS)
