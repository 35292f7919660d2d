"""A volume comes back on a machine that has nothing of it but a key and a list of accounts."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from aggfs.assemble import making, opening
from aggfs.cache.database import Database
from aggfs.coding import slots
from aggfs.coding.keys import is_header_name
from aggfs.config import AccountConfig, Config
from aggfs.engine.journal import publish
from aggfs.engine.recovery.identity import Identity
from aggfs.engine.recovery.recover import Recovery, find_volume, match_accounts
from aggfs.errors import AggfsError, BadConfig, TooFewFragments, Unreachable, WrongKey
from aggfs.model import AccountEntry, AccountId, DeviceId, Layout
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from tests.support.running import (
    Place,
    checkpoint,
    dump,
    fill,
    flush,
    make_volume,
    new_file,
    running,
    write,
)
from tests.support.stripes import content


class Told(list):
    """What a recovery reported."""

    def about(self, text: str) -> list[str]:
        return [line for line in self if text in line]


async def recover(place: Place, into: str, *, told: Told | None = None, **changes) -> Config:
    state = place.root / into
    state.mkdir(exist_ok=True)
    told = Told() if told is None else told
    settings = {
        "accounts": place.accounts,
        "secret": place.secret,
        "name": "volume",
        "device_name": into,
    } | changes
    accounts = settings.pop("accounts")
    return await making.recover_volume(accounts, str(state), report=told.append, **settings)


def objects_of(place: Place) -> dict[str, bytes]:
    found = {}
    for number in range(len(place.config.accounts)):
        for path in (place.root / f"account{number}").rglob("*"):
            if path.is_file():
                found[str(path.relative_to(place.root))] = path.read_bytes()
    return found


def files_of(account: Path) -> list[tuple[Path, bool]]:
    """The objects in an account, and whether each is a header."""
    paths = [path for path in account.rglob("*") if path.is_file()]
    return [(path, is_header_name(str(path.relative_to(account)))) for path in paths]


@pytest.mark.parametrize(
    ("k", "n", "layout", "compression"),
    [
        (2, 3, Layout.CONTIGUOUS, None),
        (3, 5, Layout.CONTIGUOUS, "zstd"),
        (4, 6, Layout.INTERLEAVE, None),
        (2, 4, Layout.CONTIGUOUS_COPIES, None),
    ],
)
async def test_everything_comes_back_from_accounts_and_a_key(tmp_path, k, n, layout, compression):
    place = await make_volume(tmp_path, k=k, n=n, layout=layout, compression=compression)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
    shutil.rmtree(place.state)
    config = await recover(place, "again")
    assert [one.id for one in config.accounts] == [one.id for one in place.config.accounts]
    assert [one.provider for one in config.accounts] == [f"p{i}" for i in range(n)]
    assert (config.classes[0].k, config.classes[0].n) == (k, n)
    assert config.classes[0].layout is layout
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before
        status = await volume.control("status", {})
        assert status["stripes"]["full"] > 0
        assert status["under_replicated"] == 0


async def test_accounts_that_vanished_are_not_missed(tmp_path):
    place = await make_volume(tmp_path, k=3, n=5)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
    for number in (0, 3):
        shutil.rmtree(tmp_path / f"account{number}")
    told = Told()
    config = await recover(place, "again", told=told)
    assert len(told.about("is left out")) == 2
    assert not told.about("latest changes")
    assert [one.id for one in config.accounts] == [one.id for one in place.config.accounts]
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before
        await new_file(volume, 1, b"written without them", content(400_000))
        await flush(volume)


async def test_in_copies_a_stripe_of_which_both_copies_of_a_cell_vanished_is_told_as_lost(tmp_path):
    """2 of 4 in copies, two accounts gone: k fragments of each stripe are left, and only those
    stripes can be read of which they are different."""
    layout = Layout.CONTIGUOUS_COPIES
    place = await make_volume(tmp_path, k=2, n=4, layout=layout)
    gone = {bytes(one.id) for one in place.config.accounts[:2]}
    async with running(place.config, place.state) as volume:
        for number in range(12):
            await new_file(volume, 1, b"f%d" % number, content(300_000, number))
            await flush(volume)
        left = [
            {index % 2 for index, at in enumerate(state.row.places) if at not in gone}
            for state in volume.parts.blocks.stripes()
        ]
    for number in (0, 1):
        for path, is_header in files_of(tmp_path / f"account{number}"):
            if not is_header:
                path.unlink()
    told = Told()
    await recover(place, "again", told=told)
    lost = sum(len(cells) < 2 for cells in left)
    assert len(told.about(f"{lost} stripes are lost")) == (lost > 0)
    assert len(told.about(f"{len(left) - lost} stripes miss")) == (lost < len(left))


async def test_less_than_k_accounts_are_too_few(tmp_path):
    place = await make_volume(tmp_path, k=3, n=5)
    async with running(place.config, place.state) as volume:
        await fill(volume)
    for number in (0, 1, 2):
        shutil.rmtree(tmp_path / f"account{number}")
    before = objects_of(place)
    with pytest.raises(Unreachable, match="2 of at least 3"):
        await recover(place, "again")
    assert objects_of(place) == before


@pytest.mark.parametrize("wrong", ["words", "passphrase", "key file"])
async def test_a_wrong_secret_changes_nothing(tmp_path, wrong):
    known = slots.passphrase("correct horse")
    place = await make_volume(tmp_path, secrets=(known,))
    secret = {
        "words": slots.recovery_words(slots.new_recovery_words(os.urandom)),
        "passphrase": slots.passphrase("battery staple"),
        "key file": slots.key_file(slots.new_key_file(os.urandom)),
    }[wrong]
    before = objects_of(place)
    with pytest.raises(WrongKey):
        await recover(place, "again", secret=secret)
    assert objects_of(place) == before
    assert list((tmp_path / "again").iterdir()) == []


async def test_a_passphrase_does_as_well_as_the_words(tmp_path):
    known = slots.passphrase("correct horse")
    place = await make_volume(tmp_path, secrets=(known,))
    config = await recover(place, "again", secret=known)
    assert config.volume == place.config.volume


async def test_what_two_machines_wrote_one_after_the_other_comes_back_on_a_third(tmp_path):
    place = await make_volume(tmp_path, k=3, n=5)
    async with running(place.config, place.state) as volume:
        await fill(volume)
    shutil.rmtree(place.state)
    second = await recover(place, "second")
    async with running(second, tmp_path / "second") as volume:
        directory = volume.namespace.resolve(b"/directory")
        row = volume.namespace.lookup(directory.number, b"size3000000")
        await write(volume, row, 600_000, content(300_000, 9))
        await volume.files.truncate(row.number, 2_000_000)
        await new_file(volume, directory.number, b"of the second", content(900, 10))
        volume.namespace.rename(1, b"moved", directory.number, b"back", wait_for_content=False)
        await flush(volume)
        before = await dump(volume)
    shutil.rmtree(tmp_path / "second")
    third = await recover(place, "third")
    assert len({place.config.device, second.device, third.device}) == 3
    async with running(third, tmp_path / "third") as volume:
        assert await dump(volume) == before


async def test_a_recovered_machine_never_writes_stamps_of_the_past(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", content(2000))
        await flush(volume)
        newest = publish.last_clock(volume.parts.database)
    config = await recover(place, "again")
    async with running(config, tmp_path / "again") as volume:
        first = volume.parts.outbox.first()
        assert first is not None
        assert first[1].stamp.clock > newest


async def test_each_account_gets_the_new_header_and_loses_the_old(tmp_path):
    place = await make_volume(tmp_path)
    before = objects_of(place)
    config = await recover(place, "again")
    after = objects_of(place)
    for number in range(3):
        old = {path for path in before if path.startswith(f"account{number}/")}
        new = {path for path in after if path.startswith(f"account{number}/")}
        assert len(new - old) == 1
        assert len(old - new) == 1
    async with running(config, tmp_path / "again") as volume:
        answer = await volume.control("key-list", {})
        assert sorted(slot["label"] for slot in answer["slots"]) == ["", "again", "first"]


async def test_the_ledger_counts_what_lies_in_the_accounts(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
    config = await recover(place, "again")
    volume = opening.open_volume(config, str(tmp_path / "again"))
    for number, account in enumerate(volume.parts.accounts):
        lying = [data for path, data in objects_of(place).items() if path[7] == str(number)]
        assert volume.parts.accounts.ledger.used_bytes(account.id) == sum(map(len, lying))
    await volume.parts.database.close()


async def test_a_damaged_account_is_named_and_out_voted(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
    for path, is_header in files_of(tmp_path / "account1"):
        if not is_header:
            data = bytearray(path.read_bytes())
            for at in range(100, len(data), 300):
                data[at] ^= 1
            path.write_bytes(data)
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("account a1: some of its objects are damaged")
    async with running(config, tmp_path / "again") as volume:
        volume.parts.accounts.get(place.config.accounts[1].id).failed(Unreachable("noise"))
        assert await dump(volume) == before


async def test_an_account_that_was_set_back_is_named_and_out_voted(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"early", content(2000))
        await flush(volume)
    shutil.copytree(tmp_path / "account2", tmp_path / "old")
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"late", content(2000))
        await flush(volume)
        before = await dump(volume)
    shutil.rmtree(tmp_path / "account2")
    (tmp_path / "old").rename(tmp_path / "account2")
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("account a2: its journals end earlier")
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before


async def test_an_emptied_account_is_known_by_its_name_and_gets_its_header_again(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
    shutil.rmtree(tmp_path / "account1")
    (tmp_path / "account1").mkdir()
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("account a1: it has lost everything")
    assert config.accounts[1].id == place.config.accounts[1].id
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before
        await flush(volume)
    headers = [is_header for _, is_header in files_of(tmp_path / "account1")]
    assert headers.count(True) == 1
    assert headers.count(False) > 0


async def test_an_account_without_header_is_known_by_the_heads_in_it(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
    for path, is_header in files_of(tmp_path / "account1"):
        if is_header:
            path.unlink()
    nameless = [replace(one, name=f"x{at}") for at, one in enumerate(place.accounts)]
    told = Told()
    config = await recover(place, "again", accounts=nameless, told=told)
    assert told.about("account x1: its header is lost")
    assert [one.id for one in config.accounts] == [one.id for one in place.config.accounts]


async def test_a_foreign_account_is_left_out_and_left_alone(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
    other = await make_volume(tmp_path / "other")
    stranger = replace(other.accounts[0], name="stranger")
    before = objects_of(other)
    told = Told()
    config = await recover(place, "again", told=told, accounts=[*place.accounts, stranger])
    assert [one.name for one in config.accounts] == ["a0", "a1", "a2"]
    assert told.about("account stranger is left out")
    assert objects_of(other) == before


async def test_one_place_given_twice_is_refused(tmp_path):
    place = await make_volume(tmp_path)
    twice = [*place.accounts, replace(place.accounts[0], name="again")]
    before = objects_of(place)
    with pytest.raises(BadConfig, match="one and the same"):
        await recover(place, "again", accounts=twice)
    assert objects_of(place) == before


async def test_a_key_that_was_removed_opens_nothing_even_where_an_old_header_is_left(tmp_path):
    file = slots.key_file(slots.new_key_file(os.urandom))
    place = await make_volume(tmp_path, secrets=(file,))
    shutil.copytree(tmp_path / "account2", tmp_path / "old")
    async with running(place.config, place.state) as volume:
        answer = await volume.control("key-list", {})
        (slot,) = [one["id"] for one in answer["slots"] if one["kind"] == "key_file"]
        await volume.control("key-remove", {"id": slot})
    shutil.rmtree(tmp_path / "account2")
    (tmp_path / "old").rename(tmp_path / "account2")
    with pytest.raises(WrongKey, match="removed"):
        await recover(place, "again", secret=file)


async def test_a_lost_segment_is_told_and_nothing_is_written(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        keys = volume.parts.keys
    for number, account in enumerate(place.config.accounts[:2]):
        name = keys.segment_name(1, place.config.device, 1, 2, account.id)
        (tmp_path / f"account{number}" / name).unlink()
    before = objects_of(place)
    with pytest.raises(TooFewFragments, match="segment 2 of chain 1"):
        await recover(place, "again")
    assert objects_of(place) == before


async def test_a_lost_stripe_is_told_and_reading_it_fails(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        row = await new_file(volume, 1, b"file", content(2000))
        await flush(volume)
        (sid,) = volume.sids_of(volume.namespace.by_number(row.number))
        keys = volume.parts.keys
        places = volume.parts.blocks.stripe(sid).row.places
    for index, owner in list(enumerate(places))[:2]:
        (number,) = [i for i, one in enumerate(place.config.accounts) if one.id == owner]
        (tmp_path / f"account{number}" / keys.fragment_name(1, sid, index, owner)).unlink()
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("1 stripes are lost")
    async with running(config, tmp_path / "again") as volume:
        row = volume.namespace.resolve(b"/file")
        with pytest.raises(AggfsError):
            await volume.files.read(row.number, 0, 2000)


def test_silent_accounts_are_matched_by_name_then_provider_then_as_the_last():
    def given(name: str, provider: str = "") -> AccountConfig:
        return AccountConfig(AccountId(bytes(8)), name, "directory", provider, path="/x")

    def entry(number: int, name: str, provider: str) -> tuple[AccountId, AccountEntry]:
        account = AccountId(bytes([number]) * 8)
        return account, AccountEntry(account, name, provider, 0, removed=False)

    entries = dict(entry(at, f"name{at}", f"provider{at}") for at in range(4))
    found = {"answers": AccountId(bytes([0]) * 8)}
    accounts = [given("answers"), given("name2"), given("other", "provider1"), given("third")]
    assert match_accounts(accounts, found, entries) == {
        "name2": bytes([2]) * 8,
        "other": bytes([1]) * 8,
        "third": bytes([3]) * 8,
    }
    assert match_accounts([given("one"), given("two")], found, entries) == {}


async def test_what_a_checkpoint_holds_needs_no_segments(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        assert await checkpoint(volume, place) > 10
        directory = volume.namespace.resolve(b"/directory")
        await new_file(volume, directory.number, b"later", content(2000))
        volume.namespace.rename(directory.number, b"link", 1, b"x", wait_for_content=False)
        volume.namespace.unlink(directory.number, b"size1")
        await flush(volume)
        before = await dump(volume)
        newest = publish.last_clock(volume.parts.database)
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("checkpoint: part 1 of 1")
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before
        assert publish.last_clock(volume.parts.database) > newest
        await new_file(volume, 1, b"by the new machine", content(3000))
        await flush(volume)
        before = await dump(volume)
    third = await recover(place, "third")
    async with running(third, tmp_path / "third") as volume:
        assert await dump(volume) == before


async def test_a_checkpoint_that_is_lost_is_replaced_by_the_segments(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        await volume.control("checkpoint", {})
        await flush(volume)
        before = await dump(volume)
        keys, state = volume.parts.keys, volume.parts.publisher.state
    for account in place.config.accounts[:2]:
        name = keys.checkpoint_name(1, place.config.device, state.checkpoint, 0, account.id)
        (Path(account.path) / name).unlink()
    told = Told()
    config = await recover(place, "again", told=told)
    assert not told.about("checkpoint: part")
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before


async def in_memory(place: Place) -> list[tuple[str, FaultyStore, MemoryObjects]]:
    """The accounts of a volume copied into memory, where faults can be put before them."""
    found = []
    for account in place.config.accounts:
        held = MemoryObjects(account.name)
        for path, _ in files_of(Path(account.path)):
            held.write(str(path.relative_to(account.path)), path.read_bytes())
        found.append((account.name, FaultyStore(MemoryStore(held), seed=1), held))
    return found


def headers_in(held: MemoryObjects) -> set[str]:
    return {key for key in held.keys("", "", 1000) if is_header_name(key)}


@pytest.mark.parametrize("refusing", [1, 2])
async def test_a_header_counts_when_more_accounts_take_it_than_may_fail(tmp_path, refusing):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", content(2000))
        await flush(volume)
    accounts = await in_memory(place)
    before = [headers_in(held) for _, _, held in accounts]
    told = Told()
    stores = [(name, store) for name, store, _ in accounts]
    found = await find_volume(stores, place.secret, told.append)
    database = Database.open(str(tmp_path / "database"), tables=opening.TABLES)
    recovery = Recovery(found, place.accounts, database, told.append)
    await recovery.fill()
    identity = Identity.new(DeviceId(b"device 2"), os.urandom)
    opened = recovery.join(identity, "second", random_bytes=os.urandom, wall_ns=lambda: 1)
    assert [headers_in(held) for _, _, held in accounts] == before
    for _, store, _ in accounts[:refusing]:
        store.inject(Fault(FaultKind.AUTH, verbs=frozenset({"put"})))
    if refusing == 1:
        await recovery.put_header(opened, os.urandom)
        assert told.about("account a0 did not take the new header")
        assert headers_in(accounts[0][2]) == before[0]
        for (_, _, held), old in zip(accounts[1:], before[1:], strict=True):
            assert len(headers_in(held)) == 1
            assert headers_in(held) != old
    else:
        with pytest.raises(Unreachable, match="1 of 2 accounts took the new header"):
            await recovery.put_header(opened, os.urandom)
        assert [headers_in(held) for _, _, held in accounts] == before
    await database.close()


async def test_a_volume_that_was_never_published_comes_back_empty(tmp_path):
    place = await make_volume(tmp_path)
    told = Told()
    config = await recover(place, "again", told=told)
    assert told.about("device first: has published nothing")
    assert [one.id for one in config.accounts] == [one.id for one in place.config.accounts]
    async with running(config, tmp_path / "again") as volume:
        assert list(await dump(volume)) == [b"/"]


async def test_what_the_machine_had_not_sent_is_not_there_and_nothing_else_is_missing(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        before = await dump(volume)
        for number in range(3):
            (tmp_path / f"account{number}").rename(tmp_path / f"away{number}")
        await new_file(volume, 1, b"never sent", content(300_000))
    for number in range(3):
        (tmp_path / f"away{number}").rename(tmp_path / f"account{number}")
    config = await recover(place, "again")
    async with running(config, tmp_path / "again") as volume:
        assert await dump(volume) == before
