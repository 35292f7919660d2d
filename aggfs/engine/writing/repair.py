"""Making fragments again that are damaged, lost, or were never put.

Theory of operation. A read that meets a bad fragment says so (`note`): its bit among the confirmed
ones goes, and with that the stripe is unfinished. Unfinished stripes that are still staged are
the business of `engine.writing.stripes`; of all others what is missing is made again of good
fragments (k of them; in copies of one), which gives the same bytes, and put where the row says. The
rows are the list of what is to be done: it survives restarts, and a recovery leaves its own there.

An account that spoils what it is given must not be given the same again and again: a fragment
that is bad once more after it was made again waits, twice as long each time.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import trio

from aggfs.cache.blocks import Blocks, StripeState
from aggfs.cache.staging import Staging
from aggfs.coding import codec, decode
from aggfs.coding.keys import VolumeKeys
from aggfs.coding.remake import is_of_use, made_together, make_again, needed_count
from aggfs.engine.accounts import Account, Accounts
from aggfs.engine.writing.holds import Holds
from aggfs.errors import Damaged, NotFound, StoreError, TooFewFragments, Unreachable
from aggfs.formats.record import Buffer
from aggfs.threads import in_thread

GET_SECONDS = 60.0
PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
STRIPES_AT_ONCE = 1000
AGAIN_LIMIT_SECONDS = 3600.0
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Patience:
    """How a fragment fared that was made again: how often it was bad once more, and until when it
    is left alone."""

    times: int = 0
    until: float = -math.inf

    def in_vain(self, now: float) -> None:
        """It is bad once more."""
        self.times += 1
        self.until = now + min(PAUSE_SECONDS * 2.0**self.times, AGAIN_LIMIT_SECONDS)


class Repairs:
    """The stripes that lack fragments and are no longer staged here. On the loop."""

    def __init__(
        self,
        keys: VolumeKeys,
        accounts: Accounts,
        blocks: Blocks,
        staging: Staging,
        *,
        turn: Callable[[int], Awaitable[None]],
    ) -> None:
        """`turn` returns when so many bytes may be moved for what nobody waits for."""
        self._turn = turn
        self._keys = keys
        self._accounts = accounts
        self._blocks = blocks
        self._staging = staging
        self.holds = Holds()
        self._bad: set[tuple[bytes, int]] = set()  # what lies there is not to be believed
        self._made: dict[tuple[bytes, int], Patience] = {}  # what was made again here
        self._work = trio.Event()

    def note(self, sid: bytes, index: int) -> None:
        """A read found fragment `index` damaged or lost. No await."""
        state = self._blocks.stripe(sid)
        if state is None or not state.confirmed >> index & 1:
            return
        self._bad.add((sid, index))
        made = self._made.get((sid, index))
        if made is not None:
            made.in_vain(trio.current_time())
        self._blocks.put_stripe(
            msgspec.structs.replace(state, confirmed=state.confirmed & ~(1 << index))
        )
        self._work.set()

    async def run(self) -> None:
        """Repair what can be repaired, for ever; less and less often in vain."""
        pause = PAUSE_SECONDS
        while True:
            self._work = trio.Event()
            mended = await self.repair_all()
            pause = PAUSE_SECONDS if mended else min(2 * pause, LONGEST_PAUSE_SECONDS)
            with trio.move_on_after(pause):
                await self._work.wait()

    async def repair_all(self) -> bool:
        """One round; whether something was made whole. Never raises for an account's fault."""
        mended = False
        after: bytes | None = None
        while page := self._blocks.unfinished(after, limit=STRIPES_AT_ONCE):
            after = page[-1]
            for sid in page:
                before = self._confirmed_count(sid)
                try:
                    await self.repair(sid)
                except (StoreError, Damaged, TooFewFragments) as error:
                    logger.info("repair of stripe %s must wait: %s", sid.hex(), error)
                mended = mended or self._confirmed_count(sid) > before
        return mended

    def _confirmed_count(self, sid: bytes) -> int:
        state = self._blocks.stripe(sid)
        return 0 if state is None else state.confirmed_count

    async def repair(self, sid: bytes) -> None:
        """Bring the missing fragments of a stripe back, as far as their accounts answer.

        Raises `TooFewFragments` where those it takes cannot be had now. May be cancelled: what was
        put and not confirmed is put again, the same bytes.
        """
        async with self.holds.hold(sid):
            await self._repair(sid)

    async def remake(self, sid: bytes, indices: tuple[int, ...]) -> Mapping[int, list[Buffer]]:
        """Fragments of a stripe made of good ones: the same bytes as ever. Raises as `repair`.
        The caller holds the stripe."""
        row = self._state(sid).row
        count = needed_count(row, indices)
        await self._turn(count * codec.fragment_bytes(row.sealed_bytes, row.k))
        good = await self._good_fragments(sid, indices)
        return await in_thread(make_again, self._keys, row, good, indices)

    async def _repair(self, sid: bytes) -> None:
        """An account that fails keeps no other from getting what it lacks. What is staged still is
        put, and placed, by others: two that place one fragment would lose sight of a copy."""
        if sid in self._staging:
            return
        failures: list[StoreError | TooFewFragments] = []
        absent: dict[int, Account] = {}
        for index, account in self._missing(sid).items():
            try:
                if not await self._is_there(sid, index, account):
                    absent[index] = account
            except StoreError as error:
                failures.append(error)
        if absent:
            for together in made_together(self._state(sid).row, absent):
                accounts = {index: absent[index] for index in together}
                failures += await self._make_and_put(sid, accounts)
        if failures:
            raise failures[0]

    async def _make_and_put(
        self, sid: bytes, absent: Mapping[int, Account]
    ) -> list[StoreError | TooFewFragments]:
        """Make what these accounts lack, and put it; what of that failed."""
        failures: list[StoreError | TooFewFragments] = []
        try:
            made = await self.remake(sid, tuple(absent))
        except TooFewFragments as error:
            return [error]
        for index, account in absent.items():
            try:
                await self._put(sid, index, account, made[index])
            except StoreError as error:
                failures.append(error)
        return failures

    def _state(self, sid: bytes) -> StripeState:
        state = self._blocks.stripe(sid)
        if state is None:
            raise Damaged(f"stripe {sid.hex()} has no row")
        return state

    def _missing(self, sid: bytes) -> dict[int, Account]:
        """The fragments that are not confirmed, and the accounts that should have them, those
        left out that do not answer now or spoiled it before."""
        state, now = self._state(sid), trio.current_time()
        found = {}
        for index, place in enumerate(state.row.places):
            account = self._accounts.get(place)
            if account is None or not account.healthy or state.confirmed >> index & 1:
                continue
            made = self._made.get((sid, index))
            if made is None or made.until <= now:
                found[index] = account
        return found

    def _name(self, state: StripeState, index: int, account: Account) -> str:
        return self._keys.fragment_name(state.row.epoch, state.row.sid, index, account.id)

    async def _is_there(self, sid: bytes, index: int, account: Account) -> bool:
        """Whether it lies there after all, and nobody found it bad: it is confirmed then."""
        if (sid, index) in self._bad:
            return False
        state = self._state(sid)
        try:
            with _noting(account), trio.fail_after(GET_SECONDS):
                found = await account.store.head(self._name(state, index, account))
        except NotFound:
            return False
        if found.size_bytes != codec.fragment_bytes(state.row.sealed_bytes, state.row.k):
            return False
        self._confirm(sid, index)
        return True

    async def _good_fragments(self, sid: bytes, wanted: tuple[int, ...]) -> Mapping[int, bytes]:
        """Whole fragments that are what they should be, so many as it takes to make the wanted
        ones. Those that were found bad or lost are looked at last: an account may have come to its
        senses."""
        state = self._state(sid)
        good: dict[int, bytes] = {}
        failures: list[Exception] = []
        held = [
            (not state.confirmed >> index & 1, account.cost(), index, account)
            for index, place in enumerate(state.row.places)
            if (account := self._accounts.get(place))
        ]
        for _, _, index, account in sorted(held, key=lambda one: one[:3]):
            if not is_of_use(state.row, index, good, wanted):
                continue
            try:
                with _noting(account), trio.fail_after(GET_SECONDS):
                    data = await account.store.get(self._name(state, index, account))
                await in_thread(self._check, state, index, data)
            except (NotFound, Damaged) as error:
                self.note(sid, index)
                failures.append(error)
            except StoreError as error:
                failures.append(error)
            else:
                good[index] = data
        needed = needed_count(state.row, wanted)
        if len(good) < needed:
            text = f"{len(good)} of {needed} fragments are good"
            raise TooFewFragments(text, tuple(failures))
        return good

    def _check(self, state: StripeState, index: int, data: bytes) -> None:
        """In a worker: every cell of a fragment."""
        row = state.row
        for block in range(len(row.sealed_bytes)):
            start, length = codec.cell_range(row.sealed_bytes, row.k, block)
            cell = memoryview(data)[start : start + length]
            decode.check_cell(self._keys, row, index, block, cell)

    async def _put(self, sid: bytes, index: int, account: Account, pieces: list[Buffer]) -> None:
        with _noting(account):
            await account.put(self._name(self._state(sid), index, account), pieces)
        self._bad.discard((sid, index))
        self._made.setdefault((sid, index), Patience())
        self._confirm(sid, index)
        logger.info(
            "fragment %d of stripe %s is whole again at account %s", index, sid.hex(), account.name
        )

    def _confirm(self, sid: bytes, index: int) -> None:
        state = self._state(sid)
        self._blocks.put_stripe(
            msgspec.structs.replace(state, confirmed=state.confirmed | 1 << index)
        )


@contextmanager
def _noting(account: Account) -> Iterator[None]:
    """Whether the account answers is noted; silence is `Unreachable`."""
    try:
        yield
    except NotFound:
        account.answered()
        raise
    except StoreError as error:
        account.failed(error)
        raise
    except trio.TooSlowError:
        silence = Unreachable(f"account {account.name} does not answer")
        account.failed(silence)
        raise silence from None
    else:
        account.answered()
