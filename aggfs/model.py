"""The nouns. Every room may import this module; it imports none.

Identities are random or drawn by a device, never a number that counts up: two devices make
them without asking each other. Names of files are bytes; keys of objects are str.
"""

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, NamedTuple, NewType, Protocol

import msgspec

BLOCK_BYTES = 256 * 1024
STRIPE_BYTES = 4 * 1024 * 1024
STRIPE_BLOCKS = STRIPE_BYTES // BLOCK_BYTES
INLINE_BYTES = 1024
NAME_BYTES = 255
FILE_BYTES_LIMIT = 1 << 50
FSYNC_XATTR = b"user.aggfs.fsync"  # cloud, local: what fsync waits for, of a file or a directory

VolumeId = NewType("VolumeId", bytes)  # 16 random bytes
DeviceId = NewType("DeviceId", bytes)  # 8 random bytes
AccountId = NewType("AccountId", bytes)  # 8 random bytes, given at `account add`
InodeId = NewType("InodeId", bytes)  # 16 random bytes
Sid = NewType("Sid", bytes)  # a stripe: 8 bytes of its device, 16 random bytes

ROOT = InodeId(bytes(16))
NOWHERE = InodeId(b"")  # the parent of a link that was removed
NO_ACCOUNT = AccountId(b"")  # a fragment that is in no account yet

Id16 = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Id8 = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
Name = Annotated[bytes, msgspec.Meta(max_length=NAME_BYTES)]
Unsigned = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
# No upper bound: MessagePack ends at 2**64 - 1, the year 2554; writers stay below that.
Nanoseconds = Annotated[int, msgspec.Meta(ge=-(1 << 63))]
NANOSECONDS_LIMIT = (1 << 64) - 1


class Stamp(NamedTuple):
    """A hybrid logical clock reading: the one total order of entries.

    `clock` is 48 bits of milliseconds since 1970 and 16 bits of counter; `device` breaks ties.
    A device never gives the same clock twice.
    """

    clock: int
    device: bytes


class Layout(enum.IntEnum):
    """How a sealed block is cut into k cells, and what the fragments beyond the k-th hold: parity
    or, in copies, the same cells again."""

    CONTIGUOUS = 0
    INTERLEAVE = 1
    CONTIGUOUS_COPIES = 2
    INTERLEAVE_COPIES = 3

    @property
    def in_copies(self) -> bool:
        """Whether there is no parity."""
        return self >= Layout.CONTIGUOUS_COPIES

    @property
    def copied(self) -> "Layout":
        """In copies, blocks cut the same way."""
        return Layout(self.cut + Layout.CONTIGUOUS_COPIES)

    @property
    def cut(self) -> "Layout":
        """How blocks are cut: the same with parity."""
        return Layout(self & 1)


class Extent(msgspec.Struct, frozen=True, array_like=True):
    """`count` blocks of a file from `block` on are blocks `index`... of stripe `sid`."""

    block: Unsigned
    sid: Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]
    index: Unsigned
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class StripeRow(msgspec.Struct, frozen=True, array_like=True):
    """Where a stripe is and how to read it. The last sealed block is the stripe's table.

    `sealed_bytes[i]` is the length of sealed block i; `places[j]` is the account of fragment j,
    or NO_ACCOUNT. n is `len(places)`.
    """

    sid: Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]
    k: Annotated[int, msgspec.Meta(ge=1, le=128)]
    layout: Annotated[int, msgspec.Meta(ge=0, le=Layout.INTERLEAVE_COPIES.value)]
    storage_class: Annotated[int, msgspec.Meta(ge=0, le=255)]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
    sealed_bytes: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=1, le=2 * BLOCK_BYTES)], ...],
        msgspec.Meta(max_length=1 << 16),
    ]
    places: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=8)], ...], msgspec.Meta(max_length=256)
    ]


class Coded(Protocol):
    """What tells how blocks became fragments: a stripe's row, a fragment's header, a policy."""

    @property
    def k(self) -> int:
        """Of so many cells each block consists."""

    @property
    def layout(self) -> int:
        """A `Layout`."""


class Code(NamedTuple):
    """A code, where nothing has it yet."""

    k: int
    layout: int


def cell_of(code: Coded, index: int) -> int:
    """Which cell of each block fragment `index` holds. Any k different ones give the block back;
    fragments with the same one are copies of each other, and no more than one of them."""
    return index % code.k if Layout(code.layout).in_copies else index


