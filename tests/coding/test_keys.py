"""Derived keys and names: nothing is used twice, nothing tells what it is of."""

import pytest

from aggfs.coding.keys import Keyring, VolumeKeys, header_name, is_header_name, is_object_name
from aggfs.errors import Damaged
from aggfs.formats.fragment import Suite
from tests.support.stripes import MASTERS, SID, VOLUME, keys_of_test_volume

KEYS = keys_of_test_volume()
DEVICE = b"device 1"


def test_every_use_has_a_key_of_its_own() -> None:
    other = VolumeKeys(Keyring(bytes(16), MASTERS))
    found = []
    for keys in (KEYS, other):
        for epoch in (1, 2):
            for sid in (SID, SID[::-1]):
                found += [keys.stripe_key(epoch, sid), keys.filler_key(epoch, sid)]
                found += [keys.scatter_key(epoch, sid, block) for block in range(2)]
                found += [
                    keys.cell_key(epoch, sid, k, layout, index)
                    for k in (2, 3)
                    for layout in (0, 1)
                    for index in (0, 1)
                ]
            found += [keys.tail_key(epoch, bytes(32)), keys.charter_key(epoch, bytes(32))]
            found += [keys.header_key(epoch, bytes(32)), keys.header_salt(epoch, bytes(32))]
        found += [keys.local_key(b"one")[:32], keys.local_key(b"one")[32:], keys.local_key(b"two")]
    assert len(set(found)) == len(found)


def test_every_object_has_a_name_of_its_own_on_every_account() -> None:
    names = []
    for epoch in (1, 2):
        for account in (b"account1", b"account2"):
            names += [KEYS.fragment_name(epoch, SID, index, account) for index in range(3)]
            names += [
                KEYS.segment_name(epoch, DEVICE, chain, sequence, account)
                for chain in (0, 1)
                for sequence in (1, 2)
            ]
            names += [
                KEYS.checkpoint_name(epoch, DEVICE, sequence, part, account)
                for sequence in (1, 2)
                for part in (0, 1)
            ]
            names.append(KEYS.head_name(epoch, DEVICE, account))
    names += [header_name(bytes([number]) * 8) for number in range(3)]
    assert len(set(names)) == len(names)
    assert all(is_object_name(name) for name in names)


def test_headers_are_found_without_a_key_and_nothing_else_is_taken_for_one() -> None:
    assert is_header_name(header_name(b"8 random"))
    assert not is_header_name(KEYS.head_name(1, DEVICE, b"account1"))
    for foreign in ("", "photo.jpg", "ab/cd", header_name(b"8 random").upper(), "ab/" + "g" * 38):
        assert not is_header_name(foreign)
        assert not is_object_name(foreign)
    assert not is_object_name(header_name(b"8 random") + "\n")
    with pytest.raises(ValueError, match="8 random"):
        header_name(b"")


@pytest.mark.parametrize("epoch", [0, 3, -1])
def test_an_epoch_that_the_keyring_lacks_is_no_other_epoch(epoch: int) -> None:
    with pytest.raises(Damaged, match="epoch"):
        KEYS.stripe_key(epoch, SID)


def test_a_keyring_holds_whole_keys() -> None:
    for epochs in ((), (b"short",), (bytes(32), b"")):
        with pytest.raises(ValueError, match="32 bytes"):
            Keyring(VOLUME, epochs)


def test_keys_are_never_printed() -> None:
    assert MASTERS[0].hex() not in repr(KEYS)
    assert str(MASTERS[0])[2:-1] not in repr(KEYS)
    assert keys_of_test_volume().suite is Suite.AES_256_GCM
