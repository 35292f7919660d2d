"""The proof that no provider can rebuild anything."""

import pytest

from aggfs.coding.keys import header_name
from aggfs.engine.care.audit import audit_complete_copies
from aggfs.errors import Unreachable
from aggfs.formats.fragment import Kind
from aggfs.model import Layout
from aggfs.stores.memory import MemoryObjects, MemoryStore
from tests.support.stripes import content, fragments_of, keys_of_test_volume, sealed_stripe

KEYS = keys_of_test_volume()
BLOCKS = [content(5000), content(300)]


def account(name: str, objects: dict[str, bytes]) -> MemoryStore:
    held = MemoryObjects(name)
    for key, data in objects.items():
        held.write(key, data)
    return MemoryStore(held, page_objects=2)


def named(number: int) -> str:
    return f"{number:02x}/{'0' * 38}"


def fragments(number: int, *, k: int = 2, n: int = 3, kind: Kind = Kind.DATA) -> dict[int, bytes]:
    sealed = sealed_stripe(KEYS, BLOCKS, sid=bytes([number]) * 24, kind=kind)
    return fragments_of(KEYS, sealed, k=k, n=n)


async def test_one_fragment_at_each_provider_is_no_complete_copy():
    stripes = [fragments(number) for number in range(3)]
    accounts = [
        (
            f"provider{index}",
            account(f"a{index}", {named(at): stripe[index] for at, stripe in enumerate(stripes)}),
        )
        for index in range(3)
    ]
    holdings = await audit_complete_copies(accounts, KEYS)
    assert [holding.provider for holding in holdings] == ["provider0", "provider1", "provider2"]
    assert all(holding.complete == () for holding in holdings)
    assert all(holding.most_fragments == 1 for holding in holdings)
    assert all(holding.stripes == 3 for holding in holdings)


async def test_copies_of_one_cell_are_no_complete_copy_however_many():
    """3 of 9 in copies: six fragments with two cells are nothing, three with three are all."""
    layout = Layout.CONTIGUOUS_COPIES
    sealed = sealed_stripe(KEYS, BLOCKS, sid=bytes([7]) * 24)
    stripe = fragments_of(KEYS, sealed, k=3, n=9, layout=layout)
    two_cells, all_cells = (0, 1, 3, 4, 6, 7), (2, 3, 7)
    few = account("a", {named(index): stripe[index] for index in two_cells})
    enough = account("b", {named(index): stripe[index] for index in all_cells})
    first, second = await audit_complete_copies([("few", enough), ("many", few)], KEYS)
    assert second.complete == ()
    assert second.most_fragments == 6
    assert first.complete == (f"stripe {'07' * 24} (3 of 3 that are needed)",)


async def test_two_accounts_of_one_provider_are_put_together():
    stripe = fragments(7)
    accounts = [
        ("same", account("a", {named(1): stripe[0]})),
        ("same", account("b", {named(1): stripe[2]})),
        ("other", account("c", {named(1): stripe[1]})),
    ]
    other, same = await audit_complete_copies(accounts, KEYS)
    assert same.most_fragments == 2
    assert same.complete == (f"stripe {'07' * 24} (2 of 2 that are needed)",)
    assert other.complete == ()


async def test_two_copies_of_one_fragment_are_one_fragment():
    stripe = fragments(7)
    accounts = [("same", account("a", {named(1): stripe[0], named(2): stripe[0]}))]
    (same,) = await audit_complete_copies(accounts, KEYS)
    assert (same.objects, same.most_fragments, same.complete) == (2, 1, ())


@pytest.mark.parametrize("kind", [Kind.SEGMENT, Kind.CHECKPOINT])
async def test_the_journal_is_judged_like_data(kind):
    stripe = fragments(7, kind=kind)
    accounts = [("same", account("a", {named(i): stripe[i] for i in range(2)}))]
    (same,) = await audit_complete_copies(accounts, KEYS)
    assert len(same.complete) == 1


async def test_fragments_that_give_nothing_back_are_no_copy():
    stripe = fragments(7)
    damaged = stripe[1][:200] + bytes(len(stripe[1]) - 200)
    accounts = [("same", account("a", {named(0): stripe[0], named(1): damaged}))]
    (same,) = await audit_complete_copies(accounts, KEYS)
    assert (same.most_fragments, same.complete) == (2, ())


async def test_what_is_not_a_fragment_is_counted_as_what_it_is():
    head = fragments(9, k=1, n=1, kind=Kind.HEAD)[0]
    objects = {
        named(1): head,
        named(2): content(4000),
        header_name(b"12345678"): content(4000),
        "photo.jpg": b"somebody else's",
    }
    (holding,) = await audit_complete_copies([("p", account("a", objects))], KEYS)
    assert (holding.heads, holding.headers, holding.foreign) == (1, 1, 2)
    assert holding.complete == ()


async def test_an_account_that_does_not_answer_proves_nothing():
    class Gone(MemoryStore):
        async def list_page(self, prefix: str, after: str):
            raise Unreachable("no answer")

    with pytest.RaisesGroup(Unreachable, flatten_subgroups=True):
        await audit_complete_copies([("p", Gone(MemoryObjects("a")))], KEYS)
