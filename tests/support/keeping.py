"""Volumes in memory that are kept clean and whole: what the tests of collection and scrub share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from aggfs.config import MountConfig
from aggfs.engine.volume import Volume
from aggfs.model import InodeRow
from tests.support.faults import Ground, flushed, until_full
from tests.support.running import running

GRACE_SECONDS = 300


@asynccontextmanager
async def opened(ground: Ground, grace_seconds: int = 0) -> AsyncIterator[Volume]:
    mount = MountConfig(collect_after_seconds=grace_seconds)
    config = replace(ground.place.config, mount=mount)
    store = ground.clouds.open_store
    async with running(config, ground.place.state, open_store=store) as volume:
        yield volume


async def stored(ground: Ground, volume: Volume, name: bytes) -> InodeRow:
    """A file that is in all its accounts."""
    row = await ground.write_file(volume, name)
    await flushed(volume)
    await until_full(volume)
    return volume.namespace.by_number(row.number)


async def forget(ground: Ground, volume: Volume, name: bytes) -> None:
    """The file is unlinked, and no history of it is kept."""
    row = volume.namespace.unlink(1, name)
    volume.namespace.drop_unlinked(row.number)
    ground.files.pop(name)
    await flushed(volume)
    tree = volume.parts.tree
    for link in tree.links_of(row.inode):
        tree.drop_link(link.link)
    tree.drop_inode(row.inode)


async def gc(volume: Volume, **arguments: object) -> dict[str, object]:
    with trio.fail_after(600):
        return await volume.control("gc", arguments)


def fragment_keys(ground: Ground, volume: Volume, row: InodeRow) -> set[tuple[str, str]]:
    sids = set(volume.sids_of(row))
    return {at for (sid, _), at in ground.fragments(volume).items() if sid in sids}


def lying(ground: Ground) -> dict[str, int]:
    """Bytes that really lie in each account."""
    return {
        name: sum(map(len, objects.values())) for name, objects in ground.clouds.contents().items()
    }


def ledger(volume: Volume) -> dict[str, int]:
    accounts = volume.parts.accounts
    return {one.name: accounts.ledger.used_bytes(one.id) for one in accounts}
