"""Publishing: outbox rows become journal segments, and heads that name them.

Theory of operation. One round at a time: the rows that may go (`sync.order.ready`) are cut into
one segment per chain and signed; in ONE transaction, with no await before it, the rows leave the
outbox and the records become pending under their sequence (an unlink meanwhile must either find
its file's rows in the outbox, or follow them). Then a record is sealed and staged, once: the same
bytes are put until they are in place, whatever crashes. Control comes before namespace, both
before the head: who reads a head finds everything it names. A segment counts when its write
quorum is in place; the head when more accounts have it than may vanish.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec
import trio

from aggfs.cache.database import Database
from aggfs.cache.outbox import Outbox
from aggfs.cache.table import Table
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.records import open_record, seal_record
from aggfs.engine.accounts import NEVER, Account, Accounts
from aggfs.engine.journal.segments import Pending, Segments
from aggfs.engine.journal.taken import TakenHeads
from aggfs.engine.writing.upload import LITTLE_PATIENCE_SECONDS, Parcel, put_all
from aggfs.errors import AggfsError, Forked, NotFound, StoreError, Unreachable
from aggfs.formats import journal
from aggfs.formats.fragment import Kind
from aggfs.formats.journal import CONTROL, NAMESPACE, NO_HASH, Head, Segment, Tip
from aggfs.formats.record import Buffer
from aggfs.formats.signed import Verify
from aggfs.model import ControlEntry, DeviceId, Entry, Layout, OutboxRow, Sid
from aggfs.sync.clock import HybridClock
from aggfs.threads import in_thread

TABLES = ("journal",)
ROUND_SECONDS = 5.0
RETRY_LIMIT_SECONDS = 30.0
GRACE_SECONDS = 120.0
LOOK_BACK_SECONDS = 600.0
ASK_SECONDS = 10.0  # silent for longer, an account is asked again in the next round
SEGMENT_BYTES = 1024 * 1024
SEGMENT_ENTRIES = 4096
logger = logging.getLogger(__name__)

_encode = msgspec.msgpack.encode


class JournalState(msgspec.Struct, frozen=True, array_like=True):
    """Row b"state": what this device has staged so far, and how far the accounts know."""

    count: int = 0
    control: Tip = Tip(0, NO_HASH)
    namespace: Tip = Tip(0, NO_HASH)
    checkpoint: int = 0
    checkpoint_parts: int = 0
    folded: int = 0  # segments of both chains that the checkpoint makes superfluous
    published: tuple[int, int] = (0, 0)
    published_at_ns: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """Who publishes: the device, its clock, its signature, its source of randomness."""

    device: DeviceId
    clock: HybridClock
    sign: Callable[[bytes], bytes]
    verify: Verify
    random_bytes: Callable[[int], bytes]
    wall_ns: Callable[[], int]


def last_clock(database: Database) -> int:
    """The highest clock reading that this device has ever published, or 0."""
    value = database.table("journal").get(b"clock")
    return int.from_bytes(value) if value else 0


def read_state(table: Table) -> JournalState:
    """The row of the table `journal` that says how far this device's journal goes."""
    value = table.get(b"state")
    return msgspec.msgpack.decode(value, type=JournalState) if value else JournalState()


