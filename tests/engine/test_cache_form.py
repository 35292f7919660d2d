"""Local copies keep the form in which they were made."""

from dataclasses import replace

import pytest

from aggfs.assemble import opening
from aggfs.errors import BadConfig
from tests.support.running import dump, make_volume, new_file, running


async def test_local_copies_are_never_read_in_the_other_form(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", b"kept in one form " * 10_000)
        before = await dump(volume)
    other = replace(place.config, mount=replace(place.config.mount, cache_encryption=False))
    with pytest.raises(BadConfig, match="cache_encryption"):
        opening.open_volume(other, str(place.state))
    async with running(place.config, place.state) as volume:
        assert await dump(volume) == before
