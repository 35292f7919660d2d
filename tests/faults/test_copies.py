"""Fragments that are copies (FRG-5): what a read and a repair cost, and what counts as stored."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import msgspec
import pytest
import trio

from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.volume import Volume
from aggfs.errors import Damaged, TooFewFragments, Unreachable
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import Layout
from aggfs.stores.base import Store
from aggfs.stores.faulty import FaultyStore
from tests.support.faults import DOWN, FULL_SECONDS, Ground, flushed, new_ground, until_full

COPIES = Layout.CONTIGUOUS_COPIES


async def filled(ground: Ground, volume: Volume) -> bytes:
    """One file of one stripe, in all accounts and not here; the stripe's id."""
    row = await ground.write_file(volume, b"file")
    await flushed(volume)
    await until_full(volume)
    await volume.control("evict", {})
    (sid,) = volume.sids_of(volume.namespace.by_number(row.number))
    return sid


def indices_of(ground: Ground, volume: Volume) -> dict[str, int]:
    """Fragment indices by the keys of their objects."""
    return {key: index for (_, index), (_, key) in ground.fragments(volume).items()}


@pytest.mark.parametrize(("k", "n"), [(2, 4), (2, 6), (3, 6)])
async def test_a_read_asks_for_each_cell_once_whoever_of_c_less_1_is_down(
    tmp_path: Path, k: int, n: int, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, k, n, layout=COPIES)
    async with ground.opened() as volume:
        await filled(ground, volume)
        index_of = indices_of(ground, volume)
        account_of = {key: name for name, key in ground.fragments(volume).values()}
        asked_of: set[int] = set()
        for names in [(), *ground.survivable()]:
            undisturbed = 0
            with ground.clouds.failing(names, DOWN):
                for _ in range(6 * n):
                    ground.clouds.asked.clear()
                    await ground.assert_reads_cold(volume)
                    asked = [index_of[key] for key in ground.clouds.asked]
                    asked_of.update(asked)
                    if all(account_of[key] not in names for key in ground.clouds.asked):
                        undisturbed += 1  # nobody who is down was tried
                        assert sorted(index % k for index in asked) == list(range(k))
            assert undisturbed
        assert asked_of == set(range(n)), "all accounts carry reads"


@pytest.mark.parametrize(
    ("layout", "needed"), [(COPIES, 1), (Layout.CONTIGUOUS, 2)], ids=["copies", "code"]
)
async def test_a_lost_fragment_of_2_of_4_is_copied_from_one_other(
    tmp_path: Path, layout: Layout, needed: int, autojump_clock: object
) -> None:
    """In copies one object is read for each that is lost: its copy; in code k are. What comes is
    the same, byte for byte."""
    ground = await new_ground(tmp_path, 2, 4, layout=layout)
    async with ground.opened() as volume:
        sid = await filled(ground, volume)
        index_of = indices_of(ground, volume)
        fragments = ground.fragments(volume)
        good = {place: ground.read_object(*place) for place in fragments.values()}
        for index in range(4):
            account, key = fragments[sid, index]
            ground.clouds.objects[account].remove(key)
            ground.clouds.asked.clear()
            volume.parts.repairs.note(sid, index)
            await until_full(volume)
            read = list(ground.clouds.asked)
            assert len(read) == needed
            if layout is COPIES:
                assert [index_of[one] for one in read] == [(index + 2) % 4]
            assert {place: ground.read_object(*place) for place in good} == good


async def test_what_has_a_copy_is_made_again_though_another_cell_is_lost(
    tmp_path: Path, autojump_clock: object
) -> None:
    ground = await new_ground(tmp_path, 2, 4, layout=COPIES)
    async with ground.opened() as volume:
        sid = await filled(ground, volume)
        fragments = ground.fragments(volume)
        gone = {index: fragments[sid, index] for index in (0, 2, 3)}
        data = {index: ground.read_object(*place) for index, place in gone.items()}
        for index, (account, key) in gone.items():
            ground.clouds.objects[account].remove(key)
            volume.parts.repairs.note(sid, index)
        await ground.until_there({gone[3]: data[3]})
        row = volume.namespace.lookup(1, b"file")
        with pytest.raises(TooFewFragments, match="1 of 2"):
            await volume.files.read(row.number, 0, 4096)
        assert ground.read_object(*gone[0]) is None
        account, key = gone[0]
        ground.clouds.objects[account].write(key, data[0])
        await until_full(volume)
        await ground.assert_reads_cold(volume)


