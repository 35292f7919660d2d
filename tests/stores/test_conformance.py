"""What every store promises, asked of every store and every wrapper.

A new driver is one more entry in `OPENERS`. Each test gets an empty store of its own.
"""

import contextlib
import functools
import itertools
import random
import secrets
import uuid

import pytest
import trio

from aggfs.errors import AlreadyThere, NotFound, Refused
from aggfs.stores.base import ObjectInfo, Page
from aggfs.stores.directory import DirectoryStore
from aggfs.stores.faulty import FaultyStore
from aggfs.stores.memory import MemoryObjects, MemoryStore
from aggfs.stores.metered import MeteredStore
from aggfs.stores.probe import probe
from aggfs.stores.retrying import RetryingStore
from aggfs.stores.s3 import S3Driver, S3Options
from aggfs.stores.threaded import ThreadedStore
from tests.support.dictionary_driver import DictionaryDriver

PAGE_OBJECTS = 5
FRAGMENT_BYTES = 1_400_000


def open_memory(request):
    return MemoryStore(MemoryObjects("test"), page_objects=PAGE_OBJECTS)


def open_directory(request):
    return DirectoryStore(str(request.getfixturevalue("tmp_path")), page_objects=PAGE_OBJECTS)


def open_threaded(request):
    return ThreadedStore(DictionaryDriver(page_objects=PAGE_OBJECTS))


def open_s3(server_name, request, *, by_boto3=False):
    server = request.getfixturevalue(server_name)
    options = S3Options(
        bucket="one",
        endpoint=server.endpoint,
        prefix=f"tests/{uuid.uuid4().hex}",
        access_key=server.keys.access,
        secret_key=server.keys.secret,
    )
    driver = S3Driver(options, page_objects=PAGE_OBJECTS)
    driver._moved = by_boto3  # as if the bucket were in another region
    return ThreadedStore(driver)


def open_retrying(request):
    return RetryingStore(open_memory(request), random=random.Random(1).random)


def open_metered(request):
    return MeteredStore(open_memory(request))


def open_faulty(request):
    return FaultyStore(open_memory(request), seed=1)


def open_stack(request):
    """As a volume stacks them, over files."""
    metered = MeteredStore(FaultyStore(open_directory(request), seed=1))
    return RetryingStore(metered, random=random.Random(1).random)


OPENERS = {
    "memory": open_memory,
    "directory": open_directory,
    "threaded": open_threaded,
    "s3-seaweedfs": functools.partial(open_s3, "seaweedfs"),
    "s3-moto": functools.partial(open_s3, "moto"),
    "s3-seaweedfs-by-boto3": functools.partial(open_s3, "seaweedfs", by_boto3=True),
    "retrying": open_retrying,
    "metered": open_metered,
    "faulty": open_faulty,
    "stack": open_stack,
}


@pytest.fixture(params=OPENERS)
async def store(request):
    opened = OPENERS[request.param](request)
    with trio.fail_after(60):
        yield opened
    await opened.aclose()


async def list_keys(store, prefix="", after=""):
    pages = [page async for page in pages_of(store, prefix, after)]
    return [each.key for page in pages for each in page.objects]


async def pages_of(store, prefix="", after=""):
    while after is not None:
        page = await store.list_page(prefix, after)
        yield page
        after = page.next_after


def key_number(number):
    return f"{number % 7:02x}/{number:038x}"


# --- whole objects ----------------------------------------------------------------------------


async def test_what_was_put_is_got(store):
    await store.put("ab/cdef", [b"hello ", b"world"])
    assert await store.get("ab/cdef") == b"hello world"


async def test_pieces_of_every_kind_of_buffer_are_joined_in_order(store):
    data = bytes(range(256))
    pieces = [data[:10], b"", bytearray(data[10:20]), memoryview(data)[20:100], data[100:]]
    await store.put("key", pieces)
    assert await store.get("key") == data


async def test_more_pieces_than_one_system_call_takes_are_stored(store):
    pieces = [bytes([index % 256]) * 3 for index in range(3000)]
    await store.put("ab/many", pieces)
    assert await store.get("ab/many") == b"".join(pieces)


async def test_a_fragment_of_usual_size_comes_back(store):
    data = random.Random(3).randbytes(FRAGMENT_BYTES)
    cells = [data[start : start + 87_500] for start in range(0, len(data), 87_500)]
    await store.put("ab/fragment", cells)
    assert await store.get("ab/fragment") == data


