"""Is the local state in order? Every table compared with the others and with staging.

All of it is read from one snapshot, in steps, so that it can be done beside a working volume as
well as over a state that nobody has open. What a start tidies up by itself (staged bytes that
never got a row) is no fault.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from stat import S_ISREG

import msgspec
from msgspec.structs import replace

from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.table import Tables
from aggfs.cache.tree import LmdbTree
from aggfs.coding.codec import check_steps, fragment_bytes, load_staged
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.accounts import Ledger
from aggfs.engine.care.dying import Dying
from aggfs.engine.care.roots import moves_of
from aggfs.engine.journal.segments import Pending
from aggfs.errors import AggfsError, Damaged
from aggfs.formats.sizes import TAG_BYTES, size_class
from aggfs.model import (
    AccountEntry,
    AccountId,
    Content,
    DropStripe,
    Extent,
    InodeRow,
    PutStripe,
)
from aggfs.sync.collection import Phase
from aggfs.sync.inspect import inspect_tree
from aggfs.sync.versions import NO_STRIPE, MovedTo, block_map, follow_moves, placeholders

FOOTER_BYTES = 4
STRIPES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `room` says where: names, content, stripes, staging,
    ledger; `key` is the row that `mend` makes anew, b"" where nothing local can."""

    room: str
    text: str
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class State:
    """The local state at one instant: its tables, what was staged then, and how to read that.
    Without `keys`, staged bytes are not opened."""

    tables: Tables
    staged: frozenset[bytes]
    read: Callable[[bytes], bytes]
    keys: VolumeKeys | None = None


Found = Generator[Finding | None, None, None]


def consistency_steps(state: State) -> Generator[None, None, list[Finding]]:
    """Everything that is wrong. A row that cannot be read ends the part that met it."""
    found: list[Finding] = []
    for part in (_names, _content, _stripes, _staging, _ledger):
        try:
            for one in part(state):
                if one is not None:
                    found.append(one)
                yield
        except Damaged as error:
            found.append(Finding(part.__name__.strip("_"), str(error)))
    return found


# --- names ----------------------------------------------------------------------------------------


def _names(state: State) -> Found:
    tree = LmdbTree(state.tables)
    for text in inspect_tree(tree):
        yield None if text is None else Finding("names", text, b"tree")
    for row in tree.all_inodes():
        if tree.inode_of_number(row.number) != row.inode:
            yield Finding("names", f"number {row.number} leads to another inode", b"tree")
        yield None
    for table, at in (("children", 0), ("claims", 0)):
        for key, value in _rows(state.tables, table):
            for start in range(at, len(value), 32):
                link = tree.link(value[start : start + 16])
                if link is None or not link.shown:
                    text = f"a row of {table} has a link that is not shown: {key.hex()}"
                    yield Finding("names", text, b"tree")
                if table == "children":
                    break
            yield None


def _rows(tables: Tables, name: str) -> Iterator[tuple[bytes, bytes]]:
    table, after = tables.table(name), None
    while page := table.scan(b"", after, limit=STRIPES_AT_ONCE):
        yield from page
        after = page[-1][0]


# --- content --------------------------------------------------------------------------------------


def _content(state: State) -> Found:
    tree, blocks = LmdbTree(state.tables), Blocks(state.tables)
    moved_to = moves_of(tree)
    edits = state.tables.table("edits")
    orphans = state.tables.table("orphans")
    for row in tree.all_inodes():
        yield None
        if not S_ISREG(row.mode):
            continue
        known = joined(blocks.extents(row.inode, 0, 1 << 62))
        if row.nlink == 0 and orphans.get(row.inode) is None:
            wanted: list[Extent] = []
        else:
            wanted = joined(map_of(tree, row, moved_to))
        edited = edits.get(row.inode) is not None
        if not (lies_within(known, wanted) if edited else known == wanted):
            text = f"inode {row.inode.hex()}: its content map is not that of its version"
            yield Finding("content", text, row.inode)
    yield from _references(state, tree, blocks, moved_to)


def joined(extents: Iterable[Extent]) -> list[Extent]:
    """The runs of a content map in order, neighbours as one: equal where every block is the same,
    and no longer than the map, however large the file."""
    found: list[Extent] = []
    for extent in sorted(extents, key=lambda one: one.block):
        last = found[-1] if found else None
        if last is not None and _cut(last, last.count, extent.count) == extent:
            found[-1] = replace(last, count=last.count + extent.count)
        else:
            found.append(extent)
    return found


