"""Ways in: slots, and the header that holds them.

Theory of operation. A slot is an X25519 key pair. Its public half lies open in the header; its
private half is sealed under what its secret gives:

    stretched = Argon2id(passphrase, slot's salt)  or  HKDF(words, key file or device secret)
    commit key ‖ seal key = stretched, 32 bytes each
    commitment     = HMAC-SHA256(commit key, slot's description)
    sealed private = AES-256-GCM(seal key, private half), bound to the description

The commitment is compared first: one secret fits one slot and no other, and a wrong secret is
told at once, before anything is decrypted. The newest master key is wrapped to every slot's
public key (HPKE), so any member can make a new epoch, or a new generation of the header, without
knowing anybody's secret. Older master keys lie in the sealed part, under the newest.

The whole open part is bound to the sealed part: a slot that an account's operator swaps for one
of his own breaks the seal, and no member ever wraps a key for him.
"""

import hmac
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from mnemonic import Mnemonic

from aggfs.coding.cipher import KEY_BYTES, nonce_of, open_sealed, seal
from aggfs.coding.keys import (
    Keyring,
    VolumeKeys,
    exchange_public_key,
    expand_secret,
    stretch_passphrase,
    unwrap,
    wrap_for,
)
from aggfs.errors import Damaged, WrongKey
from aggfs.formats.fragment import LOUD_BYTES
from aggfs.formats.header import (
    DEFAULT_COST,
    SALT_BYTES,
    Charter,
    Cost,
    Header,
    Slot,
    SlotKind,
    VolumePolicy,
    decode_charter,
    decode_header,
    describe_slot,
    encode_charter,
    encode_header,
)
from aggfs.formats.record import Buffer
from aggfs.model import Member

RandomBytes = Callable[[int], bytes]

RECOVERY_ENTROPY_BYTES = 32
RECOVERY_WORDS = 24
_KEY_FILE_LEAD = b"aggfs-key-1 "
_NONCE = nonce_of(0)


@dataclass(frozen=True, slots=True)
class Secret:
    """What a user or a device has to open a slot of this kind. Never printed."""

    kind: SlotKind
    value: bytes = field(repr=False)


def passphrase(text: str) -> Secret:
    """A passphrase, whichever way a keyboard composes its letters."""
    return Secret(SlotKind.PASSPHRASE, unicodedata.normalize("NFC", text).encode())


def recovery_words(text: str) -> Secret:
    """The recovery words as somebody typed them; `WrongKey` when they cannot be any."""
    words = text.lower().split()
    if len(words) != RECOVERY_WORDS:
        raise WrongKey(f"there are {RECOVERY_WORDS} recovery words, not {len(words)}")
    for place, word in enumerate(words, 1):
        if word not in _word_list().wordlist:
            raise WrongKey(f"recovery word {place} is in no list: {word!r}")
    if not _word_list().check(" ".join(words)):
        raise WrongKey("the recovery words do not fit together: one is wrong, or two are swapped")
    return Secret(SlotKind.RECOVERY, " ".join(words).encode())


def new_recovery_words(random_bytes: RandomBytes) -> str:
    """24 words (BIP 39, English) for 32 random bytes, the last with a checksum."""
    return str(_word_list().to_mnemonic(random_bytes(RECOVERY_ENTROPY_BYTES)))


@lru_cache(1)
def _word_list() -> Mnemonic:
    return Mnemonic("english")


def key_file(content: bytes) -> Secret:
    """What lies in a key file; `WrongKey` when it is none of ours."""
    lead, text = content[: len(_KEY_FILE_LEAD)], content[len(_KEY_FILE_LEAD) :].strip()
    try:
        value = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        value = b""
    if lead != _KEY_FILE_LEAD or len(value) != KEY_BYTES:
        raise WrongKey("this is no key file of aggfs")
    return Secret(SlotKind.KEY_FILE, value)


def new_key_file(random_bytes: RandomBytes) -> bytes:
    """The content of a new key file: one line of text."""
    return _KEY_FILE_LEAD + random_bytes(KEY_BYTES).hex().encode() + b"\n"


def device_secret(value: bytes) -> Secret:
    """The 32 random bytes that a device keeps in its state directory. `WrongKey` for others."""
    if len(value) != KEY_BYTES:
        raise WrongKey("a device's secret has 32 bytes")
    return Secret(SlotKind.DEVICE, value)


# --- one slot -------------------------------------------------------------------------------------


def new_slot(secret: Secret, *, random_bytes: RandomBytes, cost: Cost = DEFAULT_COST) -> Slot:
    """A slot that `secret` opens, with a key pair of its own; `seal_header` wraps the key for it.

    `cost` is that of a passphrase; other secrets cannot be guessed and cost nothing.
    """
    private_key = random_bytes(KEY_BYTES)
    slot = Slot(
        slot=random_bytes(8),
        kind=secret.kind,
        cost=cost if secret.kind is SlotKind.PASSPHRASE else None,
        salt=random_bytes(16),
        public_key=exchange_public_key(private_key),
        commitment=b"",
        sealed_private=b"",
        wrapped_master=b"",
    )
    commit_key, seal_key = _keys_of_slot(slot, secret)
    description = describe_slot(slot)
    return replace(
        slot,
        commitment=hmac.digest(commit_key, description, "sha256"),
        sealed_private=seal(seal_key, _NONCE, private_key, description),
    )


