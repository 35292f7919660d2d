"""Steps of the model tests, drawn at random: (what, arguments ...). Names are few: they meet."""

from typing import Any

from hypothesis import strategies as st

from aggfs.model import BLOCK_BYTES
from tests.support.renaming import EXCHANGE, NOREPLACE
from tests.support.twins import OLD, OLDER

Step = tuple[Any, ...]
Steps = st.SearchStrategy[Step]

path = st.sampled_from([b"a", b"b", b"c", b"a/a", b"a/b", b"b/c", b"a/b/c"])
slot = st.integers(0, 1)
size = st.sampled_from(
    [0, 1, 15, 500, 1024, 1025, 70_000, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7]
)
length = st.sampled_from([1, 17, 900, 1025, 4096, 70_000, BLOCK_BYTES, 2 * BLOCK_BYTES + 3])
seed = st.integers(0, 250)
# Who is not root must be able to look into everything.
mode = st.sampled_from([0o700, 0o755, 0o2750, 0o6755, 0o1777])
time = st.sampled_from([OLD, OLDER])
xattr = st.sampled_from([b"user.a", b"user.b"])
value = st.binary(max_size=20)


def one(kind: str, *arguments: st.SearchStrategy[Any]) -> Steps:
    """A step of one kind."""
    return st.tuples(st.just(kind), *arguments)


COMMON: tuple[Steps, ...] = (
    one("create", path, mode),
    one("mkdir", path, mode),
    one("symlink", path, path),
    one("link", path, path),
    one("unlink", path),
    one("rmdir", path),
    one("rename", path, path, st.sampled_from([0, 0, NOREPLACE, EXCHANGE])),
    one("rename", path, path, st.sampled_from([0, 0, NOREPLACE, EXCHANGE])),
    one("chmod", path, mode),
    one("utime", path, time, time),
    one("remove_xattr", path, xattr),
    one("write", path, size, length, seed),
    one("write", path, size, length, seed),
    one("write_anew", path, length, seed),
    one("truncate", path, size),
    one("write_open", slot, size, length, seed),
    one("read_open", slot, size, length),
    one("truncate_open", slot, size),
    one("close", slot),
    one("look"),
    one("flush"),
    one("evict"),
    one("lose", st.integers(0, 2)),
    one("find"),
)
BEGIN: list[Step] = [
    ("mkdir", b"a", 0o755),
    ("create", b"b", 0o700),
    ("create", b"a/b", 0o700),
    ("write", b"b", 0, 2 * BLOCK_BYTES + 3, 1),
]


def histories(*more: Steps) -> st.SearchStrategy[list[Step]]:
    """Many steps, after some that make the first files: the common ones and these."""
    many = st.lists(st.one_of(*COMMON, *more), min_size=40, max_size=80)
    return many.map(lambda steps: [*BEGIN, *steps])
