"""What an account must prove before it is added."""

import dataclasses
import uuid

import pytest
import trio

from aggfs.errors import QuotaFull, Refused, Unreachable
from aggfs.stores.base import Page
from aggfs.stores.directory import DirectoryStore
from aggfs.stores.faulty import Fault, FaultKind, FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.stores.probe import probe, same_place
from aggfs.stores.s3 import S3Driver, S3Options
from aggfs.stores.threaded import ThreadedStore
from tests.support.servers import READER


@pytest.fixture
def objects():
    return MemoryObjects("test")


@pytest.fixture
def faulty(objects):
    return FaultyStore(MemoryStore(objects), seed=1)


@pytest.fixture
def options(seaweedfs):
    return S3Options(
        bucket="one",
        endpoint=seaweedfs.endpoint,
        prefix=uuid.uuid4().hex,
        access_key=seaweedfs.keys.access,
        secret_key=seaweedfs.keys.secret,
    )


async def refusal(store, kind=Refused):
    try:
        with pytest.raises(kind) as failure:
            await probe(store)
    finally:
        await store.aclose()
    text = str(failure.value)
    assert "\n" not in text
    return text


# --- accounts that pass -----------------------------------------------------------------------


async def test_the_report_says_what_was_found(tmp_path):
    report = await probe(DirectoryStore(str(tmp_path)))
    assert report.create_only
    assert report.place == f"file://{tmp_path}"
    assert report.space.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


async def test_an_s3_server_with_conditions_is_found_to_create_exclusively(options):
    store = ThreadedStore(S3Driver(options))
    assert not store.capabilities.create_only
    assert (await probe(store)).create_only
    assert await store.list_page("", "") == Page((), None)
    await store.aclose()


class Overwriting(MemoryStore):
    """A service that ignores the condition of a create."""

    async def create(self, key, pieces):
        await self.put(key, pieces)


class Refusing(MemoryStore):
    """A service that knows no conditions."""

    async def create(self, key, pieces):
        raise Refused("not implemented")


@pytest.mark.parametrize("kind", [Overwriting, Refusing])
async def test_a_service_without_exclusive_create_passes_and_is_known(objects, kind):
    assert not (await probe(kind(objects))).create_only
    assert objects.keys("", "", 10) == []


# --- accounts that are refused ----------------------------------------------------------------


async def test_a_wrong_key_is_refused_in_one_line(options):
    store = ThreadedStore(S3Driver(dataclasses.replace(options, secret_key="wrong")))
    assert "the secret key does not belong" in await refusal(store)


async def test_a_missing_bucket_is_refused_in_one_line(options):
    store = ThreadedStore(S3Driver(dataclasses.replace(options, bucket="nowhere")))
    assert "there is no bucket" in await refusal(store)


async def test_a_key_that_may_only_read_is_refused_in_one_line(options, seaweedfs):
    keys = {"access_key": READER.access, "secret_key": READER.secret}
    store = ThreadedStore(S3Driver(dataclasses.replace(options, **keys)))
    assert "can be read but not written" in await refusal(store)
    assert await ThreadedStore(S3Driver(options)).list_page("", "") == Page((), None)


async def test_a_missing_directory_is_refused_in_one_line(tmp_path):
    text = await refusal(DirectoryStore(str(tmp_path / "absent")), Unreachable)
    assert "there is no such directory" in text


async def test_a_full_account_is_called_full_and_not_read_only(faulty):
    faulty.inject(Fault(FaultKind.QUOTA))
    assert "full" in await refusal(faulty, QuotaFull)


async def test_a_key_that_may_not_delete_is_refused_and_what_stays_is_named(faulty, objects):
    faulty.inject(Fault(FaultKind.AUTH, verbs=frozenset({"delete"})))
    text = await refusal(faulty)
    [left] = objects.keys("", "", 10)
    assert text.startswith(f"can be written but not deleted from ({left} stays)")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(FaultKind.TRUNCATE),
        Fault(FaultKind.BITFLIP),
        Fault(FaultKind.TRUNCATE, verbs=frozenset({"get_range"})),
    ],
)
async def test_wrong_bytes_are_refused_and_nothing_is_left(faulty, objects, fault):
    faulty.inject(fault)
    assert "bytes" in await refusal(faulty)
    assert objects.keys("", "", 10) == []


async def test_an_account_that_forgets_what_it_acknowledged_is_refused(faulty, objects):
    faulty.inject(Fault(FaultKind.LOST_WRITE, verbs=frozenset({"put"})))
    assert "forgets what was just stored" in await refusal(faulty)


async def test_an_account_that_shows_old_state_is_refused(faulty, objects):
    faulty.inject(Fault(FaultKind.STALE))
    assert "forgets what was just stored" in await refusal(faulty)
    assert objects.keys("", "", 10) == []


@pytest.mark.parametrize("verb", ["get", "get_range", "head", "create", "list_page"])
async def test_a_fault_half_way_leaves_nothing_behind(faulty, objects, verb):
    faulty.inject(Fault(FaultKind.DOWN, verbs=frozenset({verb})))
    try:
        await probe(faulty)
    except Unreachable:
        pass
    else:
        assert verb == "create"
    assert objects.keys("", "", 10) == []


async def test_a_cancelled_probe_leaves_nothing_behind(faulty, objects, autojump_clock):
    faulty.inject(Fault(FaultKind.SLOW, seconds=1))
    for patience in range(16):
        with trio.move_on_after(patience + 0.5):
            await probe(faulty)
        assert objects.keys("", "", 10) == []


# --- the same place twice ---------------------------------------------------------------------


async def test_a_place_under_two_paths_is_the_same(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("real")
    real, other, link = (DirectoryStore(str(tmp_path / name)) for name in ("real", "other", "link"))
    assert await same_place(link, [other, real]) == 1
    assert await same_place(link, [other]) is None
    assert await same_place(link, []) is None
    assert list((tmp_path / "real").iterdir()) == []


async def test_a_bucket_under_two_endpoints_is_the_same(options):
    elsewhere = options.endpoint.replace("127.0.0.1", "localhost")
    stores = [
        ThreadedStore(S3Driver(each))
        for each in (
            options,
            dataclasses.replace(options, endpoint=elsewhere),
            dataclasses.replace(options, bucket="two"),
        )
    ]
    assert stores[0].place != stores[1].place
    assert await same_place(stores[0], [stores[2], stores[1]]) == 1
    assert await same_place(stores[0], [stores[2]]) is None
    for store in stores:
        assert await store.list_page("", "") == Page((), None)
        await store.aclose()


async def test_an_account_that_is_down_cannot_vouch_for_being_another_place(objects):
    down = FaultyStore(MemoryStore(MemoryObjects("down")), seed=1)
    down.inject(Fault(FaultKind.DOWN))
    new, same = MemoryStore(objects), MemoryStore(objects)
    assert await same_place(new, [down, same]) == 1
    with pytest.raises(Unreachable, match="may be a place in use already"):
        await same_place(new, [down])
    assert objects.keys("", "", 10) == []