def lies_within(some: Sequence[Extent], whole: Sequence[Extent]) -> bool:
    """Whether each block of `some` is the same in `whole`; both are `joined`."""
    at = 0
    for run in some:
        while at < len(whole) and whole[at].block + whole[at].count <= run.block:
            at += 1
        if at == len(whole) or whole[at].block > run.block:
            return False
        skipped = run.block - whole[at].block
        if skipped + run.count > whole[at].count or _cut(whole[at], skipped, run.count) != run:
            return False
    return True


def _cut(run: Extent, skipped: int, count: int) -> Extent:
    """So many blocks of a run, or of what would follow it, behind so many others."""
    return Extent(run.block + skipped, run.sid, run.index + skipped, count)


def map_of(tree: LmdbTree, row: InodeRow, moved_to: MovedTo | None) -> Iterator[Extent]:
    """The content map that follows from the version that is shown."""
    if not row.heads:
        return
    version = tree.version(row.inode, row.heads[0])
    if version is None or version.content is None:
        return

    def content_of(inode: bytes, version: bytes) -> Content | None:
        known = tree.version(inode, version)
        return None if known is None else known.content

    found = block_map(version.content, partial(content_of, row.inode))
    yield from found.extents if moved_to is None else follow_moves(found.extents, moved_to)
    yield from placeholders(found.unknown)


def _references(state: State, tree: LmdbTree, blocks: Blocks, moved_to: MovedTo | None) -> Found:
    """Whether all that is referred to is there."""
    for inode, extent in blocks.all_extents():
        yield None
        if tree.inode(inode) is None:
            yield Finding("content", f"a content map of no inode: {inode.hex()}", inode)
        text = _missing(blocks, extent)
        if text:
            yield Finding("content", f"inode {inode.hex()}, block {extent.block}: {text}")
    for inode, version, row in tree.all_versions():
        yield None
        if row.content is None or not row.superseded:
            continue
        extents = row.content.extents
        for extent in extents if moved_to is None else follow_moves(extents, moved_to):
            dropped = tree.control(b"s" + extent.sid)
            if dropped is not None and isinstance(dropped.entry, DropStripe):
                continue  # it was let go before this device came to know
            text = _missing(blocks, extent)
            if text:
                name = f"inode {inode.hex()}, version {version.hex()}"
                yield Finding("content", f"{name}, block {extent.block}: {text}")


def _missing(blocks: Blocks, extent: Extent) -> str:
    if extent.sid == NO_STRIPE:
        return "its content was not found when this volume was recovered"
    known = blocks.stripe(extent.sid)
    if known is None:
        return f"it lies in stripe {extent.sid.hex()}, which has no row"
    if extent.index + extent.count > len(known.row.sealed_bytes) - 1:
        return f"stripe {extent.sid.hex()} has no block {extent.index + extent.count - 1}"
    return ""


# --- stripes --------------------------------------------------------------------------------------


def _stripes(state: State) -> Found:
    tree, blocks, dying = LmdbTree(state.tables), Blocks(state.tables), Dying(state.tables)
    unfinished, moving = set[bytes](), set[bytes]()
    for name, known_sids in (("unfinished", unfinished), ("moving", moving)):
        for sid, _ in _rows(state.tables, name):
            known_sids.add(sid)
            yield None
    count = 0
    for known in _states(blocks):
        count += 1
        yield None
        for text in _stripe_faults(state, tree, dying, known):
            yield Finding("stripes", f"stripe {known.row.sid.hex()}: {text}")
        wrong = (known.row.sid in unfinished) == (known.full and not known.attempts)
        if wrong or (known.row.sid in moving) != bool(known.moving):
            text = f"stripe {known.row.sid.hex()}: it is on a wrong list"
            yield Finding("stripes", text, known.row.sid)
        unfinished.discard(known.row.sid)
        moving.discard(known.row.sid)
    for sid in (*unfinished, *moving):
        yield Finding("stripes", f"a list has stripe {sid.hex()}, which has no row", sid)
    if count != blocks.stripe_count:
        text = f"there are {count} stripes, not {blocks.stripe_count}"
        yield Finding("stripes", text, b"totals")
    for key, control in tree.control_under(b"s"):
        yield None
        if isinstance(control.entry, PutStripe) and blocks.stripe(key[1:]) is None:
            yield Finding("stripes", f"stripe {key[1:].hex()} was announced and has no row")


