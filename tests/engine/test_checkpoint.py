"""Checkpoints: made while the volume works, named by the head, the one before deleted."""

from pathlib import Path

import trio

from aggfs.coding.records import open_record
from aggfs.engine.volume import Volume
from aggfs.formats.checkpoint import decode_part, rows_of
from aggfs.formats.fragment import Kind
from aggfs.sync.image import load_image
from aggfs.sync.tree import DictTree
from tests.support.running import fill, flush, make_volume, new_file, running


async def parts_in_the_accounts(volume: Volume, sequence: int, parts: int) -> list[bytes]:
    keys, device = volume.parts.keys, volume.parts.checkpointer.device
    found = []
    for part in range(parts):
        objects = []
        for account in volume.parts.accounts:
            name = keys.checkpoint_name(keys.epoch, device, sequence, part, account.id)
            objects.append(await account.store.get(name))
        found.append(open_record(keys, Kind.CHECKPOINT, objects).data)
    return found


async def test_a_checkpoint_holds_the_tree(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        await flush(volume)
        parts = (await volume.control("checkpoint", {}))["parts"]
        assert isinstance(parts, int)
        records = await parts_in_the_accounts(volume, 1, parts)
        decoded = [decode_part(record, place.config.volume, lambda *_: True) for record in records]
        tree = DictTree()
        load_image(tree, rows_of(decoded), decoded[0].head.cut)
        expected = {row.inode for row in volume.parts.tree.all_inodes() if row.nlink}
        assert {row.inode for row in tree.all_inodes() if row.nlink} == expected
        assert volume.parts.publisher.state.checkpoint == 1


async def test_the_checkpoint_before_is_deleted(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await volume.control("checkpoint", {})
        before = {path for path in tmp_path.glob("account*/**/*") if path.is_file()}
        await new_file(volume, 1, b"more")
        await volume.control("checkpoint", {})
        after = {path for path in tmp_path.glob("account*/**/*") if path.is_file()}
        assert len(before - after) == 3  # one object in each account
        for account in volume.parts.accounts:
            listed = [one async for one in sizes(volume, account.id)]
            assert sum(listed) == volume.parts.accounts.ledger.used_bytes(account.id)


async def sizes(volume: Volume, account: bytes):  # type: ignore[no-untyped-def]
    found = volume.parts.accounts.get(account)
    assert found is not None
    page = await found.store.list_page("", "")
    for one in page.objects:
        yield one.size_bytes


async def test_moves_below_the_floor_are_forgotten(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for number in range(20):
            volume.namespace.create(1, b"d%d" % number, 0o40755, 0, 0)
        assert len(volume.parts.tree.moves_from(bytes(16))) == 20
        with trio.fail_after(30):
            await flush(volume)
        assert volume.parts.tree.moves_from(bytes(16)) == []
