"""Random operations on a volume, and on dictionaries of names and bytes: they always agree.

Flushing, evicting, stopping and starting again, crashing after everything was made sure, accounts
coming and going are operations too.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import Phase, given, settings

from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES
from tests.support.faces import Face
from tests.support.memory_volume import MemoryVolume
from tests.support.running import Place, flush, make_volume, running
from tests.support.steps import (
    Step,
    file,
    histories,
    one,
    passages,
    path,
    slot,
    value,
    writes_in_flush,
    xattr,
)
from tests.support.twins import moment

ROUNDS = os.environ.get("AGGFS_MODEL_ROUNDS", "")  # at random where a number is given
HISTORIES = histories(
    one("set_xattr", path, xattr, value),
    one("open", slot, file),
    one("begin_flush"),
    one("restart"),
    one("crash"),
    passage=passages(again="restart"),
)


class Flushes:
    """Those that steps go on beside, one at a time."""

    def __init__(self, volume: Volume, nursery: trio.Nursery) -> None:
        self._volume = volume
        self._nursery = nursery
        self._ended = trio.Event()
        self._ended.set()

    async def begin(self) -> None:
        """Until the next step that waits, nothing of it is done."""
        await self.end()
        self._ended = trio.Event()
        self._nursery.start_soon(self._flush, self._ended)

    async def _flush(self, ended: trio.Event) -> None:
        await flush(self._volume)
        ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def end(self) -> None:
        await self._ended.wait()


class Pair:
    """A volume and its model."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.model = Face(MemoryVolume())
        self.lost: Path | None = None
        self.flushes: Flushes

    async def play(self, steps: Sequence[Step]) -> None:
        """All steps, restarts between volumes; names are compared after each."""
        rest = list(steps)
        while rest:
            crashed = None
            async with (
                running(self.place.config, self.place.state) as volume,
                trio.open_nursery() as nursery,
            ):
                face = Face(volume)
                self.compare(face)
                self.flushes = Flushes(volume, nursery)
                while rest and crashed is None:
                    kind, *arguments = rest.pop(0)
                    if kind == "restart":
                        break
                    if kind == "crash":
                        crashed = await self.copy_of_state(volume, face)
                    else:
                        await self.step(volume, face, kind, *arguments)
            if crashed is not None:
                shutil.rmtree(self.place.state)
                crashed.rename(self.place.state)
            await self.model.close_all()
        await self.end()

    async def step(self, volume: Volume, face: Face, kind: str, *arguments: Any) -> None:
        match kind:
            case "look":
                assert await face.contents() == await self.model.contents()
            case "begin_flush":
                await self.flushes.begin()
            case "write_in_flush":
                await self.write_in_flush(face, *arguments)
            case "flush":
                await flush(volume)
            case "evict":
                await volume.control("evict", {})
            case "lose":
                self.lose(*arguments)
            case "find":
                self.find()
            case _:
                expected = await self.model.outcome(kind, *arguments)
                found = await face.outcome(kind, *arguments)
                assert found == expected, (kind, *arguments)
                self.compare(face)

    async def write_in_flush(self, face: Face, path: bytes, *where: int) -> None:
        await self.flushes.begin()
        for write in writes_in_flush(*where):
            if self.flushes.ended:
                break
            await self.model.outcome("write", path, *write)
            await face.outcome("write", path, *write)
            await trio.lowlevel.checkpoint()

    def compare(self, face: Face) -> None:
        assert face.shown(moment) == self.model.shown(moment)

    async def end(self) -> None:
        """Everything comes from the accounts now."""
        self.find()
        async with running(self.place.config, self.place.state) as volume:
            await flush(volume)
            await volume.control("evict", {})
            self.compare(Face(volume))
            assert await Face(volume).contents() == await self.model.contents()

    async def copy_of_state(self, volume: Volume, face: Face) -> Path:
        """What a crash at this very moment leaves, everything having been made sure of. The
        volume must come to no other thought."""
        await self.flushes.end()
        await face.sync()
        database = volume.parts.database
        while database._committing is not None or database._current.dirty:
            await database.durable()
        to = self.place.root / "crashed"
        return Path(shutil.copytree(self.place.state, to, copy_function=copy_if_there))

    def lose(self, number: int) -> None:
        """One account is gone: everything goes on as before."""
        if self.lost is None:
            self.lost = Path(self.place.config.accounts[number].path)
            self.lost.rename(self.lost.with_suffix(".away"))

    def find(self) -> None:
        if self.lost is not None:
            self.lost.with_suffix(".away").rename(self.lost)
            self.lost = None


def copy_if_there(source: str, target: str) -> None:
    """A thread may take away what staged bytes lay in, meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copyfile(source, target)


BIG = 2 * BLOCK_BYTES + 3
NEW = ("create", b"a", 0o600)
SENT: list[Step] = [("flush",), ("evict",), ("restart",)]
SHARP_CORNERS: dict[str, list[Step]] = {
    "what a cut removed does not come back": [
        NEW,
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 500),
        *SENT,
        ("truncate", b"a", BIG),
        *SENT,
    ],
    "cut and made longer between two flushes": [
        NEW,
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 70000),
        ("truncate", b"a", BIG),
        *SENT,
    ],
    "an inline content made longer": [
        NEW,
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
        NEW,
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("write", b"a", 1000, 17, 8),
        *SENT,
    ],
    "emptied and filled again": [
        NEW,
        ("write", b"a", 0, BIG, 7),
        *SENT,
        ("truncate", b"a", 0),
        ("write", b"a", BLOCK_BYTES, 17, 8),
        *SENT,
    ],
}


@pytest.mark.parametrize("corner", SHARP_CORNERS)
def test_a_sharp_corner(corner: str) -> None:
    play([step for each in SHARP_CORNERS[corner] for step in (each, ("look",))])


@settings(max_examples=int(ROUNDS or 5), derandomize=not ROUNDS, phases=(Phase.generate,))
@given(HISTORIES)
def test_a_volume_is_dictionaries_of_names_and_bytes(steps: list[Step]) -> None:
    play(steps)


def play(steps: list[Step]) -> None:
    root = Path(tempfile.mkdtemp(prefix="aggfs-model-"))

    async def both() -> None:
        await Pair(await make_volume(root)).play(steps)

    try:
        trio.run(both)
    finally:
        shutil.rmtree(root)
