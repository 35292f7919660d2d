"""Steps of the model tests, drawn at random: (what, arguments ...). Names are few: they meet.

Most of a history are *passages*: changes of one file, through its name and through a handle, at
the edges of blocks, after its content was brought into the accounts or while it is, with holes
or without; then all of it is looked at. Between them lie steps of any kind.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from aggfs.model import BLOCK_BYTES
from tests.support.renaming import EXCHANGE, NOREPLACE
from tests.support.twins import OLD, OLDER

Step = tuple[Any, ...]
Steps = st.SearchStrategy[Step]

path = st.sampled_from([b"a", b"b", b"c", b"a/a", b"a/b", b"b/c", b"a/b/c"])
file = st.sampled_from([b"b", b"c", b"a/b"])  # mostly files
folder = st.sampled_from([b"a", b"a/a", b"b/c", b"a/b/c"])  # mostly none
slot = st.integers(0, 1)
size = st.sampled_from(
    [0, 1, 15, 500, 1024, 1025, 70_000, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7]
)
edge = st.builds(
    lambda block, shift: max(0, block * BLOCK_BYTES + shift),
    st.integers(0, 3),
    st.sampled_from([-4096, -17, -1, 0, 0, 1, 500, 4096, 70_000]),
)
length = st.sampled_from([1, 17, 900, 1025, 4096, 70_000, BLOCK_BYTES, 2 * BLOCK_BYTES + 3])
seed = st.sampled_from([0, *range(1, 5)])  # 0: zeros
# Who is not root must be able to look into everything.
mode = st.sampled_from([0o700, 0o755, 0o2750, 0o6755, 0o1777])
time = st.sampled_from([OLD, OLDER])
xattr = st.sampled_from([b"user.a", b"user.b"])
value = st.binary(max_size=20)


def one(kind: str, *arguments: st.SearchStrategy[Any]) -> Steps:
    """A step of one kind."""
    return st.tuples(st.just(kind), *arguments)


COMMON: tuple[Steps, ...] = (
    *[one("create", file, mode)] * 3,
    one("create", path, mode),
    one("mkdir", folder, mode),
    one("symlink", folder, path),
    one("link", path, path),
    one("unlink", path),
    one("rmdir", path),
    *[one("rename", path, path, st.sampled_from([0, 0, NOREPLACE, EXCHANGE]))] * 2,
    one("chmod", path, mode),
    one("utime", path, time, time),
    one("remove_xattr", path, xattr),
    *[one("write", file, size, length, seed)] * 3,
    *[one("write_anew", file, length, seed)] * 2,
    *[one("truncate", file, size)] * 3,
    one("write_open", slot, size, length, seed),
    one("read_open", slot, size, length),
    one("truncate_open", slot, size),
    one("close", slot),
    *[one("look")] * 3,
    *[one("flush"), one("evict")] * 2,
    one("lose", st.integers(0, 2)),
    one("find"),
)
BEGIN: list[Step] = [
    ("mkdir", b"a", 0o755),
    ("create", b"b", 0o700),
    ("create", b"a/b", 0o700),
    ("write", b"b", 0, 2 * BLOCK_BYTES + 3, 1),
]


BY_NAME = {
    "write",
    "write_anew",
    "truncate",
    "write_in_flush",
}  # their path is left out until the passage has one
CUTS: list[Step] = [("truncate",), ("truncate_open", 0)]
CHANGE: Steps = st.one_of(
    *[one("write", edge, length, seed)] * 3,
    one("write_anew", length, seed),
    one("truncate", edge),
    *[one("write_open", st.just(0), edge, length, seed)] * 2,
    one("truncate_open", st.just(0), edge),
)


@st.composite
def cut_and_grown(draw: st.DrawFn) -> list[Step]:
    """At once: nobody looks at the file or sends it out between the two."""
    low, high = sorted((draw(edge), draw(edge)))
    grown = [*((*growth, high) for growth in CUTS), ("write", high, 17, 1)]
    return [(*draw(st.sampled_from(CUTS)), low), draw(st.sampled_from(grown))]


@st.composite
def blocks_of_zeros(draw: st.DrawFn) -> list[Step]:
    """Whole ones, over what there is."""
    first, count = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    return [("write", first * BLOCK_BYTES, count * BLOCK_BYTES, 0)]


ONE_CHANGE = CHANGE.map(lambda step: [step])


@st.composite
def changes_in_flush(draw: st.DrawFn) -> list[Step]:
    """Some writes while it is sent out, and perhaps a cut at once after them."""
    count = draw(st.sampled_from([1, 5, 20, 300]))
    writes = ("write_in_flush", draw(edge), count, draw(st.integers(1, 4)))
    return [writes, *draw(st.one_of(st.just([]), cut_and_grown()))]


CHANGES = st.one_of(
    ONE_CHANGE,
    ONE_CHANGE,
    cut_and_grown(),
    cut_and_grown(),
    blocks_of_zeros(),
    changes_in_flush(),
    changes_in_flush(),
)
SPREAD_BYTES = 1999


def writes_in_flush(offset: int, count: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """(offset, length, seed) of small writes at many places, while everything is sent out: some
    of them into what is just being sent."""
    for number in range(count):
        yield offset + number * SPREAD_BYTES, 17, seed


@st.composite
def passages(draw: st.DrawFn, *flags: int, again: str) -> list[Step]:
    """Changes of one file, and what comes between; in the end it is looked at. `flags` are what
    "open" takes beside slot and path; `again` is the step that stops everything and starts it
    again."""
    path = draw(file)
    opened: Step = ("open", 0, path, *flags)
    gone: list[Step] = [("flush",), ("evict",)]
    cleared = [gone, gone, [*gone, (again,), opened], [("begin_flush",)], [("flush",)], []]
    between = st.sampled_from([*cleared, [], []])

    def placed(step: Step) -> Step:
        kind, *arguments = step
        return (kind, path, *arguments) if kind in BY_NAME else step

    steps: list[Step] = [("create", path, 0o700), opened]
    if draw(st.integers(0, 3)):
        steps.append(("write", path, 0, 3 * BLOCK_BYTES + 7, draw(st.integers(1, 4))))
        steps += draw(st.sampled_from(cleared))
    for _ in range(draw(st.integers(1, 3))):
        steps += map(placed, draw(CHANGES))
        steps += draw(between)
    return [*steps, *draw(st.sampled_from([gone, gone, []])), ("look",)]


def histories(
    *more: Steps, passage: st.SearchStrategy[list[Step]]
) -> st.SearchStrategy[list[Step]]:
    """Many steps, after some that make the first files: the common ones, these, and passages."""
    some = st.lists(st.one_of(*COMMON, *more), min_size=3, max_size=8)
    many = st.lists(st.tuples(some, passage), min_size=10, max_size=14)
    return many.map(
        lambda parts: [*BEGIN, *chain.from_iterable([*first, *then] for first, then in parts)]
    )
