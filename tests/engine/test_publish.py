"""The journal of one device: what it does when it is not alone any more."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from aggfs.errors import Forked, LocalDiskFailed
from tests.support.running import flush, make_volume, new_file, running


async def test_an_old_copy_of_the_state_publishes_nothing(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"first", b"x" * 5000)
        await flush(volume)
    old = tmp_path / "old"
    shutil.copytree(place.state, old)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"second", b"y" * 5000)
        await flush(volume)
    stored = {path: path.read_bytes() for path in tmp_path.glob("account*/**/*") if path.is_file()}
    async with running(place.config, old) as volume:
        await new_file(volume, 1, b"third")
        with pytest.raises(Forked):
            await flush(volume)
        assert volume.parts.database.failure is not None
        with pytest.raises(LocalDiskFailed):
            await new_file(volume, 1, b"fourth")
    for path, data in stored.items():
        assert path.read_bytes() == data


async def test_a_restart_goes_on_with_its_own_head(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    for name in (b"first", b"second", b"third"):
        async with running(place.config, place.state) as volume:
            await new_file(volume, 1, name, b"x" * 5000)
            await flush(volume)
    async with running(replace(place.config), place.state) as volume:
        with trio.fail_after(20):
            await flush(volume)
        assert volume.parts.publisher.pending() == []
