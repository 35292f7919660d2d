"""`aggfs check`: each kind of damage to the local state is found, and what follows from the rest
is made right."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import trio

from aggfs.assemble import inspecting
from aggfs.assemble.opening import TABLES
from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.cache.tree import LmdbTree
from aggfs.engine.accounts import Ledger
from aggfs.engine.volume import Volume
from aggfs.model import AccountId, Extent, InodeRow, LinkRow
from tests.support.checking import assert_sound, findings_in
from tests.support.running import Place, dump, fill, make_volume, new_file, running
from tests.support.stripes import content


@dataclass
class Tables:
    """The local state of a volume that is closed, to be damaged."""

    database: Database

    def __post_init__(self) -> None:
        self.tree = LmdbTree(self.database)
        self.blocks = Blocks(self.database)

    def file(self) -> InodeRow:
        """A file with several extents' worth of content."""
        return max(
            (row for row in self.tree.all_inodes() if row.mode & 0o170000 == 0o100000),
            key=lambda row: row.size * bool(self.blocks.extents(row.inode, 0, 1)),
        )

    def change(self, **changes: object) -> None:
        row = self.file()
        self.tree.put_inode(msgspec.structs.replace(row, **changes))

    def state(self) -> StripeState:
        return self.blocks.stripes()[0]

    def link(self) -> LinkRow:
        row = self.file()
        return next(link for link in self.tree.links_of(row.inode) if link.shown)


def lose_a_claim(t: Tables) -> None:
    link = t.link()
    t.tree.put_claims(link.was_parent, link.name, b"")


def lose_a_child(t: Tables) -> None:
    t.tree.drop_child(t.link().was_parent, t.link().cookie)


def hide_a_link(t: Tables) -> None:
    t.tree.put_link(msgspec.structs.replace(t.link(), shown=False))


def lose_an_extent(t: Tables) -> None:
    t.blocks.clear(t.file().inode, 0, 1)


def misplace_an_extent(t: Tables) -> None:
    (first, *_) = t.blocks.extents(t.file().inode, 0, 1)
    t.blocks.lay(t.file().inode, [Extent(0, first.sid, first.index + 1, 1)])


def add_a_map_of_nothing(t: Tables) -> None:
    t.blocks.lay(b"n" * 16, [Extent(0, t.state().row.sid, 0, 1)])


def lose_a_stripe(t: Tables) -> None:
    t.blocks.drop_stripe(t.blocks.extents(t.file().inode, 0, 1)[0].sid)


def shorten_a_stripe(t: Tables) -> None:
    state = t.blocks.stripe(t.blocks.extents(t.file().inode, 0, 1)[0].sid)
    row = msgspec.structs.replace(state.row, sealed_bytes=state.row.sealed_bytes[-1:])
    t.blocks.put_stripe(msgspec.structs.replace(state, row=row))


def forget_that_it_was_stored(t: Tables) -> None:
    t.blocks.put_stripe(msgspec.structs.replace(t.state(), announced=False, confirmed=0))


def put_a_fragment_nowhere(t: Tables) -> None:
    row = msgspec.structs.replace(t.state().row, places=(b"", *t.state().row.places[1:]))
    t.blocks.put_stripe(msgspec.structs.replace(t.state(), row=row))


def lose_a_list(t: Tables) -> None:
    t.database.table("unfinished").put(t.state().row.sid, b"")


def miscount_stripes(t: Tables) -> None:
    t.database.table("totals").put(b"stripes", (999).to_bytes(8))


def miscount_an_account(t: Tables) -> None:
    account = AccountId(next(key for key, _ in t.database.table("ledger").scan(b"")))
    Ledger(t.database).add(account, 4711)


def mark_no_version(t: Tables) -> None:
    inode, version, row = next(one for one in t.tree.all_versions() if one[2].superseded)
    t.tree.put_version(inode, version, msgspec.structs.replace(row, superseded=False))


def give_a_number_away(t: Tables) -> None:
    t.database.table("numbers").put(t.file().number.to_bytes(8), b"m" * 16)


DAMAGES: dict[str, tuple[Callable[[Tables], None], str, bool]] = {
    "a count of names": (lambda t: t.change(nlink=7), "names: the row says 7", True),
    "placed links": (lambda t: t.change(placed=3), "placed links", True),
    "a size": (lambda t: t.change(size=5), "bytes: the row says 5", True),
    "shown versions": (lambda t: t.change(heads=()), "shown versions", True),
    "replaced versions": (mark_no_version, "versions", True),
    "a claim": (lose_a_claim, "is not filed", True),
    "an entry of a directory": (lose_a_child, "is not in its directory", True),
    "a link": (hide_a_link, "should not be", True),
    "a number": (give_a_number_away, "leads to another inode", True),
    "an extent": (lose_an_extent, "content map", True),
    "a wrong extent": (misplace_an_extent, "content map", True),
    "a stray map": (add_a_map_of_nothing, "of no inode", True),
    "a stripe": (lose_a_stripe, "has no row", False),
    "blocks of a stripe": (shorten_a_stripe, "has no block", False),
    "staged bytes": (forget_that_it_was_stored, "staged bytes are gone", False),
    "a place": (put_a_fragment_nowhere, "no place", False),
    "a list": (lose_a_list, "wrong list", True),
    "a total": (miscount_stripes, "stripes, not 999", True),
    "the ledger": (miscount_an_account, "the ledger says", True),
}


async def damaged(place: Place, damage: Callable[[Tables], None]) -> None:
    database = Database.open(str(place.state / "database"), tables=TABLES)
    try:
        damage(Tables(database))
        await database.durable()
    finally:
        await database.close()


@pytest.mark.parametrize(("damage", "text", "mends"), DAMAGES.values(), ids=DAMAGES.keys())
async def test_each_damage_is_found_and_what_follows_from_the_rest_is_made_right(
    tmp_path: Path, damage: Callable[[Tables], None], text: str, mends: bool
) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
    await assert_sound(place.state)
    await damaged(place, damage)
    found = await findings_in(place.state)
    assert any(text in one for one in found), found
    repaired, left = await inspecting.check_state(str(place.state), repair=True)
    if not mends:
        assert any(text in one.text for one in left)
        return
    assert repaired
    assert not left, left
    async with running(place.config, place.state) as volume:
        assert await dump(volume) == before


async def test_a_flipped_bit_in_staged_bytes_is_found(tmp_path: Path) -> None:
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for account in place.config.accounts:
            Path(account.path).rename(account.path + ".away")
        await fill_staging(volume)
    await assert_sound(place.state)
    (staged, *_) = (place.state / "staging").glob("*.staged")
    data = bytearray(staged.read_bytes())
    data[300] ^= 1
    staged.write_bytes(data)
    assert any("damaged" in one for one in await findings_in(place.state))
    staged.unlink()
    assert any("staged bytes are gone" in one for one in await findings_in(place.state))


async def fill_staging(volume: Volume) -> None:
    await new_file(volume, 1, b"file", content(300_000, 3))
    with trio.move_on_after(3):
        await volume.control("flush", {})
    assert volume.parts.staging.names()
