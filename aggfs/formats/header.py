"""The header of a volume, as it lies on each of its accounts.

    salt 32 ‖ masked with a public pad that follows from the salt:
        digest 32    SHA-256 of all that follows
        version u8
        open part    u32 length, then: volume, generation, newest epoch, slots
        sealed part  u32 length, then what the newest master key opens (`Charter`)
        zeros        up to a size class

Whoever joins knows accounts and a secret, nothing else: so the open part holds just what leads
from a secret to the master key. The pad hides nothing from who knows aggfs; it makes the object
look as random as all the others. A generation is never changed: a new one is a new object.
"""

import enum
import hashlib
import hmac
from dataclasses import dataclass, field

from aggfs.errors import Damaged, UnknownVersion
from aggfs.formats.fragment import K_LIMIT, N_LIMIT, Suite
from aggfs.formats.record import Buffer, Reader
from aggfs.formats.sizes import size_class
from aggfs.model import Layout, Member

SALT_BYTES = 32
SLOTS_LIMIT = 64
MEMBERS_LIMIT = 1024
EPOCHS_LIMIT = 1024
OBJECT_LIMIT_BYTES = 1 << 20

_VERSION = 1
_DIGEST_BYTES = 32
_TEXT_LIMIT = 255
_NOT_LAPSED = (1 << 64) - 1


class SlotKind(enum.IntEnum):
    """What opens a slot."""

    PASSPHRASE = 1
    RECOVERY = 2
    KEY_FILE = 3
    DEVICE = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """What Argon2id is told. Out of these bounds a header is `Damaged`, so that nobody can make
    a reader spend hours or gigabytes: 8 MiB to 1 GiB, 1 to 16 passes, 1 to 16 lanes."""

    memory_kib: int
    passes: int
    lanes: int

    def __post_init__(self) -> None:
        if not (
            8 * 1024 <= self.memory_kib <= 1024 * 1024
            and 1 <= self.passes <= 16
            and 1 <= self.lanes <= 16
        ):
            raise ValueError("the cost of a passphrase is out of bounds")


DEFAULT_COST = Cost(memory_kib=256 * 1024, passes=3, lanes=4)


@dataclass(frozen=True, slots=True)
class Slot:
    """One way in. `commitment` tells whether a secret is this slot's before anything is opened;
    `sealed_private` is the private half of `public_key` under the secret; `wrapped_master` is
    the newest master key, for `public_key` (empty in a slot that is not in a header yet)."""

    slot: bytes
    kind: SlotKind
    cost: Cost | None
    salt: bytes
    public_key: bytes
    commitment: bytes
    sealed_private: bytes
    wrapped_master: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A header before any secret is known. `associated` is what the sealed part is bound to."""

    salt: bytes
    volume: bytes
    generation: int
    epoch: int
    slots: tuple[Slot, ...]
    sealed: bytes

    @property
    def associated(self) -> bytes:
        """Salt and open part: a changed slot breaks the seal."""
        return self.salt + _encode_open(self)


@dataclass(frozen=True, slots=True)
class VolumePolicy:
    """What was decided at `init` and rules new stripes; `per_provider` is q."""

    k: int
    n: int
    per_provider: int
    layout: Layout
    suite: Suite
    allow_complete_copy: bool


@dataclass(frozen=True, slots=True)
class Charter:
    """The sealed part of a header: the keyring, who is a member, the policy, and the id of the
    account that it lies on."""

    account: bytes
    epochs: tuple[bytes, ...] = field(repr=False)
    policy: VolumePolicy
    members: tuple[Member, ...]


def encode_header(header: Header) -> bytes:
    """The bytes of a header object."""
    open_part = _encode_open(header)
    body = b"".join(
        (
            bytes((_VERSION,)),
            len(open_part).to_bytes(4, "big"),
            open_part,
            len(header.sealed).to_bytes(4, "big"),
            header.sealed,
        )
    )
    length = size_class(SALT_BYTES + _DIGEST_BYTES + len(body))
    body = body.ljust(length - SALT_BYTES - _DIGEST_BYTES, b"\0")
    plain = hashlib.sha256(header.salt + body).digest() + body
    return header.salt + _masked(header.salt, plain)


def decode_header(data: Buffer) -> Header:
    """The header that these bytes are, or `Damaged` (so is everything that is no header)."""
    whole = bytes(data)
    if not SALT_BYTES + _DIGEST_BYTES < len(whole) <= OBJECT_LIMIT_BYTES:
        raise Damaged("this object is too short or too long to be a header")
    salt, masked = whole[:SALT_BYTES], whole[SALT_BYTES:]
    plain = _masked(salt, masked)
    digest, body = plain[:_DIGEST_BYTES], plain[_DIGEST_BYTES:]
    if not hmac.compare_digest(digest, hashlib.sha256(salt + body).digest()):
        raise Damaged("this object is no header, or it is damaged")
    reader = Reader(body, "header")
    version = reader.number(1)
    if version != _VERSION:
        raise UnknownVersion(f"a header of version {version}: a newer aggfs wrote it")
    open_part = Reader(reader.counted(4, limit=OBJECT_LIMIT_BYTES), "header")
    sealed = reader.counted(4, limit=OBJECT_LIMIT_BYTES)
    reader.zeros()
    header = Header(
        salt=salt,
        volume=open_part.take(16),
        generation=open_part.number(8),
        epoch=open_part.number(4, low=1, high=EPOCHS_LIMIT),
        slots=tuple(
            _decode_slot(open_part) for _ in range(open_part.number(1, low=1, high=SLOTS_LIMIT))
        ),
        sealed=sealed,
    )
    open_part.end()
    return header


def _masked(salt: bytes, data: bytes) -> bytes:
    """Data with the public pad of this salt taken to or from it."""
    pad = hashlib.shake_256(b"aggfs header mask 1" + salt).digest(len(data))
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(data), "big")


# --- the open part --------------------------------------------------------------------------------


def _encode_open(header: Header) -> bytes:
    if not 1 <= len(header.slots) <= SLOTS_LIMIT:
        raise ValueError(f"a header has 1 to {SLOTS_LIMIT} slots")
    return b"".join(
        (
            header.volume,
            header.generation.to_bytes(8, "big"),
            header.epoch.to_bytes(4, "big"),
            bytes((len(header.slots),)),
            *(_encode_slot(slot) for slot in header.slots),
        )
    )


def _encode_slot(slot: Slot) -> bytes:
    return b"".join(
        (describe_slot(slot), slot.commitment, slot.sealed_private, slot.wrapped_master)
    )


def describe_slot(slot: Slot) -> bytes:
    """The first fields of a slot: what its commitment and its seal are bound to."""
    cost = slot.cost
    numbers = (cost.memory_kib, cost.passes, cost.lanes) if cost else (0, 0, 0)
    return b"".join(
        (
            slot.slot,
            bytes((slot.kind,)),
            *(number.to_bytes(4, "big") for number in numbers),
            slot.salt,
            slot.public_key,
        )
    )


def _decode_slot(reader: Reader) -> Slot:
    identity = reader.take(8)
    kind = reader.number(1, low=min(SlotKind), high=max(SlotKind))
    numbers = tuple(reader.number(4) for _ in range(3))
    return Slot(
        slot=identity,
        kind=SlotKind(kind),
        cost=_decode_cost(reader, SlotKind(kind), numbers),
        salt=reader.take(16),
        public_key=reader.take(32),
        commitment=reader.take(32),
        sealed_private=reader.take(48),
        wrapped_master=reader.take(80),
    )


def _decode_cost(reader: Reader, kind: SlotKind, numbers: tuple[int, ...]) -> Cost | None:
    if kind is not SlotKind.PASSPHRASE:
        if any(numbers):
            raise reader.damaged("a slot without passphrase has a cost")
        return None
    try:
        return Cost(*numbers)
    except ValueError as error:
        raise reader.damaged(str(error)) from None


# --- the sealed part ------------------------------------------------------------------------------


def encode_charter(charter: Charter) -> bytes:
    """The plaintext of a header's sealed part."""
    policy = charter.policy
    return b"".join(
        (
            bytes((_VERSION,)),
            charter.account,
            len(charter.epochs).to_bytes(2, "big"),
            *charter.epochs,
            bytes(
                (
                    policy.k,
                    policy.n,
                    policy.per_provider,
                    policy.layout,
                    policy.suite,
                    policy.allow_complete_copy,
                )
            ),
            len(charter.members).to_bytes(2, "big"),
            *(_encode_member(member) for member in charter.members),
        )
    )


