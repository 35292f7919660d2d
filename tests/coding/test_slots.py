"""Ways in: every kind of secret opens its slot, a wrong one opens nothing and says so at once."""

import random

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from aggfs.coding import keys as key_doors
from aggfs.coding import slots
from aggfs.coding.keys import Keyring
from aggfs.errors import Damaged, WrongKey
from aggfs.formats.fragment import Suite
from aggfs.formats.header import (
    DEFAULT_COST,
    Cost,
    SlotKind,
    VolumePolicy,
    decode_header,
    encode_header,
)
from aggfs.model import Layout, Member

CHEAP = Cost(memory_kib=8 * 1024, passes=1, lanes=1)
VOLUME = bytes(range(16))
ACCOUNT = b"account1"
POLICY = VolumePolicy(3, 5, 1, Layout.CONTIGUOUS, Suite.AES_256_GCM, False)
MEMBER = Member(b"device 1", "läptop", bytes(32), bytes([7]) * 32, None)


def chance(seed: int = 1):
    return random.Random(seed).randbytes


WORDS = slots.new_recovery_words(chance(9))
SECRETS = {
    SlotKind.PASSPHRASE: slots.passphrase("correct horse"),
    SlotKind.RECOVERY: slots.recovery_words(WORDS),
    SlotKind.KEY_FILE: slots.key_file(slots.new_key_file(chance(8))),
    SlotKind.DEVICE: slots.device_secret(bytes([3]) * 32),
}


def volume_of(*secrets: slots.Secret) -> slots.OpenedHeader:
    random_bytes = chance()
    made = [slots.new_slot(one, random_bytes=random_bytes, cost=CHEAP) for one in secrets]
    return slots.new_volume(VOLUME, POLICY, made, [MEMBER], random_bytes=random_bytes)


EVERY = volume_of(*SECRETS.values())
OBJECT = slots.seal_header(EVERY, ACCOUNT, random_bytes=chance(2))


@pytest.mark.parametrize("kind", list(SlotKind))
def test_each_kind_of_secret_opens_the_volume(kind) -> None:
    opened = slots.open_header(OBJECT, SECRETS[kind])
    assert opened.keyring == EVERY.keyring
    assert opened.policy == POLICY
    assert opened.members == (MEMBER,)
    assert opened.account == ACCOUNT
    assert opened.generation == 1
    assert [slot.kind for slot in opened.slots] == list(SlotKind)


@pytest.mark.parametrize(
    "secret",
    [
        slots.passphrase("correct hors"),
        slots.passphrase(""),
        slots.passphrase(WORDS),
        slots.recovery_words(slots.new_recovery_words(chance(10))),
        slots.key_file(slots.new_key_file(chance(11))),
        slots.device_secret(bytes([4]) * 32),
    ],
)
def test_a_wrong_secret_is_told(secret) -> None:
    with pytest.raises(WrongKey):
        slots.open_header(OBJECT, secret)


def test_a_secret_of_one_kind_does_not_open_a_slot_of_another() -> None:
    value = SECRETS[SlotKind.DEVICE].value
    with pytest.raises(WrongKey):
        slots.open_header(OBJECT, slots.Secret(SlotKind.KEY_FILE, value))


def test_a_passphrase_may_be_composed_either_way() -> None:
    assert slots.passphrase("Zu\u0308rich") == slots.passphrase("Z\u00fcrich")


def test_recovery_words_are_checked_before_any_slot_is_tried() -> None:
    words = WORDS.split()
    assert len(words) == 24
    assert slots.recovery_words("  " + WORDS.upper() + "\n") == SECRETS[SlotKind.RECOVERY]
    for wrong, told in [
        (words[:23], "not 23"),
        ([*words[:3], "aggfs", *words[4:]], "word 4"),
        ([words[1], words[0], *words[2:]], "do not fit"),
    ]:
        with pytest.raises(WrongKey, match=told):
            slots.recovery_words(" ".join(wrong))


