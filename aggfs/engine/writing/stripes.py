"""The life of a stripe on this device: staged, coded, put, stored, full.

`admit` takes a sealed and staged stripe, commits where its fragments are to go *before* any put
is begun, and sends them off. A fragment that did not arrive is tried again, elsewhere if a
provider that holds nothing of the stripe has room, until all n are in place; only then is the
staging file given back. After a restart `run` goes on where the rows say.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import msgspec
import trio

from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.database import Database
from aggfs.cache.staging import Staging
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.accounts import Account, Accounts
from aggfs.engine.jobs import is_final, of_ours
from aggfs.engine.pool import Pool
from aggfs.engine.writing.lanes import LANES_LIMIT, Lanes
from aggfs.engine.writing.upload import Parcel, Spreading, put_all
from aggfs.errors import AggfsError, LocalDiskFailed, NoSpace, Unreachable
from aggfs.formats.record import Buffer
from aggfs.model import NO_ACCOUNT, AccountId, Layout, StripeRow, spare
from aggfs.placement.accounts import AccountState
from aggfs.placement.plan import plan_fragments, plan_missing
from aggfs.placement.policy import StorageClass
from aggfs.threads import in_slices, in_thread

RETRY_SECONDS = 1.0
RETRY_LIMIT_SECONDS = 30.0
PRESSED_SECONDS = 5.0
LANES_BEHIND = 2  # for catching up: a new stripe always finds a place soon
ROUND = 64
LOOKED_AT = 1000
Plan = TypeVar("Plan")
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Policy:
    """How this volume spreads fragments: the class of new stripes, and how many fragments of one
    stripe a provider may hold. `spreading` is the same for what the journal puts."""

    storage_class: StorageClass
    per_provider: int
    spreading: Spreading = field(init=False)

    def __post_init__(self) -> None:
        used = self.storage_class
        self.spreading = Spreading(used.k, used.n, used.layout, self.per_provider)

    def use(self, k: int, n: int, layout: Layout) -> None:
        """New stripes, and what the journal puts, are k of n from now on. The volume's header has
        the layout, too: where a configuration says otherwise, copies might be taken for parity."""
        known = self.storage_class
        if (known.k, known.n, known.layout) != (k, n, layout):
            number = (known.id + 1) % 256
            self.storage_class = replace(known, id=number, k=k, n=n, layout=layout)
            self.spreading.k, self.spreading.n, self.spreading.layout = k, n, layout
        if layout.in_copies:
            self.per_provider = 1  # two could be copies of each other


class Stripes:
    """All stripes that this device has sealed and that are not yet full."""

    def __init__(
        self,
        keys: VolumeKeys,
        accounts: Accounts,
        blocks: Blocks,
        staging: Staging,
        database: Database,
        policy: Policy,
        *,
        announce: Callable[[StripeRow], None],
    ) -> None:
        """`announce` is told, on the loop, when a stripe reaches its write quorum, and when the
        row of a stored stripe changes after that. `troubles` has the stripes that cannot be sent
        for no account's fault, and why."""
        self._keys = keys
        self._accounts = accounts
        self._blocks = blocks
        self._staging = staging
        self._database = database
        self._policy = policy
        self._announce = announce
        self._scratches = Pool(codec.Scratch, count=LANES_LIMIT)
        self._lanes = Lanes()
        self._behind = trio.CapacityLimiter(LANES_BEHIND)
        self._busy: set[bytes] = set()
        self._changed = trio.Event()
        self._pressed = trio.Event()
        self._pressed_at = -PRESSED_SECONDS
        self._last_looked_at = b""
        self._unstored = dict.fromkeys(
            sid for sid in staging.names() if (state := blocks.stripe(sid)) and not state.announced
        )
        self.troubles: dict[bytes, str] = {}

    # --- what others ask ----------------------------------------------------------------------

    def is_stored(self, sid: bytes) -> bool:
        """Whether an entry may name this stripe: its write quorum was reached."""
        state = self._blocks.stripe(sid)
        return state is not None and state.announced

    def _can_be_read(self, sid: bytes) -> bool:
        return self._state(sid).spare >= 0

    def _reached_quorum(self, state: StripeState) -> bool:
        """One more may be lost (k + 1 of n), or as soon as it can be read while the accounts of the
        rest are down."""
        if state.spare >= min(1, spare(state.row, range(len(state.row.places)))):
            return True
        return state.spare >= 0 and not any(
            self._answers(place)
            for index, place in enumerate(state.row.places)
            if not state.confirmed >> index & 1
        )

    def _answers(self, place: bytes) -> bool:
        account = self._accounts.get(place)
        return account is not None and account.healthy

    def discard_unknown(self, others: Iterable[bytes]) -> None:
        """At a start: what was staged and never got a row is no stripe, and its id is dropped;
        what is full was not given back. `others` are names in staging that are not ours."""
        known = set(others)
        for name in self._staging.names():
            state = self._blocks.stripe(name)
            if name not in known and (state is None or state.full):
                self._staging.release(name)

    async def wait_settled(self) -> None:
        """Return when no put of now is under way but to accounts that did not answer last time.
        The caller sets the deadline."""
        of_now = set(self._busy)
        while any(self._has_hope(sid) for sid in of_now & self._busy):
            await self._changed.wait()

    def _has_hope(self, sid: bytes) -> bool:
        state = self._state(sid)
        return not state.announced or any(
            self._answers(place)
            for index, place in enumerate(state.row.places)
            if not state.confirmed >> index & 1
        )

    async def wait_change(self) -> None:
        """Return when a send has ended, or has given room in staging back. The caller sets the
        deadline."""
        await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- a new stripe -------------------------------------------------------------------------

    def admit(self, sealed: codec.SealedStripe, used: StorageClass | None = None) -> None:
        """Take over a stripe that is staged: rows and ledger, no await. `used`: its class, where
        that is not the one of new stripes.

        Where nothing can be placed now (accounts away, or full), the stripe waits in staging.
        """
        used = used or self._policy.storage_class
        size = codec.fragment_bytes(sealed.sealed_bytes, used.k)
        try:
            places = self._placed(
                lambda states: plan_fragments(
                    states,
                    n=used.n,
                    k=used.k,
                    q=self._policy.per_provider,
                    size_bytes=size,
                    seed=sealed.sid,
                    layout=used.layout,
                )
            )
        except (NoSpace, Unreachable) as error:
            logger.warning("a stripe waits in staging: %s", error)
            places = (NO_ACCOUNT,) * used.n
        row = StripeRow(
            sealed.sid, used.k, used.layout, used.id, sealed.epoch, sealed.sealed_bytes, places
        )
        self._blocks.put_stripe(StripeState(row, 0))
        self._unstored[row.sid] = None
        for place in places:
            if place:
                self._accounts.ledger.add(place, size)

    def _placed(self, plan: Callable[[Sequence[AccountState]], Plan]) -> Plan:
        """A plan over the accounts as they are. What a writer was promised must go somewhere: a
        stripe that finds no room may use some of what is kept in reserve. Raises `NoSpace`."""
        try:
            return plan(self._accounts.states())
        except NoSpace:
            return plan(self._accounts.states(pressed=True))

    async def wait_for_slot(self, seconds: float) -> bool:
        """Whether a send could begin within so many seconds."""
        with trio.move_on_after(seconds):
            while len(self._busy) >= self._lanes.count:
                await self.wait_change()
            return True
        return False

    async def send(self, sid: bytes, sealed: codec.SealedStripe | None = None) -> None:
        """Put what is missing of a stripe. Returns when each put ended, well or not.

        `sealed` saves reading the staging file. Raises neither for an account's fault nor for
        the stripe's, see `troubles`. Raises `LocalDiskFailed`.
        """
        if sid in self._busy:
            return
        self._busy.add(sid)
        try:
            async with self._scratches.lent() as scratch:
                await self._database.durable()
                await self._send(sid, sealed, scratch)
                self.troubles.pop(sid, None)
        except Exception as error:  # of one stripe: the others are sent all the same
            known = of_ours(error)
            if is_final(error):
                raise LocalDiskFailed(str(known or error)) from error
            if sid not in self.troubles:
                trace = None if known else error
                logger.error("stripe %s cannot be sent: %s", sid.hex(), error, exc_info=trace)
            self.troubles[sid] = str(known or error)
        finally:
            self._busy.discard(sid)
            self._note_change()

    async def _send(
        self, sid: bytes, sealed: codec.SealedStripe | None, scratch: codec.Scratch
    ) -> None:
        state = self._blocks.stripe(sid)
        if state is None:  # collected since it was looked up
            return
        missing = [i for i in range(len(state.row.places)) if not state.confirmed >> i & 1]
        if missing and (sealed is not None or sid in self._staging):  # else it is to be repaired
            if sealed is None:
                sealed = codec.load_staged(await in_thread(self._staging.read, sid))
            row = state.row
            steps = codec.encode_steps(
                self._keys,
                sealed,
                k=row.k,
                n=len(row.places),
                layout=Layout(row.layout),
                indices=missing,
                scratch=scratch,
            )
            await self._put(sid, await in_slices(steps))
        await self._clean_up(sid)
        await self._finish(sid)

    async def _put(self, sid: bytes, pieces: Mapping[int, list[Buffer]]) -> None:
        """One round over the missing fragments, and one more for those that can go elsewhere."""
        left = set(pieces)
        tried: dict[int, bytes] = {}
        for _ in range(2):
            if self._place_again(sid, left):
                await self._database.durable()
            row = self._state(sid).row
            parcels = [
                self._parcel(row, index, account, pieces[index])
                for index in sorted(left)
                if (account := self._accounts.get(row.places[index])) is not None
                and tried.get(index) != account.id
            ]
            tried = {parcel.index: parcel.account.id for parcel in parcels}
            if not parcels:
                return

            def stored(parcel: Parcel) -> None:
                left.discard(parcel.index)
                self._confirm(sid, parcel.index)

            self._lanes.took(await put_all(parcels, stored, lambda: self._can_be_read(sid)))
            self._check_stored(sid)
            if not left:
                return

    def _parcel(self, row: StripeRow, index: int, account: Account, pieces: list[Buffer]) -> Parcel:
        key = self._keys.fragment_name(row.epoch, row.sid, index, account.id)
        return Parcel(index, account, key, pieces)

    def _confirm(self, sid: bytes, index: int) -> None:
        state = self._state(sid)
        state = msgspec.structs.replace(state, confirmed=state.confirmed | 1 << index)
        self._blocks.put_stripe(state)
        self._check_stored(sid)

    def _check_stored(self, sid: bytes) -> None:
        state = self._state(sid)
        if not state.announced and self._reached_quorum(state):
            self._blocks.put_stripe(msgspec.structs.replace(state, announced=True))
            self._unstored.pop(sid, None)
            self._announce(state.row)

    def _place_again(self, sid: bytes, left: set[int]) -> bool:
        """Choose other accounts for missing fragments whose account is down, full or gone;
        whether that changed the row."""
        state = self._state(sid)
        row = state.row
        homeless = [index for index in sorted(left) if not self._takes(row.places[index])]
        if not homeless:
            return False
        size = codec.fragment_bytes(row.sealed_bytes, row.k)
        try:
            found = self._placed(
                lambda states: plan_missing(
                    states,
                    held=[state.may_hold(index) for index in range(len(row.places))],
                    missing=homeless,
                    n=len(row.places),
                    k=row.k,
                    q=self._policy.per_provider,
                    size_bytes=size,
                    seed=row.sid,
                    layout=Layout(row.layout),
                )
            )
        except (NoSpace, Unreachable):
            return False
        places, attempts = list(row.places), list(state.attempts)
        for index, account in found.items():
            if places[index]:
                attempts.append((index, places[index]))
            if (index, account) in attempts:
                attempts.remove((index, account))
            else:
                self._accounts.ledger.add(account, size)
            places[index] = account
        if tuple(places) == row.places:
            return False
        row = msgspec.structs.replace(row, places=tuple(places))
        new = msgspec.structs.replace(state, row=row, attempts=tuple(attempts))
        self._blocks.put_stripe(new)
        if state.announced:
            self._announce(row)
        return True

    def _takes(self, place: bytes) -> bool:
        account = self._accounts.get(place)
        return account is not None and account.healthy and not account.full

    async def _clean_up(self, sid: bytes) -> None:
        """Delete what given-up puts may have left."""
        known = self._state(sid)
        row = known.row
        for index, place in known.attempts:
            account = self._accounts.get(place)
            if account is not None:
                key = self._keys.fragment_name(row.epoch, sid, index, account.id)
                if account.arrivals.former_may_come() or not await account.delete_for_good(key):
                    continue
            state = self._blocks.stripe(sid)
            if state is None:  # collected meanwhile, what may be there included
                return
            attempts = tuple(one for one in state.attempts if one != (index, place))
            self._blocks.put_stripe(msgspec.structs.replace(state, attempts=attempts))
            size = codec.fragment_bytes(row.sealed_bytes, row.k)
            self._accounts.ledger.add(AccountId(place), -size)

    async def _finish(self, sid: bytes) -> None:
        """Give the staging file back once every fragment is in place, and that is committed."""
        state = self._blocks.stripe(sid)
        if state is not None and state.full:
            self._database.after_commit(lambda: self._give_back(sid))

    def _give_back(self, sid: bytes) -> None:
        self._staging.release(sid)
        self._note_change()

    def _state(self, sid: bytes) -> StripeState:
        state = self._blocks.stripe(sid)
        if state is None:
            raise AggfsError(f"stripe {sid.hex()} has no row")
        return state

    # --- catching up --------------------------------------------------------------------------

    async def run(self) -> None:
        """Bring what is missing into the accounts, for ever, less and less often in vain."""
        pause = RETRY_SECONDS
        while True:
            self._pressed = trio.Event()
            done = await self.catch_up()
            pause = RETRY_SECONDS if done else min(pause * 2, RETRY_LIMIT_SECONDS)
            with trio.move_on_after(pause if self._blocks.unfinished(limit=1) else RETRY_SECONDS):
                await self._pressed.wait()

    def press(self) -> None:
        """Writers wait for room, and not for long: every few seconds accounts that did not answer
        are asked again, however long they were to be left alone."""
        now = trio.current_time()
        if now - self._pressed_at >= PRESSED_SECONDS:
            self._pressed_at = now
            for account in self._accounts:
                account.wake()
            self._pressed.set()

    async def catch_up(self) -> bool:
        """One round over stripes that are not full and not under way: those first that no entry
        can name yet, the others in turns. Whether something was brought in place."""
        chosen = {*self._unstored_ones(), *self._next_ones()}
        before = self._confirmed(chosen)
        async with trio.open_nursery() as nursery:
            for sid in chosen:
                nursery.start_soon(self._send_later, sid)
        return self._confirmed(chosen) > before

    def _confirmed(self, sids: Iterable[bytes]) -> int:
        """How many fragments of these stripes are in place."""
        states = map(self._blocks.stripe, sids)
        return sum(state.confirmed_count for state in states if state is not None)

    def _unstored_ones(self) -> Iterable[bytes]:
        found = list(islice(self._unstored, ROUND))
        for sid in found:  # the others first, the next time
            del self._unstored[sid]
            self._unstored[sid] = None
        return found

    def _next_ones(self) -> Iterable[bytes]:
        known = self._blocks.unfinished(self._last_looked_at, limit=LOOKED_AT)
        if len(known) < LOOKED_AT:
            known += self._blocks.unfinished(limit=LOOKED_AT - len(known))
        found: list[bytes] = []
        for sid in known:
            if len(found) == ROUND:
                break
            self._last_looked_at = sid
            if sid in self._staging or self._state(sid).full:
                found.append(sid)
        return found

    async def _send_later(self, sid: bytes) -> None:
        async with self._behind:
            await self.send(sid)
