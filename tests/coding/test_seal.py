"""One block: sealed, opened, and strict about what lies under the seal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding import cipher
from aggfs.coding.seal import Place, open_into, prepare, seal_into
from aggfs.errors import Damaged
from aggfs.formats.fragment import Kind, associated_data
from aggfs.formats.sizes import sealed_length
from aggfs.model import BLOCK_BYTES
from tests.support.stripes import SID, VOLUME, content, keys_of_test_volume

KEYS = keys_of_test_volume()
PLACE = Place(Kind.DATA, 2, SID, 5)


def sealed_block(data: bytes) -> bytes:
    pieces, length = prepare(None, data)
    out = bytearray(length + 16)
    seal_into(KEYS, PLACE, pieces, memoryview(out))
    assert not any(out[length:])
    return bytes(out[:length])


def opened(sealed: bytes, *pieces: bytes) -> bytes:
    out = memoryview(bytearray(len(sealed)))
    return bytes(open_into(KEYS, PLACE, len(sealed), pieces or (sealed,), out))


@given(st.binary(max_size=200), st.lists(st.integers(1, 60), max_size=8))
def test_a_sealed_block_opens_in_whatever_pieces_it_comes(data: bytes, cuts: list[int]) -> None:
    sealed = sealed_block(data)
    assert len(sealed) == sealed_length(len(data))
    left, pieces = sealed + b"filler behind", []
    for cut in cuts:
        pieces.append(left[:cut])
        left = left[cut:]
    assert opened(sealed, *pieces, left) == data


def test_a_full_block_grows_by_twenty_bytes() -> None:
    assert len(sealed_block(content(BLOCK_BYTES))) == BLOCK_BYTES + 20


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        (bytes(64) + b"\x00\x00\x00\x41", "more than there is"),
        (bytes(63) + b"\x01" + b"\x00\x00\x00\x05", "not zero"),
        (bytes(64) + b"\x03\x00\x00\x05", "method 3"),
        (bytes(64) + b"\x01\x00\x00\x05", "decompress"),
        (bytes(64) + b"\x02\x00\x00\x05", "decompress"),
        (bytes(64) + b"\x01\xff\xff\xff", "may hold"),
    ],
)
def test_nonsense_under_a_good_seal_is_damaged(plain: bytes, told: str) -> None:
    place = associated_data(KEYS.suite, Kind.DATA, VOLUME, 2, SID, 5)
    sealed = cipher.seal(KEYS.stripe_key(2, SID), cipher.nonce_of(5), plain, place)
    with pytest.raises(Damaged, match=told):
        opened(sealed)


def test_what_is_too_long_to_be_sealed_is_refused() -> None:
    for size in (600_000, 1 << 21):
        with pytest.raises(ValueError, match="too long"):
            prepare(None, bytes(size))
