"""The namespace beside a real directory: the same calls, the same errors, the same tree."""

import os
import stat
import tempfile
from stat import S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG

from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.errors import NamespaceError
from aggfs.mount.errors import errno_of
from tests.support.namespaces import World, world
from tests.support.renaming import EXCHANGE, NOREPLACE, renameat2

MEMORY_DIRECTORY = "/dev/shm"  # noqa: S108 - tmpfs counts links of directories as ext4 does
LONG, TOO_LONG = b"l" * 255, b"l" * 256
NAMES = (b"a", b"b", b"c", LONG, TOO_LONG)
# Without rights on a directory nobody but root gets on; the namespace leaves that to the kernel.
MODES = (0o700, 0o4755, 0o1777, 0 if os.getuid() == 0 else 0o711)


class Both:
    """A namespace and a directory on which the same is done."""

    def __init__(self, w: World, root: bytes) -> None:
        self.names = w.namespace
        self.root = root

    def number(self, path: bytes) -> int:
        return self.names.resolve(path).number

    def directories(self) -> list[bytes]:
        return [b"", *(path for path, row in self.tree() if stat.S_ISDIR(row.mode))]

    def paths(self) -> list[bytes]:
        return [path for path, _ in self.tree()]

    def tree(self) -> list:
        found = []
        todo = [(b"", 1)]
        while todo:
            path, number = todo.pop()
            for name, row, cookie in self.names.readdir(number, 2):
                assert cookie > 2
                found.append((path + b"/" + name, row))
                if stat.S_ISDIR(row.mode):
                    todo.append((path + b"/" + name, row.number))
        return sorted(found)

    def compare(self) -> None:
        real = []
        for path, directories, files in os.walk(self.root):
            real += [os.path.join(path, name) for name in (*directories, *files)]
        ours = self.tree()
        assert sorted(path[len(self.root) :] for path in real) == [path for path, _ in ours]
        groups: dict[int, set[int]] = {}
        for path, row in ours:
            status = os.lstat(self.root + path)
            nlink = 2 + row.subdirectories if stat.S_ISDIR(row.mode) else row.nlink
            assert nlink == status.st_nlink
            assert stat.S_IFMT(row.mode) == stat.S_IFMT(status.st_mode)
            if not stat.S_ISLNK(row.mode):
                assert row.mode == status.st_mode
            groups.setdefault(row.number, set()).add(status.st_ino)
        assert all(len(inodes) == 1 for inodes in groups.values())

    # --- the calls ----------------------------------------------------------------------------

    def create(self, parent: bytes, name: bytes, kind: int) -> tuple:
        path = self.root + parent + b"/" + name
        number = self.number(parent)
        if kind == 0:
            return (
                lambda: os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644)),
                lambda: self.names.create(number, name, S_IFREG | 0o644, 0, 0),
            )
        if kind == 1:
            return (
                lambda: os.mkdir(path, 0o755),
                lambda: self.names.create(number, name, S_IFDIR | 0o755, 0, 0),
            )
        if kind == 2:
            return (
                lambda: os.symlink(b"target", path),
                lambda: self.names.create(number, name, S_IFLNK | 0o777, 0, 0, target=b"target"),
            )
        return (
            lambda: os.mkfifo(path, 0o600),
            lambda: self.names.create(number, name, S_IFIFO | 0o600, 0, 0),
        )

    def remove(self, parent: bytes, name: bytes, kind: int) -> tuple:
        path = self.root + parent + b"/" + name
        number = self.number(parent)
        if kind % 2:
            return lambda: os.unlink(path), lambda: self.names.unlink(number, name)
        return lambda: os.rmdir(path), lambda: self.names.rmdir(number, name)

    def rename(self, old: bytes, new_parent: bytes, new_name: bytes, flags: int) -> tuple:
        parent, _, name = old.rpartition(b"/")
        new = self.root + new_parent + b"/" + new_name
        where = self.number(parent), name, self.number(new_parent), new_name
        ours = {
            0: lambda: self.names.rename(*where, wait_for_content=False),
            NOREPLACE: lambda: self.names.rename_noreplace(*where),
            EXCHANGE: lambda: self.names.exchange(*where),
        }
        return lambda: renameat2(self.root + old, new, flags), ours[flags]

    def link(self, old: bytes, parent: bytes, name: bytes) -> tuple:
        new = self.root + parent + b"/" + name
        where = self.number(old), self.number(parent), name
        return (
            lambda: os.link(self.root + old, new, follow_symlinks=False),
            lambda: self.names.link(*where),
        )

    def chmod(self, path: bytes, mode: int) -> tuple:
        number = self.number(path)
        return (
            lambda: os.chmod(self.root + path, mode) if not _is_link(self.root + path) else None,
            lambda: self.names.set_attributes(number, mode=mode),
        )


def _is_link(path: bytes) -> bool:
    return stat.S_ISLNK(os.lstat(path).st_mode)


def outcome(call) -> int:
    """The errno of a call of either kind, 0 when it went well."""
    try:
        call()
    except OSError as error:
        return error.errno
    except NamespaceError as error:
        return errno_of("any", error)
    return 0


def act(both: Both, action: int, one: int, two: int, three: int) -> None:
    directories, paths = both.directories(), both.paths() or [b"/missing"]
    parent, name = directories[one % len(directories)], NAMES[two % len(NAMES)]
    path = paths[one % len(paths)] if three % 5 else b"/missing"
    target = directories[three % len(directories)]
    if action < 4:
        calls = both.create(parent, name, three % 4)
    elif action < 6:
        calls = both.remove(parent, name, three)
    elif action < 10:
        calls = both.rename(path, target, name, (0, 0, NOREPLACE, EXCHANGE)[action - 6])
    elif action == 10 and path != b"/missing":
        calls = both.link(path, target, name)
    elif path != b"/missing":
        calls = both.chmod(path, MODES[two % 4])
    else:
        return
    real, ours = calls
    assert outcome(ours) == outcome(real)


small = st.integers(0, 60)
histories = st.lists(st.tuples(st.integers(0, 11), small, small, small), max_size=50)


@settings(max_examples=150)
@given(histories)
def test_it_answers_as_a_real_directory_does(tmp_path_factory, history) -> None:
    with (
        tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY) as real,
        world(tmp_path_factory.mktemp("namespace")) as w,
    ):
        both = Both(w, os.fsencode(real))
        for at, step in enumerate(history):
            act(both, *step)
            if at % 10 == 9:
                w.publish()
        both.compare()