class Publisher:
    """This device's journal."""

    def __init__(
        self,
        keys: VolumeKeys,
        writer: Writer,
        accounts: Accounts,
        database: Database,
        outbox: Outbox,
        segments: Segments,
        *,
        vanishing: Callable[[], int],
        ready: Callable[[Sequence[tuple[int, OutboxRow]]], list[tuple[int, OutboxRow]]],
        on_published: Callable[[Entry], None],
        on_floor: Callable[[int], Awaitable[None]],
    ) -> None:
        """`vanishing` tells how many providers may vanish. `ready` picks the rows that may be
        published now, in order; `on_published` is told, on the loop, of each entry that leaves
        the outbox, `on_floor` of the clock reading below which this device has promised, by its
        head, to publish nothing more."""
        self._keys = keys
        self._writer = writer
        self._accounts = accounts
        self._database = database
        self._outbox = outbox
        self._segments = segments
        self._vanishing = vanishing
        self._ready = ready
        self._on_published = on_published
        self._on_floor = on_floor
        self._table = database.table("journal")
        self._lock = trio.Lock()
        self._asked: set[bytes] = set()  # accounts whose head of ours was looked at
        self._forked = False
        self._heads: dict[bytes, int] = {}  # account -> count of the head that it has
        self.taken = TakenHeads(database)
        # account -> when its head is put once more: an older put that was given up may still
        # arrive after it.
        self._once_more: dict[bytes, float] = {}

    # --- state --------------------------------------------------------------------------------

    @property
    def state(self) -> JournalState:
        """What this device has published."""
        return read_state(self._table)

    def _put_state(self, state: JournalState) -> None:
        self._table.put(b"state", _encode(state))

    @property
    def is_known(self) -> bool:
        """Whether enough accounts know the journal to its end; what waits in the outbox is none of
        it yet."""
        state = self.state
        return state.published == (state.control.sequence, state.namespace.sequence)

    @property
    def segments_since_checkpoint(self) -> int:
        """How many segments somebody must read after the checkpoint."""
        state = self.state
        return state.control.sequence + state.namespace.sequence - state.folded

    def name_checkpoint(self, sequence: int, parts: int, made_at: JournalState) -> None:
        """The next head names this checkpoint, which was made at that state."""
        folded = made_at.control.sequence + made_at.namespace.sequence
        self._put_state(
            msgspec.structs.replace(
                self.state,
                count=self.state.count + 1,
                checkpoint=sequence,
                checkpoint_parts=parts,
                folded=folded,
            )
        )

    def staged(self) -> list[bytes]:
        """What the journal has in staging."""
        return [one.sid for one in self.pending() if one.sid]

    def pending(self) -> list[Pending]:
        """Segments that are not in all their accounts."""
        return self._segments.pending()

    # --- rounds -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Publish what may be published, a few seconds' worth at once; later after a failure."""
        pause = ROUND_SECONDS
        while True:
            await trio.sleep(pause)
            if not (len(self._outbox) or self.pending() or self.heads_behind()):
                continue
            try:
                await self.publish()
                pause = ROUND_SECONDS
            except Forked as error:
                logger.error("%s", error)
                return
            except Unreachable as error:
                pause = min(pause * 2, RETRY_LIMIT_SECONDS)
                logger.info("publishing is delayed: %s", error)

    async def publish(self) -> None:
        """Publish everything that may be published now.

        Raises `Unreachable` when too few accounts took it; all of it stays pending then. `Forked`
        when a copy of this device publishes as well: nothing is acknowledged any more then.
        """
        async with self._lock:
            await self._make_sure_to_be_alone()
            await self._segments.put_wanted()
            until = self._outbox.next_sequence
            while self._cut_segments(until):
                await self._segments.put_wanted()
            await self._put_heads()
            await self._segments.catch_up()

    def _cut_segments(self, until: int) -> bool:
        """Make segments of what may be published now; whether there was anything older than
        `until`: what comes meanwhile must not put the head off for ever. No await.

        Control entries go all at once: a content entry must not be seen without the rows of its
        stripes, wherever in the outbox those are.
        """
        rows = self._outbox.rows()
        control = [pair for pair in rows if isinstance(pair[1].entry, ControlEntry)]
        ready = [pair for pair in self._ready(rows) if not isinstance(pair[1].entry, ControlEntry)]
        if not any(number < until for number, _ in (*control[:1], *ready[:1])):
            return False
        for chain, some in ((CONTROL, control), (NAMESPACE, ready)):
            while some:
                fitting = _fitting(some)
                self._cut(chain, fitting)
                some = some[len(fitting) :]
        return True

    def _cut(self, chain: int, rows: Sequence[tuple[int, OutboxRow]]) -> None:
        state = self.state
        tip = state.control if chain == CONTROL else state.namespace
        segment = Segment(
            self._writer.device,
            chain,
            tip.sequence + 1,
            tip.hash,
            tuple((row.stamp.clock, row.entry) for _, row in rows),
        )
        record = journal.encode_segment(segment, self._keys.volume, self._writer.sign)
        tip = Tip(segment.sequence, journal.record_hash(record))
        if chain == CONTROL:
            self._put_state(msgspec.structs.replace(state, control=tip))
        else:
            self._put_state(msgspec.structs.replace(state, namespace=tip))
        self._table.put(b"clock", self._writer.clock.last.to_bytes(8))
        self._segments.add(chain, segment.sequence, record)
        for number, row in rows:
            self._outbox.drop(number)
            self._on_published(row.entry)

    # --- heads ------------------------------------------------------------------------------------

    async def _put_heads(self) -> None:
        """Tell every account that does not know it where the journal ends."""
        state = self.state
        ends = (state.control.sequence, state.namespace.sequence)
        if ends != state.published:
            state = msgspec.structs.replace(state, count=state.count + 1)
            self._put_state(state)
        behind = await self._looked_at(self.heads_behind())
        needed = self._needed
        if not behind and self._heads_at(state.count) >= needed:
            return
        await self._database.durable()
        floor = self._floor()
        self._table.put(b"clock", self._writer.clock.last.to_bytes(8))
        pieces = await in_thread(self._seal_head, state, floor)
        parcels = []
        for account in behind:
            name = self._keys.head_name(self._keys.epoch, self._writer.device, account.id)
            parcel = Parcel(0, account, name, pieces)
            self._accounts.ledger.put_object(account.id, name, parcel.size_bytes)
            parcels.append(parcel)
        await self._database.durable()

        began = trio.current_time()

        def stored(parcel: Parcel) -> None:
            self._heads[parcel.account.id] = state.count
            self.taken.put(parcel.account.id, state.count)

        # Who is only caught up with must not hold up those who wait for the next round.
        known = self._heads_at(state.count) >= needed
        with trio.move_on_after(ASK_SECONDS if known else math.inf):
            await put_all(parcels, stored, lambda: self._heads_at(state.count) >= needed)
        for account in behind:
            if self._heads.get(account.id) == state.count:
                if self._once_more.get(account.id, math.inf) <= began:
                    del self._once_more[account.id]
            else:
                if account.healthy:
                    account.failed(Unreachable(f"account {account.name} does not answer"))
                self._once_more[account.id] = trio.current_time() + GRACE_SECONDS
        have = self._heads_at(state.count)
        if have < needed:
            raise Unreachable(f"{have} of {needed} providers took the journal's head")
        self._put_state(
            msgspec.structs.replace(
                self.state, published=ends, published_at_ns=self._writer.wall_ns()
            )
        )
        await self._on_floor(floor)

    # --- being the only one -------------------------------------------------------------------

    async def _make_sure_to_be_alone(self) -> None:
        """Before anything is overwritten: what accounts have of our journal is what we wrote.

        Each account is asked once per start. Raises `Forked` when one has more: a copy of this
        device's state is alive, or this is an old copy. `Unreachable` while too few answer.
        """
        unasked = [account for account in self._accounts if account.id not in self._asked]
        async with trio.open_nursery() as nursery:
            for account in unasked:
                nursery.start_soon(self.look, account)
        self._raise_if_forked()
        answer = self._providers(lambda account: account.id in self._asked)
        if answer < self._needed:
            raise Unreachable(f"{answer} of {self._needed} providers that publishing needs answer")

    def _raise_if_forked(self) -> None:
        if self._forked:
            text = "another copy of this device's state has published: this one is read-only;"
            text += " unmount it, move its state directory away, and run `aggfs recover`"
            self._database.give_up(text)
            raise Forked(text)

    async def _looked_at(self, behind: list[Account]) -> list[Account]:
        """Those that may get a head: what one that was away has is seen before it goes. Raises
        `Forked`."""
        known = [account for account in behind if account.id in self._asked]
        async with trio.open_nursery() as nursery:
            for account in known:
                if account.looked_at == NEVER:
                    nursery.start_soon(self.look, account)
        self._raise_if_forked()
        return [account for account in known if account.looked_at != NEVER]

    async def look_back(self, account: Account) -> None:
        """Now and then, and when it was away, look whether an account is what it was."""
        due = account.looked_at + LOOK_BACK_SECONDS <= trio.current_time()
        if due and account.id in self._asked:  # the others are asked before anything is put
            await self.look(account)

    async def look(self, account: Account) -> None:
        """See which head of ours an account has: a newer one is a copy's of this device, an older
        one than it took is noted, and put right with the next round. Never raises `StoreError`."""
        taken, late = self.taken.count(account.id), account.id in self._once_more
        name = self._keys.head_name(self._keys.epoch, self._writer.device, account.id)
        patience = ASK_SECONDS if account.healthy else LITTLE_PATIENCE_SECONDS
        count = 0
        try:
            with trio.fail_after(patience):
                head = self._opened_head(await account.store.get(name))
            if head.device == self._writer.device:
                count = head.count
                self._forked = self._forked or self._is_ahead(head)
        except trio.TooSlowError:
            account.failed(Unreachable(f"account {account.name} does not answer"))
            return
        except NotFound:
            pass
        except StoreError as error:
            account.failed(error)
            return
        except AggfsError as error:
            logger.warning("account %s has a damaged head: %s", account.name, error)
            count = taken
            self.forget_head(account.id)
        self._asked.add(account.id)
        account.looked_at = trio.current_time()
        if count < taken and not late:
            self.taken.note_older(account, count)
            self.forget_head(account.id)

    def _opened_head(self, data: bytes) -> Head:
        record = open_record(self._keys, Kind.HEAD, [data])
        return journal.decode_head(record.data, self._keys.volume, self._writer.verify)

    def _is_ahead(self, head: Head) -> bool:
        state = self.state
        return head.count > state.count or any(
            theirs.sequence > ours.sequence
            or (theirs.sequence == ours.sequence and theirs.hash != ours.hash)
            for theirs, ours in (
                (head.control, state.control),
                (head.namespace, state.namespace),
            )
        )

    def forget_head(self, account: bytes) -> None:
        """An account has lost its head: it is put there again with the next round."""
        self._heads.pop(account, None)

    def _heads_at(self, count: int) -> int:
        """How many providers have this head."""
        return self._providers(lambda account: self._heads.get(account.id) == count)

    def _providers(self, counts: Callable[[Account], bool]) -> int:
        return len({account.provider for account in self._accounts if counts(account)})

    @property
    def _needed(self) -> int:
        """How many providers are more than may vanish."""
        return min(self._providers(lambda _: True), self._vanishing() + 1)

    def heads_behind(self) -> list[Account]:
        """The accounts that do not know, or may forget, where the journal ends."""
        count, now = self.state.count, trio.current_time()
        return [
            one
            for one in self._accounts
            if count
            and (self._heads.get(one.id) != count or self._once_more.get(one.id, math.inf) <= now)
        ]

    def _seal_head(self, state: JournalState, floor: int) -> list[Buffer]:
        head = Head(
            self._writer.device,
            state.count,
            state.control,
            state.namespace,
            floor,
            state.checkpoint,
            state.checkpoint_parts,
        )
        record = journal.encode_head(head, self._keys.volume, self._writer.sign)
        sid = Sid(self._writer.device + self._writer.random_bytes(16))
        sealed = seal_record(self._keys, sid=sid, kind=Kind.HEAD, record=record)
        fragments = codec.at_once(
            codec.encode_steps(self._keys, sealed, k=1, n=1, layout=Layout.CONTIGUOUS)
        )
        return fragments[0]

    def _floor(self) -> int:
        """No stamp below this will ever be published by this device."""
        waiting = [row.stamp.clock for _, row in self._outbox.rows()]
        return min([self._writer.clock.last + 1, *waiting])


def _fitting(rows: Sequence[tuple[int, OutboxRow]]) -> Sequence[tuple[int, OutboxRow]]:
    """As many of the first rows as fit a segment; at least one."""
    size = 0
    for count, (_, row) in enumerate(rows):
        size += len(_encode(row.entry))
        if count and (size > SEGMENT_BYTES or count == SEGMENT_ENTRIES):
            return rows[:count]
    return rows