@pytest.mark.parametrize(
    "content", [b"", b"aggfs-key-1 00\n", b"aggfs-key-2 " + b"00" * 32, b"\xff"]
)
def test_what_is_no_key_file_is_refused(content) -> None:
    with pytest.raises(WrongKey):
        slots.key_file(content)
    with pytest.raises(WrongKey):
        slots.device_secret(content)


def test_secrets_and_keyrings_are_never_printed() -> None:
    shown = repr(SECRETS) + repr(EVERY) + repr(EVERY.keyring)
    assert "correct horse" not in shown
    assert repr(EVERY.keyring.epochs[0])[2:-1] not in shown


# --- generations ----------------------------------------------------------------------------------


def test_a_slot_can_be_added_and_taken_away_by_who_knows_no_other_secret() -> None:
    opened = slots.open_header(OBJECT, SECRETS[SlotKind.RECOVERY])
    added = slots.new_slot(slots.passphrase("another"), random_bytes=chance(3), cost=CHEAP)
    more = slots.seal_header(opened.with_slot(added), ACCOUNT, random_bytes=chance(4))
    again = slots.open_header(more, slots.passphrase("another"))
    assert again.generation == 2
    assert again.keyring == EVERY.keyring
    first = again.slots[0].slot
    fewer = slots.seal_header(again.without_slot(first), ACCOUNT, random_bytes=chance(5))
    with pytest.raises(WrongKey):
        slots.open_header(fewer, SECRETS[SlotKind.PASSPHRASE])
    assert slots.open_header(fewer, SECRETS[SlotKind.DEVICE]).generation == 3


def test_the_last_slot_stays() -> None:
    alone = volume_of(SECRETS[SlotKind.DEVICE])
    with pytest.raises(ValueError, match="last"):
        alone.without_slot(alone.slots[0].slot)
    with pytest.raises(ValueError, match="no such"):
        alone.without_slot(bytes(8))


def test_any_member_makes_a_new_epoch_that_all_slots_open() -> None:
    opened = slots.open_header(OBJECT, SECRETS[SlotKind.DEVICE]).with_new_epoch(chance(6))
    rotated = slots.seal_header(opened, ACCOUNT, random_bytes=chance(7))
    for secret in SECRETS.values():
        keyring = slots.open_header(rotated, secret).keyring
        assert keyring.epoch == 2
        assert keyring.epochs[0] == EVERY.keyring.epochs[0]
        assert keyring == opened.keyring


def test_who_has_the_keyring_reads_a_header_without_a_secret() -> None:
    assert slots.read_header(OBJECT, EVERY.keyring).members == (MEMBER,)
    newer = EVERY.with_new_epoch(chance(6))
    assert slots.read_header(OBJECT, newer.keyring).generation == 1
    ahead = slots.seal_header(newer, ACCOUNT, random_bytes=chance(7))
    for keyring in (EVERY.keyring, Keyring(bytes(16), newer.keyring.epochs)):
        with pytest.raises(WrongKey):
            slots.read_header(ahead, keyring)


# --- what an account's operator can do ------------------------------------------------------------


def test_every_damaged_byte_of_a_header_is_noticed() -> None:
    for position in range(len(OBJECT)):
        damaged = bytearray(OBJECT)
        damaged[position] ^= 0x10
        with pytest.raises(Damaged):
            slots.open_header(damaged, SECRETS[SlotKind.DEVICE])


def test_a_slot_that_the_operator_swapped_for_his_own_is_noticed() -> None:
    header = decode_header(OBJECT)
    his = slots.new_slot(slots.passphrase("his"), random_bytes=chance(12), cost=CHEAP)
    swapped = (*header.slots[:3], header.slots[3])
    for place in range(3):
        kept = list(swapped)
        kept[place] = slots._wrapped(his, Keyring(VOLUME, (bytes(32),)))
        forged = encode_header(
            type(header)(
                header.salt, VOLUME, header.generation, header.epoch, tuple(kept), header.sealed
            )
        )
        with pytest.raises(Damaged):
            slots.open_header(forged, SECRETS[SlotKind.DEVICE])