def _keys_of_slot(slot: Slot, secret: Secret) -> tuple[bytes, bytes]:
    """The commit key and the seal key that a secret gives for a slot."""
    if slot.cost is not None:
        stretched = stretch_passphrase(
            secret.value,
            slot.salt,
            memory_kib=slot.cost.memory_kib,
            passes=slot.cost.passes,
            lanes=slot.cost.lanes,
            length=2 * KEY_BYTES,
        )
    else:
        purpose = b"aggfs slot " + bytes((slot.kind,))
        stretched = expand_secret(secret.value, slot.salt, purpose, 2 * KEY_BYTES)
    return stretched[:KEY_BYTES], stretched[KEY_BYTES:]


def _private_key(slot: Slot, secret: Secret) -> bytes | None:
    """The slot's private key, or None when the secret is not this slot's."""
    if slot.kind is not secret.kind:
        return None
    commit_key, seal_key = _keys_of_slot(slot, secret)
    description = describe_slot(slot)
    expected = hmac.digest(commit_key, description, "sha256")
    if not hmac.compare_digest(slot.commitment, expected):
        return None
    return open_sealed(seal_key, _NONCE, slot.sealed_private, description)


def _wrap_info(volume: bytes, epoch: int, slot: bytes) -> bytes:
    return b"".join((b"aggfs master", volume, epoch.to_bytes(4, "big"), slot))


# --- the header -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenedHeader:
    """A header and all that a secret opened in it: what the next generation is made from."""

    keyring: Keyring
    generation: int
    slots: tuple[Slot, ...]
    policy: VolumePolicy
    members: tuple[Member, ...]
    account: bytes

    def with_slot(self, slot: Slot) -> "OpenedHeader":
        """The next generation, with one way in more."""
        return replace(self, generation=self.generation + 1, slots=(*self.slots, slot))

    def without_slot(self, slot: bytes) -> "OpenedHeader":
        """The next generation, with one way in less; ValueError if there is no such, or no
        other. Who had the slot still knows the master keys of until now."""
        left = tuple(one for one in self.slots if one.slot != slot)
        if len(left) == len(self.slots) or not left:
            raise ValueError("there is no such slot" if left else "the last slot has to stay")
        return replace(self, generation=self.generation + 1, slots=left)

    def with_new_epoch(self, random_bytes: RandomBytes) -> "OpenedHeader":
        """The next generation, with a new master key that is wrapped for the slots there are."""
        epochs = (*self.keyring.epochs, random_bytes(KEY_BYTES))
        keyring = Keyring(self.keyring.volume, epochs)
        return replace(self, generation=self.generation + 1, keyring=keyring)


def new_volume(
    volume: bytes,
    policy: VolumePolicy,
    slots: Iterable[Slot],
    members: Iterable[Member],
    *,
    random_bytes: RandomBytes,
) -> OpenedHeader:
    """Generation 1 of a volume, with a fresh master key."""
    keyring = Keyring(volume, (random_bytes(KEY_BYTES),))
    return OpenedHeader(keyring, 1, tuple(slots), policy, tuple(members), b"")


def seal_header(opened: OpenedHeader, account: bytes, *, random_bytes: RandomBytes) -> bytes:
    """The header object of this generation for one account."""
    keyring = opened.keyring
    slots = tuple(_wrapped(slot, keyring) for slot in opened.slots)
    salt = random_bytes(SALT_BYTES)
    while salt[0] in LOUD_BYTES:
        salt = random_bytes(SALT_BYTES)
    header = Header(salt, keyring.volume, opened.generation, keyring.epoch, slots, b"")
    charter = Charter(account, keyring.epochs, opened.policy, opened.members)
    key = VolumeKeys(keyring).charter_key(keyring.epoch, salt)
    sealed = seal(key, _NONCE, encode_charter(charter), header.associated)
    return encode_header(replace(header, sealed=sealed))


def _wrapped(slot: Slot, keyring: Keyring) -> Slot:
    info = _wrap_info(keyring.volume, keyring.epoch, slot.slot)
    return replace(slot, wrapped_master=wrap_for(slot.public_key, keyring.epochs[-1], info))


def open_header(data: Buffer | Header, secret: Secret) -> OpenedHeader:
    """What the secret opens in a header object.

    `WrongKey` when it is no slot's; `Damaged` when the header is not what a member wrote.
    """
    header = data if isinstance(data, Header) else decode_header(data)
    for slot in header.slots:
        private_key = _private_key(slot, secret)
        if private_key is not None:
            info = _wrap_info(header.volume, header.epoch, slot.slot)
            return _open_with(header, unwrap(private_key, slot.wrapped_master, info))
    raise WrongKey("this secret opens no slot of the volume; nothing was changed")


def read_header(data: Buffer | Header, keyring: Keyring) -> OpenedHeader:
    """What a member who has the keyring reads in a header, at no cost; `WrongKey` when the header
    is of another volume or of an epoch that he was not given."""
    header = data if isinstance(data, Header) else decode_header(data)
    if header.volume != keyring.volume or header.epoch > keyring.epoch:
        raise WrongKey("this header is of another volume, or of an epoch after this keyring's")
    return _open_with(header, keyring.epochs[header.epoch - 1])


def _open_with(header: Header, master: bytes) -> OpenedHeader:
    # Only the newest master is known yet; its epoch is all that is asked for.
    known = Keyring(header.volume, (bytes(KEY_BYTES),) * (header.epoch - 1) + (master,))
    key = VolumeKeys(known).charter_key(header.epoch, header.salt)
    charter = decode_charter(open_sealed(key, _NONCE, header.sealed, header.associated))
    if len(charter.epochs) != header.epoch or charter.epochs[-1] != master:
        raise Damaged("a header's keyring does not agree with its slots")
    keyring = Keyring(header.volume, charter.epochs)
    return OpenedHeader(
        keyring, header.generation, header.slots, charter.policy, charter.members, charter.account
    )
