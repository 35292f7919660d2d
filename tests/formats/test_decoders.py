"""Decoders of stripes and headers: what was encoded comes back, and whatever else comes in gives
a record or `Damaged`, nothing else."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.errors import Damaged
from aggfs.formats import fragment, header, staged, table
from aggfs.formats.fragment import FragmentHeader, Kind, Suite
from aggfs.formats.header import Charter, Cost, Header, Slot, SlotKind, VolumePolicy
from aggfs.formats.record import Reader
from aggfs.formats.sizes import size_class
from aggfs.formats.staged import StagedHead
from aggfs.formats.table import TableRow
from aggfs.model import Layout, Member

TRIES = 20_000


def exactly(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


def below(limit: int) -> st.SearchStrategy[int]:
    return st.integers(0, limit - 1)


SIZES = st.lists(st.integers(84, 512 * 1024), max_size=20).map(tuple)
STRIPE_KINDS = st.sampled_from([Kind.DATA, Kind.SEGMENT, Kind.CHECKPOINT, Kind.HEAD])

FRAGMENT_HEADERS = st.builds(
    FragmentHeader,
    kind=STRIPE_KINDS,
    volume=exactly(16),
    sid=exactly(24),
    k=st.integers(1, 32),
    layout=below(2),
    index=below(32),
    epoch=st.integers(1, 2**32 - 1),
    blocks=st.integers(1, 1 << 16),
    table_offset=st.integers(128, 2**32 - 1),
    table_bytes=st.integers(84, 512 * 1024),
)
ROWS = st.lists(
    st.builds(
        TableRow,
        inode=exactly(16),
        version=exactly(16),
        parent=exactly(16),
        name=st.binary(max_size=255),
        size=below(2**63),
        block=below(2**63),
        count=st.integers(1, 1 << 16),
    ),
    max_size=8,
).map(tuple)
STAGED = st.builds(
    StagedHead,
    kind=STRIPE_KINDS,
    epoch=st.integers(1, 2**32 - 1),
    sid=exactly(24),
    sealed_bytes=SIZES.filter(len),
)
COSTS = st.builds(
    Cost, memory_kib=st.integers(8192, 1 << 20), passes=st.integers(1, 16), lanes=st.integers(1, 16)
)


@st.composite
def slot_strategy(draw: st.DrawFn) -> Slot:
    kind = draw(st.sampled_from(SlotKind))
    return Slot(
        slot=draw(exactly(8)),
        kind=kind,
        cost=draw(COSTS) if kind is SlotKind.PASSPHRASE else None,
        salt=draw(exactly(16)),
        public_key=draw(exactly(32)),
        commitment=draw(exactly(32)),
        sealed_private=draw(exactly(48)),
        wrapped_master=draw(exactly(80)),
    )


HEADERS = st.builds(
    Header,
    salt=exactly(32),
    volume=exactly(16),
    generation=below(2**64),
    epoch=st.integers(1, 1024),
    slots=st.lists(slot_strategy(), min_size=1, max_size=4).map(tuple),
    sealed=st.binary(max_size=200),
)
MEMBERS = st.builds(
    Member,
    device=exactly(8),
    name=st.text(max_size=60),
    signing_key=exactly(32),
    slot_key=exactly(32),
    lapsed_after=st.none() | below(2**63),
)
POLICIES = st.builds(
    VolumePolicy,
    k=st.integers(1, 10),
    n=st.integers(10, 32),
    per_provider=st.integers(1, 32),
    layout=st.sampled_from(Layout),
    suite=st.sampled_from(Suite),
    allow_complete_copy=st.booleans(),
).map(lambda one: replace(one, n=3 * one.k) if one.layout.in_copies else one)
CHARTERS = st.builds(
    Charter,
    account=exactly(8),
    epochs=st.lists(exactly(32), min_size=1, max_size=4).map(tuple),
    policy=POLICIES,
    members=st.lists(MEMBERS, max_size=4).map(tuple),
)


@given(FRAGMENT_HEADERS)
def test_the_fields_of_a_fragment_header_come_back(fields: FragmentHeader) -> None:
    assert len(fragment.encode_fields(fields)) == 80
    assert fragment.decode_fields(fragment.encode_fields(fields)) == fields


@given(SIZES, ROWS)
def test_a_table_comes_back(sizes: tuple[int, ...], rows: tuple[TableRow, ...]) -> None:
    encoded = table.encode_rows(rows)
    assert len(encoded) == sum(table.row_bytes(row) for row in rows)
    assert table.decode_table(table.encode_table(sizes, encoded)) == (sizes, encoded)
    assert table.decode_rows(encoded) == rows


def test_a_table_of_too_many_files_is_refused() -> None:
    row = TableRow(bytes(16), bytes(16), bytes(16), b"n" * 255, 1, 0, 1)
    with pytest.raises(ValueError, match="too many"):
        table.encode_rows([row] * 1300)
    with pytest.raises(Damaged):
        table.decode_rows(bytes(table.ROWS_LIMIT_BYTES + 1))


@given(STAGED, st.binary(max_size=100))
def test_the_head_of_a_staging_file_comes_back(head: StagedHead, behind: bytes) -> None:
    encoded = staged.encode_staged_head(head)
    assert len(encoded) % 64 == 0
    assert staged.decode_staged_head(encoded + behind) == (head, len(encoded))


@given(HEADERS)
def test_a_header_comes_back_and_its_size_is_a_class(one: Header) -> None:
    encoded = header.encode_header(one)
    assert len(encoded) == size_class(len(encoded))
    assert header.decode_header(encoded) == one


@given(CHARTERS)
def test_the_sealed_part_of_a_header_comes_back(charter: Charter) -> None:
    assert header.decode_charter(header.encode_charter(charter)) == charter


def test_a_header_without_slots_or_with_a_long_name_is_refused() -> None:
    with pytest.raises(ValueError, match="slots"):
        header.encode_header(Header(bytes(32), bytes(16), 1, 1, (), b""))
    policy = VolumePolicy(2, 3, 1, Layout.CONTIGUOUS, Suite.AES_256_GCM, False)
    member = Member(bytes(8), "é" * 128, bytes(32), bytes(32), None)
    with pytest.raises(ValueError, match="name of a device"):
        header.encode_charter(Charter(bytes(8), (bytes(32),), policy, (member,)))


# --- untrusted bytes ------------------------------------------------------------------------------

SAMPLE_FRAGMENT = FragmentHeader(
    Kind.DATA, bytes(16), bytes(24), k=3, layout=0, index=4, epoch=1, blocks=17,
    table_offset=1398400, table_bytes=84,
)  # fmt: skip
SAMPLE_ROWS = (TableRow(b"i" * 16, b"v" * 16, b"p" * 16, b"photo.jpg", 400_000, 0, 2),) * 3
SAMPLE_SLOTS = tuple(
    Slot(
        bytes([kind]) * 8,
        kind,
        Cost(8192, 1, 1) if kind is SlotKind.PASSPHRASE else None,
        bytes(16), bytes(32), bytes(32), bytes(48), bytes(80),
    )
    for kind in SlotKind
)  # fmt: skip
SAMPLE_CHARTER = Charter(
    b"account1",
    (bytes(32), bytes(range(32))),
    VolumePolicy(3, 5, 1, Layout.CONTIGUOUS, Suite.AES_256_GCM, False),
    (Member(b"device 1", "laptop", bytes(32), bytes(32), None),) * 2,
)
SAMPLE_HEADER = Header(bytes(32), bytes(16), 1, 2, SAMPLE_SLOTS, b"sealed" * 9)
DECODERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "fragment fields": (fragment.decode_fields, fragment.encode_fields(SAMPLE_FRAGMENT)),
    "table": (table.decode_table, table.encode_table((84,) * 9 + (262164,), b"rows")),
    "table rows": (table.decode_rows, table.encode_rows(SAMPLE_ROWS)),
    "staging file": (
        staged.decode_staged_head,
        staged.encode_staged_head(StagedHead(Kind.DATA, 1, bytes(24), (262164,) * 16 + (84,))),
    ),
    "header": (header.decode_header, header.encode_header(SAMPLE_HEADER)),
    "header's sealed part": (header.decode_charter, header.encode_charter(SAMPLE_CHARTER)),
}


def damaged(sample: bytes, chance: random.Random) -> bytes:
    """Nearly a record, or nothing like one."""
    way = chance.randrange(4)
    if way == 0:
        return chance.randbytes(chance.randrange(2 * len(sample)))
    data = bytearray(sample)
    if way == 1:
        return bytes(data[: chance.randrange(len(data))])
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
    if way == 3:
        data += chance.randbytes(chance.randrange(20))
    return bytes(data)


@pytest.mark.parametrize("name", list(DECODERS))
def test_damaged_and_random_bytes_give_a_record_or_damaged(name: str) -> None:
    decode, sample = DECODERS[name]
    chance = random.Random(name)
    decode(sample)
    refused = 0
    for _ in range(TRIES):
        try:
            decode(damaged(sample, chance))
        except Damaged:
            refused += 1
    assert refused > TRIES // 5


def test_a_header_with_a_good_digest_and_nonsense_within_is_damaged() -> None:
    """The digest is public, so anybody can make it right: what is behind must be strict too."""
    chance = random.Random(4)
    encoded = header.encode_header(SAMPLE_HEADER)
    salt, masked = encoded[:32], encoded[32:]
    body = header._masked(salt, masked)[32:]
    for _ in range(TRIES):
        forged = damaged(body[:600], chance).ljust(len(body), b"\0")[: len(body)]
        digest = header.hashlib.sha256(salt + forged).digest()
        try:
            header.decode_header(salt + header._masked(salt, digest + forged))
        except Damaged:
            continue


def test_a_reader_takes_what_is_there_and_no_more() -> None:
    reader = Reader(b"\x02ab\x00\xff", "thing")
    assert reader.text(1, limit=9) == "ab"
    with pytest.raises(Damaged, match="out of range"):
        reader.number(2, low=256)
    for wrong in (
        lambda: reader.take(-1),
        lambda: Reader(b"\x03ab", "thing").counted(1, limit=9),
        lambda: Reader(b"\x03abc", "thing").counted(1, limit=2),
        lambda: Reader(b"\x01\xff", "thing").text(1, limit=2),
        lambda: Reader(b"x", "thing").end(),
        lambda: Reader(b"\0\1", "thing").zeros(),
    ):
        with pytest.raises(Damaged, match="thing"):
            wrong()


# --- lengths --------------------------------------------------------------------------------------


@given(st.integers(0, 1 << 40))
def test_a_size_class_is_little_more_and_a_class_itself(length: int) -> None:
    padded = size_class(length)
    assert padded >= length
    assert size_class(padded) == padded
    assert padded <= max(64, length + 63, length * 1.12)


def test_size_classes_worked_out() -> None:
    assert [size_class(n) for n in (0, 1, 64, 65, 4096, 4097)] == [64, 64, 64, 128, 4096, 4352]
    assert [size_class(n) for n in (9000, 262144, 262145, 1398496)] == [
        9216,
        262144,
        270336,
        1409024,
    ]
