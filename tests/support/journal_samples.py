"""One of each entry, and records made of them."""

from aggfs.formats.checkpoint import (
    CheckpointHead,
    ControlImage,
    ExtentsImage,
    InodeImage,
    LinkImage,
    MoveImage,
    PastImage,
    RelocationImage,
    VersionImage,
    XattrImage,
)
from aggfs.formats.journal import CONTROL, NAMESPACE, NO_HASH, Head, Segment, Tip
from aggfs.model import (
    NOWHERE,
    ROOT,
    AccountEntry,
    Content,
    Create,
    DropStripe,
    Extent,
    Member,
    Place,
    Placement,
    PutStripe,
    Relocate,
    SetAttributes,
    SetXattr,
    StripeRow,
)

DEVICE = b"device 1"
VOLUME = bytes(range(16))
CLOCK = 1_800_000_000_000 << 16
SID, OTHER_SID = b"device 1" + bytes(16), b"device 1" + bytes(15) + b"\x01"
FILE, LINK, FOLDER = b"f" * 16, b"l" * 16, b"d" * 16
FIRST, SECOND = b"1" * 16, b"2" * 16

CREATE = Create(FILE, 0o100644, 1000, 1000, 0, b"", 5, Placement(LINK, FILE, ROOT, b"na\xffme"))
PLACE = Place(
    (Placement(LINK, FILE, FOLDER, b"x"), Placement(b"m" * 16, b"g" * 16, NOWHERE, b"x")),
    -1,
    (ROOT, FOLDER),
    (FIRST,),
)
CONTENT = Content(FILE, SECOND, (FIRST,), 262_145, 262_144, (Extent(1, SID, 0, 1),), b"", 6, 7)
STRIPE = PutStripe(StripeRow(SID, 2, 0, 1, 1, (404, 84), (b"account1", b"", b"account3")))
MEMBER = Member(DEVICE, "läptop", bytes(32), bytes(range(32)), None)
ACCOUNT = AccountEntry(b"account1", "first", "example.org", 10**12, removed=False)

NAMESPACE_ENTRIES = (
    CREATE,
    PLACE,
    SetAttributes(FILE, 0o600, None, 0, None, (1 << 64) - 1, 8),
    SetXattr(FILE, b"user.a", b"\x00value", 9),
    SetXattr(FILE, b"user.a", None, 10),
    CONTENT,
    Content(FILE, FIRST, (), 3, 0, (), b"abc", 6, 7),
    Relocate(SID, 0, 1, OTHER_SID, 3),
)
CONTROL_ENTRIES = (STRIPE, DropStripe(SID), MEMBER, ACCOUNT)

CONTROL_SEGMENT = Segment(
    DEVICE, CONTROL, 1, NO_HASH, tuple((CLOCK + at, one) for at, one in enumerate(CONTROL_ENTRIES))
)
NAMESPACE_SEGMENT = Segment(
    DEVICE,
    NAMESPACE,
    7,
    bytes(range(32)),
    tuple((CLOCK + at, one) for at, one in enumerate(NAMESPACE_ENTRIES)),
)
HEAD = Head(DEVICE, 12, Tip(1, bytes(32)), Tip(7, bytes(range(32))), CLOCK + 9, 1, 2)

WHEN = CLOCK.to_bytes(8) + DEVICE
CHECKPOINT_HEAD = CheckpointHead(DEVICE, 1, CLOCK, ((DEVICE, HEAD.control, HEAD.namespace),))
CHECKPOINT_ROWS = (
    InodeImage(FILE, 0o100644, 1000, 1000, 0, 5, 6, 7, 5, b"", WHEN * 7),
    VersionImage(FILE, FIRST, WHEN, True, None),
    VersionImage(FILE, SECOND, WHEN, False, CONTENT),
    ExtentsImage(FILE, SECOND, (Extent(2, SID, 1, 1),)),
    XattrImage(FILE, b"user.a", WHEN, None),
    RelocationImage(SID, 0, WHEN, OTHER_SID, 3),
    ControlImage(WHEN, STRIPE),
    LinkImage(LINK, FILE, NOWHERE, b"x", FOLDER, WHEN, (FIRST,)),
    MoveImage(WHEN, PLACE.placements, PLACE.observed),
)
# Added later, with a golden record of its own.
PAST_ROWS = (PastImage(FOLDER, WHEN, LINK, b"old name", FILE, bytes(7) + b"\1" + DEVICE),)