def _states(blocks: Blocks) -> Iterator[StripeState]:
    after: bytes | None = None
    while page := blocks.stripes(after, limit=STRIPES_AT_ONCE):
        yield from page
        after = page[-1].row.sid


def _stripe_faults(state: State, tree: LmdbTree, dying: Dying, known: StripeState) -> Iterator[str]:
    row = known.row
    if known.confirmed >> len(row.places) or any(
        known.confirmed >> index & 1 and not place for index, place in enumerate(row.places)
    ):
        yield "a fragment is in place where there is no place"
    for sealed in row.sealed_bytes:
        padded = sealed - FOOTER_BYTES - TAG_BYTES
        if padded < 1 or size_class(padded) != padded:
            yield f"no sealed block has {sealed} bytes"
            break
    if not known.announced and row.sid not in state.staged:
        yield "it is not in the accounts, and its staged bytes are gone"
    control = tree.control(b"s" + row.sid)
    leaving = dying.get(row.sid)
    if known.announced and control is None:
        yield "it is stored, and no entry says so"
    elif control is not None and isinstance(control.entry, PutStripe):
        if control.entry.row != row:
            yield "its row is not the one that was announced"
        if leaving is not None:
            yield "it is on its way out, and no entry says so"
    elif control is not None and (leaving is None or leaving.phase == Phase.DELETING):
        yield "it was dropped, and still has a row"


# --- staging --------------------------------------------------------------------------------------


def _staging(state: State) -> Found:
    blocks = Blocks(state.tables)
    journal = state.tables.table("journal")
    pending = [
        msgspec.msgpack.decode(value, type=Pending)
        for kind in (b"p", b"l")
        for _, value in journal.scan(kind)
    ]
    for one in pending:
        record = b"r" + bytes((one.chain,)) + one.sequence.to_bytes(8)
        gone = one.sid not in state.staged if one.sid else journal.get(record) is None
        if gone:
            text = f"segment {one.sequence} of chain {one.chain} waits, and its bytes are gone"
            yield Finding("staging", text)
        yield None
    segments = {one.sid for one in pending}
    for sid in sorted(state.staged):
        known = blocks.stripe(sid)
        if state.keys is not None and (sid in segments or (known is not None and not known.full)):
            yield from _staged_faults(state, state.keys, sid)
        yield None


def _staged_faults(state: State, keys: VolumeKeys, sid: bytes) -> Found:
    try:
        sealed = load_staged(state.read(sid))
        if sealed.sid != sid:
            yield Finding("staging", f"another stripe is staged as {sid.hex()}")
        for _ in check_steps(keys, sealed):
            yield None
    except AggfsError as error:
        yield Finding("staging", f"what is staged of stripe {sid.hex()} is damaged: {error}")


# --- ledger ---------------------------------------------------------------------------------------


def _ledger(state: State) -> Found:
    ledger, tree = Ledger(state.tables), LmdbTree(state.tables)
    used = yield from _used_steps(state)
    known = {key for key, _ in _rows(state.tables, "ledger")}
    for account in sorted(known | set(used)):
        control = tree.control(b"a" + account)
        if control and isinstance(control.entry, AccountEntry) and control.entry.removed:
            continue
        told, counted = ledger.used_bytes(AccountId(account)), used[account]
        if told != counted:
            text = f"account {account.hex()}: the ledger says {told} bytes, the rows {counted}"
            yield Finding("ledger", text, account + counted.to_bytes(8))


def _used_steps(state: State) -> Generator[None, None, Counter[bytes]]:
    """What lies, or may lie, in each account, counted from the rows."""
    used: Counter[bytes] = Counter()
    for known in _states(Blocks(state.tables)):
        size = fragment_bytes(known.row.sealed_bytes, known.row.k)
        for _, account in known.copies():
            used[account] += size
        yield
    for _, leaving in Dying(state.tables).rows():
        if leaving.row is not None:
            size = fragment_bytes(leaving.row.sealed_bytes, leaving.row.k)
            for _, place in leaving.left:
                used[place] += size
        yield
    for key, value in _rows(state.tables, "objects"):
        used[key[:8]] += int.from_bytes(value)
        yield
    return used