async def test_an_empty_object_is_an_object(store):
    await store.put("ab/empty", [])
    assert await store.get("ab/empty") == b""
    assert await store.head("ab/empty") == ObjectInfo("ab/empty", 0)
    assert await list_keys(store) == ["ab/empty"]


async def test_a_second_put_replaces_the_first(store):
    await store.put("key", [b"a longer first text"])
    await store.put("key", [b"second"])
    assert await store.get("key") == b"second"
    assert (await store.head("key")).size_bytes == 6


async def test_an_absent_object_is_not_found(store):
    await store.put("ab/other", [b"x"])
    with pytest.raises(NotFound):
        await store.get("ab/absent")
    with pytest.raises(NotFound):
        await store.get_range("cd/absent", 0, 10)
    with pytest.raises(NotFound):
        await store.get_range("ab/absent", 0, 0)
    with pytest.raises(NotFound):
        await store.head("ab/absent")


async def test_head_tells_the_size(store):
    await store.put("ab/key", [b"12345"])
    assert await store.head("ab/key") == ObjectInfo("ab/key", 5)


# --- ranges -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [
        (0, 10, b"0123456789"),
        (0, 1, b"0"),
        (3, 4, b"3456"),
        (9, 1, b"9"),
        (7, 10, b"789"),
        (0, 1000, b"0123456789"),
        (10, 5, b""),
        (500, 5, b""),
        (4, 0, b""),
    ],
)
async def test_a_range_is_cut_where_the_object_ends(store, start, length, expected):
    await store.put("ab/key", [b"0123456789"])
    assert await store.get_range("ab/key", start, length) == expected


async def test_a_range_of_an_empty_object_is_empty(store):
    await store.put("ab/key", [])
    assert await store.get_range("ab/key", 0, 10) == b""


# --- deleting ---------------------------------------------------------------------------------


async def test_a_deleted_object_is_gone(store):
    await store.put("ab/key", [b"x"])
    await store.delete("ab/key")
    with pytest.raises(NotFound):
        await store.get("ab/key")
    assert await list_keys(store) == []


async def test_deleting_what_is_absent_succeeds(store):
    await store.delete("ab/absent")
    await store.put("ab/key", [b"x"])
    await store.delete("ab/absent")
    assert await list_keys(store) == ["ab/key"]


async def test_a_deleted_object_can_be_put_again(store):
    await store.put("ab/key", [b"x"])
    await store.delete("ab/key")
    await store.put("ab/key", [b"y"])
    assert await store.get("ab/key") == b"y"


# --- creating ---------------------------------------------------------------------------------


async def test_create_makes_a_new_object(store):
    await store.create("ab/key", [b"fir", b"st"])
    assert await store.get("ab/key") == b"first"


async def test_create_leaves_an_existing_object_as_it_is(store):
    await store.put("ab/key", [b"first"])
    with pytest.raises(AlreadyThere):
        await store.create("ab/key", [b"second"])
    assert await store.get("ab/key") == b"first"
    assert await list_keys(store) == ["ab/key"]


async def test_create_after_delete_succeeds(store):
    await store.create("ab/key", [b"first"])
    await store.delete("ab/key")
    await store.create("ab/key", [b"second"])
    assert await store.get("ab/key") == b"second"


async def test_of_racing_creates_one_wins_wherever_that_is_promised(store):
    """A driver that promises nothing is judged by the probe, which must not say more."""
    if not store.capabilities.create_only and not (await probe(store)).create_only:
        return
    for number in range(5):
        winners = []

        async def run(data, key=f"ab/race{number}", winners=winners):
            with contextlib.suppress(AlreadyThere):
                await store.create(key, [data])
                winners.append(data)

        async with trio.open_nursery() as nursery:
            for racer in range(6):
                nursery.start_soon(run, b"racer %d" % racer * 1000)
        assert len(winners) == 1
        assert await store.get(f"ab/race{number}") == winners[0]


# --- listing ----------------------------------------------------------------------------------


async def test_an_empty_store_lists_nothing(store):
    assert await store.list_page("", "") == Page((), None)
    assert await store.list_page("ab/", "") == Page((), None)


async def test_a_listing_has_every_object_once_in_key_order_with_its_size(store):
    sizes = {key_number(number): number for number in range(23)}
    for key, size in sizes.items():
        await store.put(key, [bytes(size)])
    pages = [page async for page in pages_of(store)]
    listed = [each for page in pages for each in page.objects]
    assert listed == [ObjectInfo(*each) for each in sorted(sizes.items())]
    assert pages[-1].next_after is None