async def test_why_and_status_count_copies_and_not_fragments(
    tmp_path: Path, autojump_clock: object
) -> None:
    """2 of 6 in copies: with one copy of a cell left its provider must not fail, though five
    fragments are there or four; with none left the stripe is lost."""
    ground = await new_ground(tmp_path, 2, 6, layout=COPIES)
    async with ground.opened() as volume:
        sid = await filled(ground, volume)
        assert (await volume.control("status", {}))["code"] == "copies"
        whole = volume.parts.blocks.stripe(sid)
        assert whole is not None

        async def why(*there: int) -> tuple[object, object, object, set[int]]:
            confirmed = sum(1 << index for index in there)
            volume.parts.blocks.put_stripe(msgspec.structs.replace(whole, confirmed=confirmed))
            said = await volume.control("why", {})
            volume.parts.blocks.put_stripe(whole)
            fatal = {one["provider"] for one in said["providers"] if not one["may_fail"]}
            by_provider = {account.provider: account.id for account in volume.parts.accounts}
            needed = {whole.row.places.index(by_provider[provider]) for provider in fatal}
            return said["any"], said["at_risk"], said["lost"], needed

        assert await why(0, 1, 2, 3, 4, 5) == (2, 0, 0, set())
        assert await why(0, 1, 2, 3, 4) == (1, 0, 0, set())
        assert await why(0, 1, 2, 4) == (0, 1, 0, {1})
        assert await why(0, 5) == (0, 1, 0, {0, 5})
        assert await why(0, 2, 4) == (0, 0, 1, set(range(6)))


async def test_a_configuration_that_says_otherwise_makes_no_parity_of_copies(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The volume's header knows better; two fragments at a provider could be copies, too."""
    ground = await new_ground(tmp_path, 2, 4, layout=COPIES, accounts=5)
    config = ground.place.config
    (used,) = config.classes
    wrong = replace(
        config,
        classes=(replace(used, layout=Layout.INTERLEAVE),),
        fragments_per_provider=2,
        accounts=tuple(replace(one, provider="one") for one in config.accounts[:2])
        + config.accounts[2:],
    )
    ground.place = replace(ground.place, config=wrong)
    async with ground.opened() as volume:
        await ground.write_file(volume, b"file")
        await flushed(volume)
        (state,) = volume.parts.blocks.stripes()
        assert state.row.layout == COPIES
        accounts = [volume.parts.accounts.get(place) for place in state.row.places]
        providers = [account.provider for account in accounts if account is not None]
        assert len(providers) == len(set(providers))


# --- the write quorum -----------------------------------------------------------------------------


class Choosy(FaultyStore):
    """Takes only fragments of data of some indices: it opens each one's header."""

    def __init__(self, store: Store, keys: VolumeKeys, takes: Callable[[int], bool]) -> None:
        super().__init__(store, seed=1)
        self._keys = keys
        self.takes = takes

    async def put(self, key: str, pieces: object) -> None:
        data = b"".join(bytes(piece) for piece in pieces)  # type: ignore[attr-defined]
        if not self._is_taken(data):
            raise Unreachable("a fragment that this account does not take now")
        await super().put(key, [data])

    def _is_taken(self, data: Buffer) -> bool:
        try:
            header = open_header_of_fragment(self._keys, data)
        except Damaged:
            return True
        return header.kind is not Kind.DATA or self.takes(header.index)


def choosy(volume: Volume, takes: Callable[[int], bool]) -> list[Choosy]:
    """Every account is choosy from now on."""
    stores = []
    for account in volume.parts.accounts:
        account.store = Choosy(account.store, volume.parts.keys, takes)
        stores.append(account.store)
    return stores


@pytest.mark.parametrize("some", list(combinations(range(6), 3)))
async def test_k_and_more_fragments_that_are_copies_of_one_cell_are_not_stored(
    tmp_path: Path, some: tuple[int, ...], autojump_clock: object
) -> None:
    """2 of 6 in copies: three are in place, k + 1, and nobody takes more. Where both cells are
    among them they are stored, as others do not answer; else nothing is published, and the bytes
    stay here."""
    ground = await new_ground(tmp_path, 2, 6, layout=COPIES)
    both = len({index % 2 for index in some}) == 2
    async with ground.opened() as volume:
        stores = choosy(volume, lambda index: index in some)
        row = await ground.write_file(volume, b"file")
        with trio.move_on_after(FULL_SECONDS):
            await volume.control("flush", {})
        (sid,) = volume.parts.blocks.unfinished()
        state = volume.parts.blocks.stripe(sid)
        assert state is not None
        assert state.in_place == some
        assert volume.parts.stripes.is_stored(sid) is both
        assert sid in volume.parts.staging
        now = volume.namespace.by_number(row.number)
        assert volume.state_of(now) == ("stored" if both else "staged")
        assert (len(volume.parts.outbox) == 0) is both
        for store in stores:
            store.takes = lambda _: True
        await until_full(volume)
        assert volume.parts.stripes.is_stored(sid)
        await ground.assert_reads_cold(volume)