def spare(code: Coded, indices: Iterable[int]) -> int:
    """How many of these fragments may be lost, whichever they are, and the rest still gives every
    block back; negative where not even all of them do.

    The one place that knows what it takes: nobody else compares a number of fragments with k. In
    copies k + 1 of them, and more, may be copies of one cell.
    """
    if Layout(code.layout).in_copies:
        copies = Counter(cell_of(code, index) for index in set(indices))
        return min(copies[cell] for cell in range(code.k)) - 1
    return len(set(indices)) - code.k


# --- entries of the namespace chain -------------------------------------------------------------


class Placement(msgspec.Struct, frozen=True, array_like=True):
    """One link is now at (parent, name); parent NOWHERE means: removed."""

    link: Id16
    inode: Id16
    parent: Annotated[bytes, msgspec.Meta(max_length=16)]
    name: Name


class Create(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A new inode and its first link. `mode` carries the file type bits of st_mode."""

    inode: Id16
    mode: Unsigned
    uid: Unsigned
    gid: Unsigned
    rdev: Unsigned
    target: Annotated[bytes, msgspec.Meta(max_length=4096)]
    time_ns: Nanoseconds
    placement: Placement


class Place(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Links move together: rename (one), rename over (moved, removed target), exchange (two),
    hard link (one new), unlink and rmdir (one, to NOWHERE). `time_ns` becomes the ctime of the
    inodes and the mtime and ctime of `directories`: the parents that gain or lose a name, as its
    author saw them. `observed` are the content heads of the files that it removes: content that
    the author had not seen keeps such a file alive."""

    placements: Annotated[tuple[Placement, ...], msgspec.Meta(min_length=1, max_length=64)]
    time_ns: Nanoseconds
    directories: Annotated[tuple[Id16, ...], msgspec.Meta(max_length=64)] = ()
    observed: Annotated[tuple[Id16, ...], msgspec.Meta(max_length=256)] = ()


class SetAttributes(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Registers of an inode; None leaves one as it is. `mode` is the permission bits only."""

    inode: Id16
    mode: Unsigned | None
    uid: Unsigned | None
    gid: Unsigned | None
    atime_ns: Nanoseconds | None
    mtime_ns: Nanoseconds | None
    ctime_ns: Nanoseconds | None


class SetXattr(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """One extended attribute; None removes it."""

    inode: Id16
    name: Name
    value: Annotated[bytes, msgspec.Meta(max_length=65536)] | None
    ctime_ns: Nanoseconds


class Content(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A new version of a file's content: a snapshot of one frozen dirty set and the size.

    The content is that of `bases[0]` (nothing, if there is none) cut to `kept_bytes`, with
    `extents` laid over it, cut or extended with zeros to `size` bytes. `inline`, when not empty,
    is the whole content; `extents` is empty then. A block below `size` that nothing covers is a
    gap: zeros.
    """

    inode: Id16
    version: Id16
    bases: Annotated[tuple[Id16, ...], msgspec.Meta(max_length=64)]
    size: Unsigned
    kept_bytes: Unsigned
    extents: Annotated[tuple[Extent, ...], msgspec.Meta(max_length=1 << 20)]
    inline: Annotated[bytes, msgspec.Meta(max_length=INLINE_BYTES)]
    mtime_ns: Nanoseconds
    ctime_ns: Nanoseconds


class Relocate(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The same sealed-again blocks lie elsewhere: block `index` of `sid` is block `to_index` of
    `to_sid`, for `count` blocks. No version; applies wherever the old pair is referenced."""

    sid: Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]
    index: Unsigned
    count: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    to_sid: Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]
    to_index: Unsigned


NamespaceEntry = Create | Place | SetAttributes | SetXattr | Content | Relocate


# --- entries of the control chain ---------------------------------------------------------------


class PutStripe(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """A stripe's row as its owner knows it: new, or with other places."""

    row: StripeRow


class DropStripe(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """The owner means to delete this stripe: nothing refers to it any more."""

    sid: Annotated[bytes, msgspec.Meta(min_length=24, max_length=24)]


class Member(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """A device of the volume. `lapsed_after` is its last valid control sequence, or None."""

    device: Id8
    name: Annotated[str, msgspec.Meta(max_length=255)]
    signing_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    slot_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    lapsed_after: Unsigned | None


class AccountEntry(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """An account of the volume, as far as it is no secret. quota_bytes 0: not declared."""

    account: Id8
    name: Annotated[str, msgspec.Meta(max_length=255)]
    provider: Annotated[str, msgspec.Meta(max_length=255)]
    quota_bytes: Unsigned
    removed: bool


ControlEntry = PutStripe | DropStripe | Member | AccountEntry
Entry = NamespaceEntry | ControlEntry


# --- rows of the folded tree ----------------------------------------------------------------------

# A stamp in rows and keys is 16 bytes, clock (u64, big endian) and device: bytes compare as stamps.
NEVER = bytes(16)


class InodeRow(msgspec.Struct, frozen=True, array_like=True):
    """What `stat` needs, in one row. Fields marked local are this device's own and never merged.

    `mode` is 0 while only mentions of the inode have arrived, not its `Create`. `registers` holds
    the stamp of each of: creation, mode, uid, gid, atime, mtime, ctime; one stamp alone stands for
    seven equal ones. `heads` are the content versions that no other names as base; the first is
    the one shown. `size` is what is shown here, unflushed writes included.
    """

    inode: bytes
    number: int  # local: the FUSE inode number, never reused
    mode: int
    uid: int
    gid: int
    rdev: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    size: int  # local, while `unflushed`
    target: bytes
    nlink: int  # shown links (directories: 0 or 1)
    children: int  # links shown in a directory, those of directories merged into it included
    subdirectories: int  # of these, directories
    heads: tuple[bytes, ...]
    registers: bytes
    generation: int  # local: which sparse file holds its bytes
    unflushed: bool = False  # local: size, mtime and ctime are newer here than any published
    placed: int = 0  # links that are not removed
    filled: int = 0  # shown links whose own parent this directory is: > 0 keeps it alive
    clashes: int = 0  # links in this directory beyond the first of their name
    merged_into: bytes = b""  # the directory of the same path under which this one is shown


# The root, as every volume begins. No entry creates it; `SetAttributes` gives it an owner.
ROOT_NUMBER = 1
ROOT_ROW = InodeRow(ROOT, ROOT_NUMBER, 0o040755, 0, 0, 0, 0, 0, 0, 0, 0, b"", 1, 0, 0, (), NEVER, 0)


class LinkRow(msgspec.Struct, frozen=True, array_like=True):
    """Where a link is. `parent` is NOWHERE when it was removed; `was_parent` and `name` are its
    last place (a removed directory that another device filled is shown there again), b"" when
    it never had one. `observed` are the content heads that its remover had seen."""

    link: bytes
    inode: bytes
    parent: bytes
    name: bytes
    was_parent: bytes
    cookie: int  # local: its place in the order of readdir, never reused
    when: bytes  # stamp of the move that put it here
    observed: tuple[bytes, ...] = ()
    shown: bool = False  # whether the tables of names hold it

    @property
    def is_directory(self) -> bool:
        """A directory's link id is its inode id."""
        return self.link == self.inode


class Child(NamedTuple):
    """One link filed in a directory, with the name it claims there."""

    cookie: int
    link: bytes
    inode: bytes
    name: bytes


class PastRow(msgspec.Struct, frozen=True, array_like=True):
    """A place that a link has left: a name it had in a directory, since the stamp `since`."""

    name: bytes
    inode: bytes
    since: bytes


class MoveRow(msgspec.Struct, frozen=True, array_like=True):
    """One applied `Create` or `Place`, with what its links were before: enough to take it back.

    `before` is empty when the move was skipped because it would have made a cycle; else it has
    the former row of each placement, None where the link was new.
    """

    placements: tuple[Placement, ...]
    observed: tuple[bytes, ...]
    before: tuple[LinkRow | None, ...]


class XattrRow(msgspec.Struct, frozen=True, array_like=True):
    """An extended attribute's register. `value` None: removed."""

    when: bytes
    value: bytes | None


class VersionRow(msgspec.Struct, frozen=True, array_like=True):
    """A content version. `content` is None while others name it as base and it has not come."""

    when: bytes
    superseded: bool
    content: Content | None


class RelocationRow(msgspec.Struct, frozen=True, array_like=True):
    """Where one block of a stripe lies now."""

    when: bytes
    sid: bytes
    index: int


class ControlRow(msgspec.Struct, frozen=True, array_like=True):
    """The last word on one stripe, member or account."""

    when: bytes
    entry: ControlEntry


class OutboxRow(msgspec.Struct, frozen=True, array_like=True):
    """An entry that is not published yet; its key is its u64 sequence, in the order of doing.

    `waits_for` is the inode whose content must be stored before the entry may be published, or
    b"". `frozen_at`, of a `Content` only: the sequence that the next row would have got at the
    instant its bytes were frozen. `frees`: the names (directory inode, name) that it makes free.
    """

    stamp: Stamp
    entry: Entry
    waits_for: bytes = b""
    frozen_at: int = 0
    frees: tuple[tuple[bytes, bytes], ...] = ()
