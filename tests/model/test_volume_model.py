"""Random operations on a volume and on a dictionary of bytes: they always agree.

Flushing, evicting, stopping and starting again, accounts coming and going are operations too.
"""

import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.running import Place, flush, make_volume, running

NAMES = [b"a", b"b", b"c"]
OFFSETS = [0, 1, 15, 1000, 65536, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 7]
LENGTHS = [1, 17, 900, 4096, 70000, BLOCK_BYTES, 2 * BLOCK_BYTES + 3]

Operation = tuple[Any, ...]
name = st.sampled_from(NAMES)
number = st.integers(0, 250)
operation: st.SearchStrategy[Operation] = st.one_of(
    st.tuples(st.just("write"), name, st.sampled_from(OFFSETS), st.sampled_from(LENGTHS), number),
    st.tuples(st.just("write"), name, st.sampled_from(OFFSETS), st.sampled_from(LENGTHS), number),
    st.tuples(st.just("truncate"), name, st.sampled_from([0, 1, 500, 70000, *OFFSETS])),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("unlink"), name),
    st.tuples(st.just("flush")),
    st.tuples(st.just("evict")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("lose"), st.integers(0, 2)),
    st.tuples(st.just("find")),
)


class Pair:
    """A volume and its model."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.model: dict[bytes, bytes] = {}
        self.lost: int | None = None

    async def play(self, operations: Sequence[Operation]) -> None:
        """All operations, restarts between volumes, comparing after each."""
        rest = list(operations)
        while True:
            async with running(self.place.config, self.place.state) as volume:
                await self.compare(volume)
                while rest:
                    what, *arguments = rest.pop(0)
                    if what == "restart":
                        break
                    await getattr(self, what)(volume, *arguments)
                    await self.compare(volume)
                else:
                    self.find_now()
                    await flush(volume)
                    await volume.control("evict", {})
                    await self.compare(volume)
                    return

    async def compare(self, volume: Volume) -> None:
        shown = {
            entry: row
            for entry, row, _ in volume.namespace.readdir(1, 0)
            if entry not in (b".", b"..")
        }
        assert set(shown) == set(self.model)
        for entry, row in shown.items():
            expected = self.model[entry]
            assert row.size == len(expected)
            read = await volume.files.read(row.number, 0, len(expected) + 1)
            assert bytes(read) == expected, entry

    # --- the operations -----------------------------------------------------------------------

    async def write(
        self, volume: Volume, entry: bytes, offset: int, length: int, seed: int
    ) -> None:
        data = (bytes((seed, seed ^ 255, length % 251)) * (length // 3 + 1))[:length]
        if entry not in self.model:
            volume.namespace.create(1, entry, stat.S_IFREG | 0o644, 0, 0)
            self.model[entry] = b""
        row = volume.namespace.lookup(1, entry)
        await volume.files.opened(row.number, truncate=False)
        await volume.files.write(row.number, offset, data)
        await volume.files.released(row.number)
        before = self.model[entry].ljust(offset, b"\0")
        self.model[entry] = before[:offset] + data + before[offset + length :]

    async def truncate(self, volume: Volume, entry: bytes, size: int) -> None:
        if entry in self.model:
            row = volume.namespace.lookup(1, entry)
            await volume.files.truncate(row.number, size)
            self.model[entry] = self.model[entry][:size].ljust(size, b"\0")

    async def rename(self, volume: Volume, entry: bytes, new: bytes) -> None:
        if entry in self.model and entry != new:
            moved = volume.namespace.lookup(1, entry).number
            replaced = volume.namespace.rename(
                1, entry, 1, new, wait_for_content=volume.files.is_dirty(moved)
            )
            self.model[new] = self.model.pop(entry)
            if replaced is not None:
                volume.namespace.drop_unlinked(replaced.number)

    async def unlink(self, volume: Volume, entry: bytes) -> None:
        if entry in self.model:
            row = volume.namespace.unlink(1, entry)
            volume.namespace.drop_unlinked(row.number)
            del self.model[entry]

    async def flush(self, volume: Volume) -> None:
        await flush(volume)

    async def evict(self, volume: Volume) -> None:
        await volume.control("evict", {})

    async def lose(self, volume: Volume, account: int) -> None:
        """One account is gone: everything goes on as before."""
        if self.lost is None:
            self.path(account).rename(self.path(account).with_suffix(".away"))
            self.lost = account

    async def find(self, volume: Volume) -> None:
        self.find_now()

    def find_now(self) -> None:
        if self.lost is not None:
            self.path(self.lost).with_suffix(".away").rename(self.path(self.lost))
            self.lost = None

    def path(self, account: int) -> Path:
        return Path(self.place.config.accounts[account].path)


BIG = 2 * BLOCK_BYTES + 3
SENT = [("flush",), ("evict",), ("restart",)]
SHARP_CORNERS: dict[str, list[Operation]] = {
    "what a cut removed does not come back": [
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 500),
        *SENT,
        ("truncate", b"a", BIG),
        *SENT,
    ],
    "cut and made longer between two flushes": [
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 70000),
        ("truncate", b"a", BIG),
        *SENT,
    ],
    "an inline content made longer": [
        ("write", b"a", 0, 17, 7),
        *SENT,
        ("truncate", b"a", 900),
        *SENT,
        ("truncate", b"a", 70000),
        *SENT,
        ("write", b"a", BIG, 17, 9),
        *SENT,
    ],
    "a write into a hole": [
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("write", b"a", 1000, 17, 8),
        *SENT,
    ],
    "emptied and filled again": [
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 0),
        ("write", b"a", BLOCK_BYTES, 17, 8),
        *SENT,
    ],
}


@pytest.mark.parametrize("corner", SHARP_CORNERS)
def test_a_sharp_corner(corner: str) -> None:
    play(SHARP_CORNERS[corner])


@settings(max_examples=20, deadline=None)
@given(st.lists(operation, min_size=4, max_size=24))
def test_a_volume_is_a_dictionary_of_bytes(operations: list[Operation]) -> None:
    play(operations)


def play(operations: list[Operation]) -> None:
    root = Path(tempfile.mkdtemp(prefix="aggfs-model-"))

    async def both() -> None:
        await Pair(await make_volume(root)).play(operations)

    try:
        trio.run(both)
    finally:
        shutil.rmtree(root)
