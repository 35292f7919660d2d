"""Accounts of which nothing is known but where they are; some are faulty, some are liars."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding import slots
from aggfs.coding.keys import header_name
from aggfs.coding.slots import OpenedHeader, seal_header
from aggfs.engine.journal.headers import find_headers
from aggfs.engine.listing import Listing
from aggfs.engine.recovery.recover import find_volume
from aggfs.engine.recovery.sources import open_newest, survey
from aggfs.errors import BadConfig, Unreachable, WrongKey
from aggfs.formats.fragment import Suite
from aggfs.formats.header import VolumePolicy, decode_header, encode_header
from aggfs.model import Layout
from aggfs.stores.base import ObjectInfo
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore

POLICY = VolumePolicy(2, 3, 1, Layout.CONTIGUOUS, Suite.AES_256_GCM, allow_complete_copy=False)
SECRET = slots.key_file(slots.new_key_file(os.urandom))
OTHER = slots.key_file(slots.new_key_file(os.urandom))


def a_volume(*secrets: slots.Secret) -> OpenedHeader:
    ways = [slots.new_slot(one, random_bytes=os.urandom) for one in secrets or (SECRET,)]
    return slots.new_volume(os.urandom(16), POLICY, ways, [], random_bytes=os.urandom)


def account(number: int, *headers: OpenedHeader | bytes, others: int = 5) -> MemoryStore:
    """An account that holds these headers, and some objects more."""
    held = MemoryObjects(f"a{number}")
    for one in headers:
        data = one if isinstance(one, bytes) else sealed(one, number)
        held.write(header_name(os.urandom(8)), data)
    for _ in range(others):
        name = os.urandom(20).hex()
        held.write(f"{name[:2]}/{name[2:]}", os.urandom(200))
    held.write("photo.jpg", b"somebody else's")
    return MemoryStore(held, page_objects=2)


def sealed(opened: OpenedHeader, number: int) -> bytes:
    return seal_header(opened, bytes([number]) * 8, random_bytes=os.urandom)


def named(*stores) -> list[tuple[str, object]]:
    return [(f"a{number}", store) for number, store in enumerate(stores)]


async def test_the_newest_header_is_opened_and_every_account_knows_its_id():
    first = a_volume()
    second = replace(first, generation=2)
    stores = named(account(0, first), account(1, first, second), account(2, second))
    found = await find_volume(stores, SECRET, [].append)
    assert found.opened.generation == 2
    assert [source.id for source in found.sources] == [bytes([number]) * 8 for number in range(3)]


async def test_a_part_of_a_listing_is_no_listing():
    volume = a_volume()
    broken = FaultyStore(account(2, volume), seed=1)
    broken.inject(Fault(FaultKind.DOWN, verbs=frozenset({"list_page"}), chance=0.5))
    told: list[str] = []
    sources = await survey(named(account(0, volume), account(1, volume), broken), told.append)
    assert [source.name for source in sources] == ["a0", "a1"]
    assert [line for line in told if "a2 is left out" in line]


async def test_too_few_accounts_and_none_at_all_are_told():
    volume = a_volume()
    down = FaultyStore(account(1, volume), seed=1)
    down.inject(Fault(FaultKind.DOWN))
    with pytest.raises(Unreachable, match="1 of at least 2"):
        await find_volume(named(account(0, volume), down), SECRET, [].append)
    with pytest.raises(Unreachable, match="none of these accounts answers"):
        await find_volume(named(down), SECRET, [].append)
    with pytest.raises(Unreachable, match="no header"):
        await find_volume(named(account(0), account(1)), SECRET, [].append)


async def test_a_wrong_secret_opens_nothing():
    volume = a_volume()
    with pytest.raises(WrongKey):
        await find_volume(named(account(0, volume), account(1, volume)), OTHER, [].append)


async def test_two_accounts_need_two_names():
    volume = a_volume()
    twice = [("a", account(0, volume)), ("a", account(1, volume))]
    with pytest.raises(BadConfig, match="same name"):
        await find_volume(twice, SECRET, [].append)


async def test_a_header_that_an_account_made_up_keeps_nobody_out():
    volume = a_volume()
    genuine = decode_header(sealed(volume, 0))
    liars = [
        replace(genuine, generation=99),  # its seal is broken
        replace(genuine, generation=98, slots=decode_header(sealed(a_volume(OTHER), 0)).slots),
        replace(genuine, sealed=os.urandom(300)),
    ]
    made_up = [encode_header(one) for one in liars]
    stores = named(account(0, *made_up), account(1, volume), account(2, volume))
    found = await find_volume(stores, SECRET, [].append)
    assert found.opened.generation == 1
    assert [source.id for source in found.sources] == [b"", bytes([1]) * 8, bytes([2]) * 8]


async def test_of_two_volumes_in_a_place_the_secret_tells_which():
    mine, theirs = a_volume(), a_volume(OTHER)
    stores = named(*(account(number, mine, theirs) for number in range(3)))
    found = await find_volume(stores, OTHER, [].append)
    assert found.opened.keyring.volume == theirs.keyring.volume
    both = named(*(account(number, mine, a_volume()) for number in range(1)))
    sources = await survey(both, [].append)
    with pytest.raises(BadConfig, match="two volumes"):
        open_newest(sources, SECRET)


names = st.lists(st.binary(min_size=20, max_size=20), unique=True, max_size=50)


@given(names, st.lists(st.binary(min_size=20, max_size=20), max_size=5))
def test_a_listing_knows_what_was_listed_and_nothing_else(listed, others):
    listing = Listing()
    keys = sorted(f"{name.hex()[:2]}/{name.hex()[2:]}" for name in listed)
    for size, key in enumerate(keys):
        listing.add(ObjectInfo(key, size))
    assert len(listing) == len(keys)
    assert [listing.size_of(key) for key in keys] == list(range(len(keys)))
    for name in others:
        key = f"{name.hex()[:2]}/{name.hex()[2:]}"
        assert (listing.size_of(key) is None) == (key not in keys)


async def test_a_listing_leaves_foreign_objects_out_and_refuses_disorder():
    volume = a_volume()
    store = account(0, volume)
    listing = await Listing.read(store)
    assert len(listing) == 6
    assert len(await find_headers(store, listing.headers)) == 1
    keys = sorted(os.urandom(20).hex() for _ in range(4))
    assert all(one < other for one, other in pairwise(keys))
    disorder = Listing()
    disorder.add(ObjectInfo(f"{keys[1][:2]}/{keys[1][2:]}", 1))
    with pytest.raises(Unreachable, match="out of order"):
        disorder.add(ObjectInfo(f"{keys[0][:2]}/{keys[0][2:]}", 1))
