"""The ciphers: what is sealed opens, what is changed does not."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding import cipher
from aggfs.errors import Damaged

KEY = bytes(range(32))
XTS_KEY = bytes(range(64))
UNIT = cipher.XTS_UNIT_BYTES


def filled(count: int) -> bytes:
    return bytes(i * 31 % 251 for i in range(count))


@given(st.lists(st.binary(max_size=100), max_size=5), st.binary(max_size=60))
def test_pieces_sealed_one_by_one_open_as_one(pieces: list[bytes], associated: bytes) -> None:
    whole = b"".join(pieces)
    room = bytearray(len(whole) + 64)
    end = cipher.seal_into(KEY, cipher.nonce_of(3), pieces, associated, memoryview(room))
    assert bytes(room[:end]) == cipher.seal(KEY, cipher.nonce_of(3), whole, associated)
    out = bytearray(len(whole) + 16)
    sealed, tag = room[: end - 16], bytes(room[end - 16 : end])
    assert cipher.open_into(
        KEY, cipher.nonce_of(3), [sealed], tag, associated, memoryview(out)
    ) == len(whole)
    assert out[: len(whole)] == whole


def test_a_changed_seal_is_damaged() -> None:
    sealed = bytearray(cipher.seal(KEY, cipher.nonce_of(0), b"hello", b"place"))
    for position in range(len(sealed)):
        sealed[position] ^= 1
        with pytest.raises(Damaged):
            cipher.open_sealed(KEY, cipher.nonce_of(0), sealed, b"place")
        with pytest.raises(Damaged):
            cipher.open_into(
                KEY,
                cipher.nonce_of(0),
                [sealed[:-16]],
                bytes(sealed[-16:]),
                b"place",
                memoryview(bytearray(32)),
            )
        sealed[position] ^= 1
    with pytest.raises(Damaged):
        cipher.open_sealed(KEY, cipher.nonce_of(0), sealed, b"elsewhere")
    with pytest.raises(Damaged):
        cipher.open_sealed(KEY, cipher.nonce_of(0), b"short", b"place")


def test_a_mac_holds_for_one_cell_at_one_index() -> None:
    mac = cipher.CellMac(KEY)
    out = bytearray(16)
    mac.write(7, b"cell" * 4, memoryview(out))
    assert mac.check(7, b"cell" * 4, out)
    assert not mac.check(8, b"cell" * 4, out)
    assert not mac.check(7, b"cell" * 3 + b"celL", out)
    assert not mac.check(7, b"cell" * 4, bytes(16))


def test_units_are_plain_aes_xts() -> None:
    data = filled(2 * UNIT)
    expected = b"".join(
        Cipher(algorithms.AES(XTS_KEY), modes.XTS(number.to_bytes(16, "little")))
        .encryptor()
        .update(data[number * UNIT : (number + 1) * UNIT])
        for number in range(2)
    )
    assert cipher.XtsUnit(XTS_KEY).encrypt(0, data) == expected


@given(
    st.integers(0, 3 * UNIT // 16).map(lambda blocks: blocks * 16),
    st.integers(0, 2 * UNIT // 16).map(lambda blocks: blocks * 16),
)
def test_any_aligned_part_of_a_file_is_written_and_read_alone(offset: int, length: int) -> None:
    xts = cipher.XtsUnit(XTS_KEY)
    whole = filled(5 * UNIT)
    stored = xts.encrypt(0, whole)
    part = xts.encrypt(offset, whole[offset : offset + length])
    assert part == stored[offset : offset + length]
    out = bytearray(length)
    xts.decrypt_into(offset, part, out)
    assert out == whole[offset : offset + length]


def test_a_part_that_is_not_aligned_is_refused() -> None:
    xts = cipher.XtsUnit(XTS_KEY)
    with pytest.raises(ValueError, match="16"):
        xts.encrypt(8, bytes(16))
    with pytest.raises(ValueError, match="16"):
        xts.encrypt(0, bytes(8))
    with pytest.raises(ValueError, match="64"):
        cipher.XtsUnit(bytes(32))
