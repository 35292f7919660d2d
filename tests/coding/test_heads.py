"""Heads: whole on every account, sealed for one device and one account."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggfs.coding.heads import RECORD_LIMIT_BYTES, open_head, seal_head
from aggfs.coding.keys import Keyring, VolumeKeys
from aggfs.errors import Damaged
from aggfs.formats.sizes import size_class
from tests.support.stripes import MASTERS, VOLUME, keys_of_test_volume

KEYS = keys_of_test_volume()
DEVICE, ACCOUNT, SALT = b"device 1", b"account1", bytes(range(32))


@given(st.binary(max_size=600))
def test_a_head_comes_back_and_its_size_is_a_class(record: bytes) -> None:
    data = seal_head(KEYS, record, device=DEVICE, account=ACCOUNT, salt=SALT)
    assert len(data) == size_class(len(data))
    assert open_head(KEYS, data, device=DEVICE, account=ACCOUNT) == record


def test_a_head_of_an_older_epoch_is_read_with_the_newer_keyring() -> None:
    older = VolumeKeys(Keyring(VOLUME, MASTERS[:1]))
    data = seal_head(older, b"record", device=DEVICE, account=ACCOUNT, salt=SALT)
    assert open_head(KEYS, data, device=DEVICE, account=ACCOUNT) == b"record"
    newer = seal_head(KEYS, b"record", device=DEVICE, account=ACCOUNT, salt=SALT)
    with pytest.raises(Damaged):
        open_head(older, newer, device=DEVICE, account=ACCOUNT)


def test_a_head_that_was_moved_or_changed_is_damaged() -> None:
    data = seal_head(KEYS, b"record", device=DEVICE, account=ACCOUNT, salt=SALT)
    for device, account in [(DEVICE, b"account2"), (b"device 2", ACCOUNT)]:
        with pytest.raises(Damaged):
            open_head(KEYS, data, device=device, account=account)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(Damaged):
            open_head(KEYS, changed, device=DEVICE, account=ACCOUNT)
    chance = random.Random(3)
    for _ in range(1000):
        with pytest.raises(Damaged):
            open_head(
                KEYS, chance.randbytes(chance.randint(0, 300)), device=DEVICE, account=ACCOUNT
            )


def test_what_is_too_long_for_a_head_is_refused() -> None:
    for record, salt in [(bytes(RECORD_LIMIT_BYTES + 1), SALT), (b"", b"short")]:
        with pytest.raises(ValueError, match="no record"):
            seal_head(KEYS, record, device=DEVICE, account=ACCOUNT, salt=salt)
