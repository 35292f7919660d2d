"""Collection decided: which stripes somebody still refers to, and when one that nobody does may go.

A stripe dies in three steps, each of them durable before the next: its owner's `DropStripe` is
*told* (made, on its way); it is published, and the grace runs (*waiting*); its row is gone and
its objects are deleted (*deleting*), an account that is away being waited for. Until the last
step begins, a reference that comes all the same takes everything back.
"""

import enum
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from aggfs.model import Content, Entry, Member, Relocate, StripeRow
from aggfs.sync.versions import MovedTo, follow_moves

DEVICE_BYTES = 8


class Phase(enum.IntEnum):
    """How far a stripe has come on its way out."""

    TOLD = 0
    WAITING = 1
    DELETING = 2


class DyingRow(msgspec.Struct, frozen=True, array_like=True):
    """A stripe on its way out. `since` is when its phase began, in seconds of work of this device
    (no clock that anybody can set). While it is being deleted, `row` is what its row was, and
    `left` are (index, account) of the objects that are or may be there."""

    phase: int
    since: int
    row: StripeRow | None = None
    left: tuple[tuple[int, bytes], ...] = ()


class Step(enum.Enum):
    """What is to be done next about a dying stripe."""

    WAIT = "wait"
    REVIVE = "revive"
    BEGIN_GRACE = "begin the grace"
    UNMARK = "unmark"
    DELETE = "delete"


def next_step(
    dying: DyingRow,
    *,
    now: int,
    grace_seconds: int,
    referenced: bool,
    published: bool,
    silent: Collection[bytes],
) -> Step:
    """What may be done now. `referenced`: somebody refers to the stripe, or may soon;
    `published`: enough accounts know its intent entry; `silent`: the other members that have not
    acknowledged it."""
    if dying.phase == Phase.DELETING:
        return Step.DELETE
    if referenced:
        return Step.REVIVE
    if dying.phase == Phase.TOLD:
        return Step.BEGIN_GRACE if published else Step.WAIT
    if silent or now - dying.since < grace_seconds:
        return Step.WAIT
    return Step.UNMARK


# --- whose it is ----------------------------------------------------------------------------------


def owner_of(sid: bytes, members: Mapping[bytes, Member]) -> bytes | None:
    """The device that may let a stripe die: the one that sealed it; where that has lapsed, the
    first of those that have not. None where nobody is known to."""
    origin = sid[:DEVICE_BYTES]
    known = members.get(origin)
    if known is not None and known.lapsed_after is None:
        return origin
    if known is None:
        return None
    return min(active(members), default=None)


def active(members: Mapping[bytes, Member]) -> list[bytes]:
    """The devices that have not lapsed."""
    return [device for device, member in members.items() if member.lapsed_after is None]


# --- who refers to what ---------------------------------------------------------------------------


def stripes_of_version(content: Content, moved_to: MovedTo | None) -> Iterator[bytes]:
    """The stripes that a version's own extents lead to, as relocations have moved them."""
    extents = content.extents
    if moved_to is None:
        return (extent.sid for extent in extents)
    return (extent.sid for extent in follow_moves(extents, moved_to))


def stripes_of_unpublished(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The stripes that entries name which others do not know yet: until they do, a block that was
    moved is looked for at its old place as well."""
    for entry in entries:
        match entry:
            case Content():
                yield from (extent.sid for extent in entry.extents)
            case Relocate():
                yield from (entry.sid, entry.to_sid)