async def test_a_listing_goes_on_after_any_key(store):
    keys = sorted(key_number(number) for number in range(12))
    for key in keys:
        await store.put(key, [b"x"])
    for after in [*keys, "00/5", "03/zz", "zz/1"]:
        assert await list_keys(store, after=after) == [key for key in keys if key > after]


async def test_a_listing_goes_on_after_a_key_that_was_deleted_meanwhile(store):
    keys = sorted(key_number(number) for number in range(12))
    for key in keys:
        await store.put(key, [b"x"])
    for after in list(keys):
        await store.delete(after)
        keys.remove(after)
        assert await list_keys(store, after=after) == [key for key in keys if key > after]


async def test_a_listing_keeps_to_its_prefix(store):
    keys = ["aa/1", "aa/12", "aa/2", "ab/1", "b", "ba/1"]
    for key in keys:
        await store.put(key, [b"x"])
    for prefix in ["", "a", "aa", "aa/", "aa/1", "aa/12", "ab/1", "b", "c"]:
        assert await list_keys(store, prefix) == [key for key in keys if key.startswith(prefix)]


async def test_a_page_that_ends_with_the_last_object_ends_the_listing(store):
    for number in range(2 * PAGE_OBJECTS):
        await store.put(f"ab/{number:02}", [b"x"])
    assert len(await list_keys(store)) == 2 * PAGE_OBJECTS


# --- several at once, and giving up -----------------------------------------------------------


async def test_many_objects_are_stored_and_read_at_once(store):
    async def there_and_back(number):
        data = number.to_bytes(4) * 500
        await store.put(key_number(number), [data])
        assert await store.get(key_number(number)) == data

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(there_and_back, number)
    assert len(await list_keys(store)) == 40


async def test_a_reader_beside_a_writer_sees_whole_objects_only(store):
    versions = [bytes([letter]) * 50_000 for letter in b"abcdef"]
    await store.put("ab/key", [versions[0]])
    async with trio.open_nursery() as nursery:

        async def write():
            for version in versions:
                await store.put("ab/key", [version[:100], version[100:]])
            nursery.cancel_scope.cancel()

        nursery.start_soon(write)
        while True:
            assert await store.get("ab/key") in versions


async def test_buffers_may_be_reused_once_a_cancelled_put_has_raised(store):
    """Whatever the abandoned call still does, no reader ever sees the later bytes."""
    good = secrets.token_bytes(FRAGMENT_BYTES)
    for wait in (0, 0.0003, 0.001, 0.003, 0.01):
        buffer = bytearray(good)
        with trio.move_on_after(wait):
            await store.put("ab/key", [memoryview(buffer)[:500_000], memoryview(buffer)[500_000:]])
        buffer[:] = bytes(len(buffer))
        for _ in range(3):  # the abandoned call may still arrive
            with contextlib.suppress(NotFound):
                assert await store.get("ab/key") == good
            await store.put("cd/other", [b"x"])


async def test_a_cancelled_call_leaves_the_store_usable(store):
    await store.put("ab/key", [b"x"])
    calls = [
        lambda: store.get("ab/key"),
        lambda: store.put("ab/other", [bytes(100_000)]),
        lambda: store.list_page("", ""),
        lambda: store.delete("ab/absent"),
    ]
    for wait, call in itertools.product((0, 0.0002, 0.002), calls):
        with trio.move_on_after(wait):
            await call()
    assert await store.get("ab/key") == b"x"


# --- what it says of itself -------------------------------------------------------------------


async def test_space_is_told_where_it_is_promised(store):
    space = await store.space()
    assert (space is not None) == store.capabilities.reports_space
    if space is not None:
        assert 0 < space.free_bytes <= space.total_bytes


async def test_the_place_has_a_name(store):
    assert "://" in store.place


async def test_the_probe_passes_and_leaves_nothing_behind(store):
    await store.put("ab/ours", [b"x"])
    report = await probe(store)
    assert report.place == store.place
    assert report.create_only or not store.capabilities.create_only
    assert await list_keys(store) == ["ab/ours"]


async def test_a_store_may_be_prepared_and_works_as_before(store):
    await store.prepare()
    await store.prepare()
    assert await list_keys(store) == []


async def test_a_store_is_closed_more_than_once(store):
    await store.put("ab/key", [b"x"])
    await store.aclose()
    await store.aclose()


async def test_no_call_takes_a_key_out_of_the_account(store):
    """Keys that climb are refused, or are mere names: never a way out of the account."""
    try:
        await store.put("../escaped", [b"x"])
    except Refused:
        assert await list_keys(store) == []
    else:
        await store.delete("../escaped")
