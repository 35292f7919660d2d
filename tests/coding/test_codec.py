"""Stripes and fragments: what goes in comes out, from any k, or it is Damaged."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggfs.coding import codec, decode
from aggfs.coding.decode import DamagedFragment
from aggfs.coding.erasure import ZfecCoder
from aggfs.coding.headers import open_header_of_fragment
from aggfs.errors import Damaged
from aggfs.formats.fragment import Kind, Suite
from aggfs.formats.sizes import size_class
from aggfs.model import BLOCK_BYTES, Layout, StripeRow, spare
from tests.support.stripes import (
    SID,
    content,
    fragments_of,
    keys_of_test_volume,
    row_of,
    runs_of,
    sealed_stripe,
)

KEYS = keys_of_test_volume()
CODES_IN_COPIES = st.sampled_from([(1, 2), (2, 4), (3, 6), (2, 6), (5, 10), (16, 32)])
CODES = st.sampled_from([(1, 2), (2, 3), (2, 4), (3, 5), (4, 6), (5, 8), (10, 14), (16, 32)])
LAYOUTS = st.sampled_from([Layout.CONTIGUOUS, Layout.INTERLEAVE])
LAYOUTS_IN_COPIES = st.sampled_from([Layout.CONTIGUOUS_COPIES, Layout.INTERLEAVE_COPIES])


def read_back(keys, row, fragments, *, kind=Kind.DATA) -> list[bytes]:
    blocks = len(row.sealed_bytes) - 1
    runs = runs_of(row, fragments)
    return [bytes(plain) for plain in decode.decode_each(keys, row, kind, 0, blocks, runs)]


@st.composite
def stripes(draw: st.DrawFn):
    return draw(contents(*draw(CODES), draw(LAYOUTS)))


@st.composite
def stripes_in_copies(draw: st.DrawFn):
    return draw(contents(*draw(CODES_IN_COPIES), draw(LAYOUTS_IN_COPIES)))


@st.composite
def contents(draw: st.DrawFn, k: int, n: int, layout: Layout):
    edges = [0, 1, k - 1, k, 63, 64, 65, 4095, 4096, 4097, 16 * k, 5000]
    lengths = draw(st.lists(st.sampled_from(edges), min_size=0, max_size=6))
    blocks = [content(length, seed) for seed, length in enumerate(lengths)]
    return k, n, layout, blocks, draw(st.randoms())


@given(stripes(), st.sampled_from([None, "zlib", "zstd"]))
def test_any_k_fragments_give_every_block_back(stripe, compress) -> None:
    k, n, layout, blocks, chance = stripe
    sealed = sealed_stripe(KEYS, blocks, compress=compress)
    fragments = fragments_of(KEYS, sealed, k=k, n=n, layout=layout)
    row = row_of(sealed, k=k, n=n, layout=layout)
    assert {len(data) for data in fragments.values()} == {
        codec.fragment_bytes(sealed.sealed_bytes, k)
    }
    some = {index: fragments[index] for index in chance.sample(range(n), k)}
    assert read_back(KEYS, row, some) == blocks
    for block, plain in enumerate(blocks):
        offset, length = codec.cell_range(row.sealed_bytes, k, block)
        cells = {
            index: decode.check_cell(KEYS, row, index, block, data[offset : offset + length])
            for index, data in some.items()
        }
        assert decode.decode_block(KEYS, row, Kind.DATA, block, cells) == plain


@given(stripes() | stripes_in_copies())
def test_fragments_give_the_blocks_back_exactly_if_spare_is_not_negative(stripe) -> None:
    k, n, layout, blocks, chance = stripe
    sealed = sealed_stripe(KEYS, blocks)
    fragments = fragments_of(KEYS, sealed, k=k, n=n, layout=layout)
    row = row_of(sealed, k=k, n=n, layout=layout)
    some = {index: fragments[index] for index in chance.sample(range(n), chance.randint(0, n))}
    if spare(row, some) >= 0:
        assert read_back(KEYS, row, some) == blocks
        joined = decode.join_stripe(KEYS, row, Kind.DATA, some)
        assert joined == sealed
        assert fragments_of(KEYS, joined, k=k, n=n, layout=layout) == fragments
    else:
        with pytest.raises(ValueError, match="cannot give a block"):
            decode.join_stripe(KEYS, row, Kind.DATA, some)


@given(stripes() | stripes_in_copies())
def test_so_many_fragments_may_be_lost_as_spare_says_and_no_more(stripe) -> None:
    k, n, layout, _, chance = stripe
    row = StripeRow(SID, k, layout, 0, 1, (84,), (b"",) * n)
    held = set(chance.sample(range(n), chance.randint(0, n)))
    more = spare(row, held)
    if more >= 0:
        lost = chance.sample(sorted(held), more)
        assert spare(row, held.difference(lost)) >= 0
        alike = [{i for i in held if i % k == cell} for cell in range(k)]
        fewest = min(alike, key=len) if layout.in_copies else held
        assert spare(row, held.difference(sorted(fewest)[: more + 1])) < 0


def test_k_and_more_copies_of_one_cell_are_nothing() -> None:
    row = row_of(sealed_stripe(KEYS, []), k=2, n=8, layout=Layout.CONTIGUOUS_COPIES)
    assert [spare(row, some) for some in [(), (0, 2, 4, 6), (1, 3, 5, 7)]] == [-1, -1, -1]
    assert [spare(row, some) for some in [(0, 1), (0, 2, 4, 5), (0, 3, 2, 5)]] == [0, 0, 1]
    assert spare(row, range(8)) == 3


@given(stripes_in_copies())
def test_in_copies_the_cells_are_primary_ones_and_only_header_and_macs_differ(stripe) -> None:
    k, n, layout, blocks, _ = stripe
    sealed = sealed_stripe(KEYS, blocks)
    fragments = fragments_of(KEYS, sealed, k=k, n=n, layout=layout)
    split = fragments_of(KEYS, sealed, k=k, n=n, layout=layout.cut)
    for block in range(len(blocks) + 1):
        start, length = codec.cell_range(sealed.sealed_bytes, k, block)
        cells = {index: data[start : start + length] for index, data in fragments.items()}
        for index in range(n):
            assert cells[index][:-16] == split[index % k][start : start + length - 16]
        assert len({cell[-16:] for cell in cells.values()}) == n
    assert len({data[:32] for data in fragments.values()}) == n


@pytest.mark.parametrize("size", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES // 3])
@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (10, 14)])
def test_large_blocks_come_back_from_the_last_k_fragments(size, layout, k, n) -> None:
    blocks = [content(size, 1), content(size, 2)]
    sealed = sealed_stripe(KEYS, blocks)
    fragments = fragments_of(KEYS, sealed, k=k, n=n, layout=layout)
    row = row_of(sealed, k=k, n=n, layout=layout)
    last = {index: fragments[index] for index in range(n - k, n)}
    assert read_back(KEYS, row, last) == blocks


def test_every_choice_of_three_of_five_gives_the_block_back() -> None:
    blocks = [content(9000)]
    sealed = sealed_stripe(KEYS, blocks)
    fragments = fragments_of(KEYS, sealed, k=3, n=5)
    row = row_of(sealed, k=3, n=5)
    for chosen in combinations(range(5), 3):
        assert read_back(KEYS, row, {i: fragments[i] for i in chosen}) == blocks


def test_a_block_beyond_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        sealed_stripe(KEYS, [bytes(BLOCK_BYTES + 1)])


def test_a_stripe_of_too_many_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="less than"):
        sealed_stripe(KEYS, [b""] * (1 << 16))


@pytest.mark.parametrize(("k", "n"), [(0, 3), (4, 3), (3, 33)])
def test_an_impossible_code_is_refused(k, n) -> None:
    with pytest.raises(ValueError, match="no code"):
        codec.at_once(
            codec.encode_steps(
                KEYS, sealed_stripe(KEYS, [b"x"]), k=k, n=n, layout=Layout.CONTIGUOUS
            )
        )


# --- what a fragment depends on -------------------------------------------------------------------


@given(stripes() | stripes_in_copies())
def test_a_fragment_does_not_depend_on_n_nor_on_which_others_are_made(stripe) -> None:
    k, n, layout, blocks, chance = stripe
    sealed = sealed_stripe(KEYS, blocks)
    every = fragments_of(KEYS, sealed, k=k, n=32, layout=layout)
    some = chance.sample(range(n), chance.randint(1, n))
    for index, data in fragments_of(KEYS, sealed, k=k, n=n, layout=layout, indices=some).items():
        assert data == every[index]


@settings(max_examples=50)
@given(stripes())
def test_repair_is_byte_identical(stripe) -> None:
    k, n, layout, blocks, chance = stripe
    sealed = sealed_stripe(KEYS, blocks)
    fragments = fragments_of(KEYS, sealed, k=k, n=n, layout=layout)
    row = row_of(sealed, k=k, n=n, layout=layout)
    left = {index: fragments[index] for index in chance.sample(range(n), k)}
    joined = decode.join_stripe(KEYS, row, Kind.DATA, left)
    assert joined == sealed
    assert fragments_of(KEYS, joined, k=k, n=n, layout=layout) == fragments


def test_sealing_again_under_another_sid_gives_unrelated_fragments() -> None:
    blocks = [content(5000)]
    one = fragments_of(KEYS, sealed_stripe(KEYS, blocks), k=2, n=3)
    other = fragments_of(KEYS, sealed_stripe(KEYS, blocks, sid=SID[::-1]), k=2, n=3)
    for index in range(3):
        assert all(
            one[index][at : at + 8] != other[index][at : at + 8]
            for at in range(0, len(one[index]), 8)
        )


def test_scratch_memory_leaves_no_trace_in_what_is_made_next() -> None:
    sealing, coding = codec.Scratch(), codec.Scratch()
    for size in (BLOCK_BYTES, 70, 9000, 1):
        made = [
            codec.at_once(
                codec.seal_steps(
                    KEYS,
                    sid=SID,
                    kind=Kind.DATA,
                    blocks=[content(size)],
                    table=b"",
                    scratch=scratch,
                )
            )
            for scratch in (sealing, None)
        ]
        assert made[0] == made[1]
        kept, fresh = (
            codec.at_once(
                codec.encode_steps(
                    KEYS, made[0], k=3, n=5, layout=Layout.CONTIGUOUS, scratch=scratch
                )
            )
            for scratch in (coding, None)
        )
        assert [b"".join(pieces) for pieces in kept.values()] == [
            b"".join(pieces) for pieces in fresh.values()
        ]


def test_zfec_and_isal_make_the_same_fragments() -> None:
    sealed = sealed_stripe(KEYS, [content(BLOCK_BYTES), content(100)])
    row = row_of(sealed, k=4, n=7)
    fragments = fragments_of(KEYS, sealed, k=4, n=7)
    for block in range(3):
        offset, length = codec.cell_range(row.sealed_bytes, 4, block)
        cells = [data[offset : offset + length - 16] for data in fragments.values()]
        out = [bytearray(length - 16) for _ in range(3)]
        ZfecCoder().encode(cells[:4], range(4, 7), [memoryview(cell) for cell in out])
        assert out == cells[4:]


def test_threads_share_keys_and_coder_but_nothing_else() -> None:
    blocks = [content(70_000), content(500)]

    def made(number: int) -> list[bytes]:
        sealed = sealed_stripe(KEYS, blocks, sid=number.to_bytes(24, "big"))
        row = row_of(sealed, k=3, n=5)
        fragments = fragments_of(KEYS, sealed, k=3, n=5)
        some = {index: fragments[index] for index in (1, 3, 4)}
        assert read_back(KEYS, row, some) == blocks
        return list(fragments.values())

    alone = [made(number) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(made, range(40))) == alone


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", list(Layout))
def test_every_flipped_bit_of_a_cell_names_its_fragment(layout) -> None:
    sealed = sealed_stripe(KEYS, [content(100)])
    row = row_of(sealed, k=2, n=3, layout=layout)
    fragments = fragments_of(KEYS, sealed, k=2, n=3, layout=layout)
    offset, length = codec.cell_range(row.sealed_bytes, 2, 0)
    for index in (0, 2):
        cell = bytearray(fragments[index][offset : offset + length])
        for bit in range(length * 8):
            cell[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedFragment) as caught:
                decode.check_cell(KEYS, row, index, 0, cell)
            assert caught.value.index == index
            cell[bit // 8] ^= 1 << bit % 8
        assert len(decode.check_cell(KEYS, row, index, 0, cell)) == length - 16


def test_a_cell_is_refused_at_another_place_stripe_or_length() -> None:
    sealed = sealed_stripe(KEYS, [content(100, 1), content(100, 2)])
    other = sealed_stripe(KEYS, [content(100, 1)], sid=SID[::-1])
    row = row_of(sealed, k=2, n=3)
    fragments = fragments_of(KEYS, sealed, k=2, n=3)
    offset, length = codec.cell_range(row.sealed_bytes, 2, 0)
    cell = fragments[0][offset : offset + length]
    decode.check_cell(KEYS, row, 0, 0, cell)
    for wrong_row, index, block, wrong in [
        (row, 1, 0, cell),
        (row, 0, 1, cell),
        (row_of(other, k=2, n=3), 0, 0, cell),
        (row_of(sealed, k=2, n=3, layout=Layout.INTERLEAVE), 0, 0, cell),
        (row, 0, 0, cell[:-1]),
        (row, 0, 0, b""),
    ]:
        with pytest.raises(DamagedFragment):
            decode.check_cell(KEYS, wrong_row, index, block, wrong)


def test_an_older_version_put_back_is_refused() -> None:
    older = sealed_stripe(KEYS, [content(5000, 1)])
    newer = sealed_stripe(KEYS, [content(5000, 2)], sid=SID[::-1])
    row = row_of(newer, k=2, n=3)
    fragments = fragments_of(KEYS, newer, k=2, n=3)
    fragments[1] = fragments_of(KEYS, older, k=2, n=3)[1]
    with pytest.raises(DamagedFragment) as caught:
        read_back(KEYS, row, fragments)
    assert caught.value.index == 1


@pytest.mark.parametrize("suite", list(Suite))
def test_cells_that_are_good_but_not_of_this_block_are_damaged(suite) -> None:
    keys = keys_of_test_volume(suite=suite)
    one = sealed_stripe(keys, [content(100, 1)])
    other = sealed_stripe(keys, [content(100, 2)], sid=SID[::-1])
    row = row_of(other, k=2, n=3)
    offset, length = codec.cell_range(row.sealed_bytes, 2, 0)
    cells = {
        i: data[offset : offset + length - 16]
        for i, data in fragments_of(keys, one, k=2, n=3).items()
    }
    with pytest.raises(Damaged):
        decode.decode_block(keys, row, Kind.DATA, 0, cells)


def test_fewer_than_k_cells_are_refused() -> None:
    row = row_of(sealed_stripe(KEYS, [b"x"]), k=2, n=3)
    with pytest.raises(ValueError, match="cannot give"):
        decode.decode_block(KEYS, row, Kind.DATA, 0, {0: bytes(48)})


# --- staging --------------------------------------------------------------------------------------


def test_a_staged_stripe_is_coded_into_the_same_fragments_later() -> None:
    sealed = sealed_stripe(KEYS, [content(BLOCK_BYTES), b"", content(300)])
    loaded = codec.load_staged(b"".join(codec.stage_bytes(sealed)) + b"what lies behind")
    assert fragments_of(KEYS, loaded, k=3, n=5) == fragments_of(KEYS, sealed, k=3, n=5)
    opened = list(codec.open_each(KEYS, loaded, 0, 3))
    assert opened == [content(BLOCK_BYTES), b"", content(300)]


def test_damage_in_staging_is_noticed_before_it_is_coded() -> None:
    sealed = sealed_stripe(KEYS, [content(300)])
    staged = b"".join(codec.stage_bytes(sealed))
    head_bytes = len(staged) - len(sealed.buffer)
    meaningful = [
        *range(head_bytes - 20),
        *(
            head_bytes + start + at
            for start, length in zip(sealed.offsets, sealed.sealed_bytes, strict=True)
            for at in range(length + codec.FILLER_BYTES)
        ),
    ]
    for position in meaningful:
        damaged = bytearray(staged)
        damaged[position] ^= 4
        try:
            loaded = codec.load_staged(damaged)
        except Damaged:
            continue
        with pytest.raises(Damaged):
            fragments_of(KEYS, loaded, k=2, n=3)


def test_a_staging_file_that_ends_early_is_damaged() -> None:
    staged = b"".join(codec.stage_bytes(sealed_stripe(KEYS, [content(300)])))
    for end in range(0, len(staged), 7):
        with pytest.raises(Damaged):
            codec.load_staged(staged[:end])


# --- what a provider sees -------------------------------------------------------------------------


def test_no_fragment_shows_content_or_where_blocks_end() -> None:
    blocks = [b"AAAA" * 100] * 40
    fragments = fragments_of(KEYS, sealed_stripe(KEYS, blocks, table=b"name" * 50), k=10, n=14)
    for data in fragments.values():
        assert len(data) == size_class(len(data))
        pieces = [data[at : at + 4] for at in range(0, len(data), 4)]
        assert len(set(pieces)) == len(pieces)


def test_without_a_cipher_no_fragment_holds_a_run_of_a_head() -> None:
    keys = keys_of_test_volume(suite=Suite.NONE)
    head = bytes(range(256)) * 2
    for k, n in [(2, 3), (3, 5), (10, 14)]:
        sealed = sealed_stripe(keys, [head + content(3000)])
        fragments = fragments_of(keys, sealed, k=k, n=n, layout=Layout.INTERLEAVE)
        for data in fragments.values():
            assert all(head[at : at + 4] not in data for at in range(509))
        row = row_of(sealed, k=k, n=n, layout=Layout.INTERLEAVE)
        assert read_back(keys, row, fragments) == [head + content(3000)]


def test_without_a_cipher_tables_segments_and_checkpoints_are_sealed_all_the_same() -> None:
    keys = keys_of_test_volume(suite=Suite.NONE)
    secret = b"a name that nobody may read"
    for kind in (Kind.SEGMENT, Kind.CHECKPOINT):
        sealed = sealed_stripe(keys, [secret], kind=kind, table=secret)
        assert secret not in sealed.buffer.tobytes()
    assert secret not in sealed_stripe(keys, [b"data"], table=secret).buffer.tobytes()


# --- headers --------------------------------------------------------------------------------------


def test_a_header_tells_the_stripe_to_who_has_a_key_of_any_epoch() -> None:
    sealed = sealed_stripe(KEYS, [content(100)])
    data = fragments_of(KEYS, sealed, k=2, n=3)[1]
    header = open_header_of_fragment(KEYS, data)
    assert (header.sid, header.k, header.index, header.kind) == (SID, 2, 1, Kind.DATA)
    assert (header.epoch, header.blocks) == (2, 2)
    assert header == codec.header_of(KEYS, sealed, 2, Layout.CONTIGUOUS, 1)


def test_every_flipped_bit_of_a_header_is_damaged() -> None:
    data = bytearray(fragments_of(KEYS, sealed_stripe(KEYS, [b"x"]), k=2, n=3)[0][:128])
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            open_header_of_fragment(KEYS, data)
        data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Damaged):
        open_header_of_fragment(KEYS, data[:127])


def test_random_bytes_are_damaged_as_cells_and_headers() -> None:
    chance = random.Random(5)
    sealed = sealed_stripe(KEYS, [content(100)])
    row = row_of(sealed, k=2, n=3)
    for _ in range(2000):
        noise = chance.randbytes(chance.choice([0, 1, 48, 64, 128, 200]))
        with pytest.raises(Damaged):
            open_header_of_fragment(KEYS, noise)
        with pytest.raises(Damaged):
            decode.check_cell(KEYS, row, 0, 0, noise)