def _encode_member(member: Member) -> bytes:
    name = member.name.encode()
    if len(name) > _TEXT_LIMIT:
        raise ValueError(f"the name of a device has at most {_TEXT_LIMIT} bytes")
    lapsed = _NOT_LAPSED if member.lapsed_after is None else member.lapsed_after
    return b"".join(
        (
            member.device,
            bytes((len(name),)),
            name,
            member.signing_key,
            member.slot_key,
            lapsed.to_bytes(8, "big"),
        )
    )


def decode_charter(data: Buffer) -> Charter:
    """The reverse, or `Damaged`."""
    reader = Reader(data, "header's sealed part")
    version = reader.number(1)
    if version != _VERSION:
        raise UnknownVersion(f"a header of version {version}: a newer aggfs wrote it")
    charter = Charter(
        account=reader.take(8),
        epochs=tuple(reader.take(32) for _ in range(reader.number(2, low=1, high=EPOCHS_LIMIT))),
        policy=_decode_policy(reader),
        members=tuple(_decode_member(reader) for _ in range(reader.number(2, high=MEMBERS_LIMIT))),
    )
    reader.end()
    return charter


def _decode_policy(reader: Reader) -> VolumePolicy:
    k = reader.number(1, low=1, high=K_LIMIT)
    policy = VolumePolicy(
        k=k,
        n=reader.number(1, low=k, high=N_LIMIT),
        per_provider=reader.number(1, low=1, high=N_LIMIT),
        layout=Layout(reader.number(1, high=max(Layout))),
        suite=Suite(reader.number(1, high=max(Suite))),
        allow_complete_copy=bool(reader.number(1, high=1)),
    )
    if policy.layout.in_copies and policy.n % k:
        raise reader.damaged(f"{k}-of-{policy.n} cannot be in copies")
    return policy


def _decode_member(reader: Reader) -> Member:
    device = reader.take(8)
    name = reader.text(1, limit=_TEXT_LIMIT)
    signing_key = reader.take(32)
    slot_key = reader.take(32)
    lapsed = reader.number(8)
    return Member(device, name, signing_key, slot_key, None if lapsed == _NOT_LAPSED else lapsed)