def test_headers_of_two_accounts_have_nothing_in_common() -> None:
    other = slots.seal_header(EVERY, b"account2", random_bytes=chance(13))
    assert len(other) == len(OBJECT)
    same = sum(a == b for a, b in zip(OBJECT, other, strict=True))
    assert same < len(OBJECT) // 64
    assert b"aggfs" not in OBJECT


def test_the_cost_of_a_passphrase_is_bounded() -> None:
    assert (DEFAULT_COST.memory_kib, DEFAULT_COST.passes, DEFAULT_COST.lanes) == (262144, 3, 4)
    for memory_kib, passes, lanes in [(1024, 1, 1), (1 << 21, 1, 1), (8192, 0, 1), (8192, 1, 17)]:
        with pytest.raises(ValueError, match="bounds"):
            Cost(memory_kib, passes, lanes)


# --- the standards beneath ------------------------------------------------------------------------


def labeled_extract(salt: bytes, suite: bytes, label: bytes, data: bytes) -> bytes:
    mac = HMAC(salt or bytes(32), hashes.SHA256())
    mac.update(b"HPKE-v1" + suite + label + data)
    return mac.finalize()


def labeled_expand(key: bytes, suite: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(hashes.SHA256(), length, labeled).derive(key)


def hpke_open(private: bytes, wrapped: bytes, info: bytes, aad: bytes, key_bytes: int) -> bytes:
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-GCM, from primitives."""
    own = X25519PrivateKey.from_private_bytes(private)
    sent, ciphertext = wrapped[:32], wrapped[32:]
    shared = own.exchange(X25519PublicKey.from_public_bytes(sent))
    kem = b"KEM\x00\x20"
    both = sent + own.public_key().public_bytes_raw()
    prk = labeled_extract(b"", kem, b"eae_prk", shared)
    secret = labeled_expand(prk, kem, b"shared_secret", both, 32)
    suite = b"HPKE\x00\x20\x00\x01\x00" + bytes([1 if key_bytes == 16 else 2])
    context = (
        b"\x00"
        + labeled_extract(b"", suite, b"psk_id_hash", b"")
        + labeled_extract(b"", suite, b"info_hash", info)
    )
    prk = labeled_extract(secret, suite, b"secret", b"")
    key = labeled_expand(prk, suite, b"key", context, key_bytes)
    nonce = labeled_expand(prk, suite, b"base_nonce", context, 12)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def test_the_hpke_written_out_here_is_that_of_rfc_9180_appendix_a_1_1() -> None:
    private = "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"
    sent = "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
    ciphertext = (
        "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a96d8770ac83d07bea87e13c512a"
    )
    plain = hpke_open(
        bytes.fromhex(private),
        bytes.fromhex(sent + ciphertext),
        b"Ode on a Grecian Urn",
        b"Count-0",
        16,
    )
    assert plain == b"Beauty is truth, truth beauty"


def test_a_wrapped_key_opens_by_that_hpke() -> None:
    private = bytes(range(32))
    public = key_doors.exchange_public_key(private)
    wrapped = key_doors.wrap_for(public, b"master" * 5, b"what for")
    assert hpke_open(private, wrapped, b"what for", b"", 32) == b"master" * 5
    assert key_doors.unwrap(private, wrapped, b"what for") == b"master" * 5
    with pytest.raises(InvalidTag):
        hpke_open(private, wrapped, b"else", b"", 32)
    with pytest.raises(Damaged):
        key_doors.unwrap(private, wrapped, b"else")
    for junk in (b"", wrapped[:20], bytes(len(wrapped))):
        with pytest.raises(Damaged):
            key_doors.unwrap(private, junk, b"what for")


def test_signatures_are_ed25519() -> None:
    # RFC 8032, section 7.1, test 1.
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key_doors.signing_public_key(seed).hex() == public
    signature = key_doors.sign(seed, b"")
    assert signature.hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522")
    assert key_doors.is_signed(bytes.fromhex(public), b"", signature)
    assert not key_doors.is_signed(bytes.fromhex(public), b"x", signature)
    assert not key_doors.is_signed(b"", b"", signature)
    assert not key_doors.is_signed(bytes.fromhex(public), b"", b"")
