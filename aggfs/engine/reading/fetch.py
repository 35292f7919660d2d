"""Bringing blocks in: k range reads of cells, checked, decoded, opened.

All accounts that hold a fragment are ranked by what the next read costs there; the best k are
asked. When one fails, or is late (see `hedging`), the next is asked as well; the first k good
answers win and the rest are cancelled. In copies the next is always the next that has another
cell than those who are asked, and beside a late one somebody with the same: so a read takes k
requests there too, and nothing is decoded. A cell whose MAC is wrong names its account, counts as a
failure, and is never used.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.cache.staging import Staging
from aggfs.coding import codec, decode
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.accounts import Account, Accounts
from aggfs.engine.pool import Pool
from aggfs.engine.reading.hedging import SILENT_SECONDS, Hedging
from aggfs.engine.works import Works
from aggfs.errors import AggfsError, Damaged, NotFound, Paused, StoreError, TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import StripeRow, cell_of, spare
from aggfs.threads import in_thread, list_in_slices

DEADLINE_SECONDS = 25.0
WAKE_SECONDS = 0.1
DECODERS = 2
LATE_SECONDS = 5.0
SECOND_TRY_SECONDS = 1.0
EXPLORE_EVERY = 64
logger = logging.getLogger(__name__)

Candidate = tuple[int, Account, str]  # fragment, who holds it, under which key
Answer = tuple[Candidate, bytes | StoreError]
Use = Callable[[Sequence[Buffer]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks `first` to `first + count` of one stripe."""

    row: StripeRow
    kind: Kind
    first: int
    count: int

    @property
    def start(self) -> int:
        """Where the run begins in each fragment, in bytes."""
        return codec.run_range(self.row.sealed_bytes, self.row.k, self.first, self.count)[0]

    @property
    def length(self) -> int:
        """How long the run is in each fragment, in bytes."""
        return codec.run_range(self.row.sealed_bytes, self.row.k, self.first, self.count)[1]


@dataclass(slots=True)
class _Race:
    """One run being gathered: who can still be asked, who is asked and since when, whose answer
    is late (another is asked in its place), who may not be hedged, who was left alone, what
    came, what failed."""

    row: StripeRow
    waiting: list[Candidate]
    asked: dict[int, float] = field(default_factory=dict)
    late: set[int] = field(default_factory=set)
    endured: set[int] = field(default_factory=set)
    paused: list[Candidate] = field(default_factory=list)
    found: dict[int, bytes] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)

    @property
    def _hoped_for(self) -> set[int]:
        """The fragments that came, and those that may in time."""
        return self.found.keys() | (self.asked.keys() - self.late)

    def lacks(self) -> bool:
        """Whether those who answered, and those who may in time, are too few."""
        return spare(self.row, self._hoped_for) < 0

    def next(self) -> Candidate | None:
        """Who is asked next: the first who has what is not hoped for already."""
        return self._first_of_use(self.waiting, self._hoped_for)

    def has_substitute(self, index: int) -> bool:
        """Whether somebody could be asked beside who was asked for this fragment."""
        others = self._hoped_for - {index}
        return self._first_of_use((*self.waiting, *self.paused), others) is not None

    def _first_of_use(self, candidates: Sequence[Candidate], held: set[int]) -> Candidate | None:
        cells = {cell_of(self.row, index) for index in held}
        return next((one for one in candidates if cell_of(self.row, one[0]) not in cells), None)

    def due(self, index: int, late_seconds: float) -> float:
        """When another is to be asked beside who was asked for this fragment. However late answers
        have come lately, who is silent for so long counts as failed."""
        seconds = SILENT_SECONDS if index in self.endured else min(late_seconds, SILENT_SECONDS)
        return self.asked[index] + seconds

    def patient_until(self, late_seconds: float) -> float:
        """Until when there is nothing to do but wait for answers."""
        waited_for = filter(self.has_substitute, self.asked.keys() - self.late)
        return min((self.due(index, late_seconds) for index in waited_for), default=math.inf)


class Fetcher:
    """Reads runs of blocks from the accounts, or from staging while they are not there yet."""

    def __init__(
        self,
        keys: VolumeKeys,
        accounts: Accounts,
        staging: Staging,
        *,
        on_damage: Callable[[bytes, int], None],
        deadline_seconds: float = DEADLINE_SECONDS,
        readers: Works | None = None,
    ) -> None:
        """`readers` has the reads under way: each knows where fragments were when it began."""
        self._keys = keys
        self._accounts = accounts
        self._staging = staging
        self._on_damage = on_damage
        self._deadline_seconds = deadline_seconds
        self._readers = Works() if readers is None else readers
        self._turn = 0
        self._late: dict[bytes, float] = {}  # stripes whose last read missed its deadline
        self._hedging = Hedging()
        self._scratches = Pool(codec.Scratch, count=DECODERS)

    def deadline(self) -> float:
        """Until when a reader who comes now may wait, however often he has to ask."""
        return trio.current_time() + self._deadline_seconds

    async def blocks(self, run: Run, use: Use, until: float = math.inf) -> None:
        """Hand the plaintext of a run of blocks, in order, to `use`; the buffers are valid until
        it returns. `until` is the `deadline` of a reader for whom this is not the first wait.

        Raises `TooFewFragments` when fewer than k good fragments came within the deadline, and
        what `use` raises. Cancellation leaves nothing behind but what `use` did.
        """
        with self._readers.work():
            await self._blocks(run, use, until)

    async def _blocks(self, run: Run, use: Use, until: float) -> None:
        if run.row.sid in self._staging and await self._from_staging(run, use):
            return
        race = _Race(run.row, self._candidates(run.row))
        with trio.move_on_at(min(until, self._patient_until(run.row.sid))):
            while True:
                await self._gather(run, race)
                if spare(run.row, race.found) < 0:
                    if not race.paused:
                        raise self._too_few(run, race, "at all")
                    await self._wake(race)
                elif await self._decode(run, race, use):
                    return
        self._late[run.row.sid] = trio.current_time()
        raise self._too_few(run, race, "in time")

    def _patient_until(self, sid: bytes) -> float:
        """How long a read may take. The kernel tries a page again whose read-ahead failed: the
        second wait must not be as long as the first, or the reader's deadline is missed."""
        now = trio.current_time()
        self._late = {
            late: since for late, since in self._late.items() if now - since < LATE_SECONDS
        }
        return now + SECOND_TRY_SECONDS if sid in self._late else self.deadline()

    async def _from_staging(self, run: Run, use: Use) -> bool:
        """False when it is not to be had there: a stripe that is full is given back at any time."""
        async with self._scratches.lent() as scratch:
            try:
                sealed = codec.load_staged(await in_thread(self._staging.read, run.row.sid))
                if sealed.sid != run.row.sid:
                    raise Damaged("the slot holds another stripe by now")
                each = codec.open_each(self._keys, sealed, run.first, run.count, scratch)
                blocks = await list_in_slices(each)
            except Damaged as error:
                logger.info("a stripe is read from the accounts, not from staging: %s", error)
                return False
            await use(blocks)
        return True

    def _candidates(self, row: StripeRow) -> list[Candidate]:
        """Who holds which fragment, best first; equals take turns, so that all n carry reads."""
        held = []
        for index, place in enumerate(row.places):
            account = self._accounts.get(place)
            if account is not None:
                name = self._keys.fragment_name(row.epoch, row.sid, index, account.id)
                held.append((index, account, name))
        self._turn += 1
        turn = self._turn % max(1, len(held))
        held = held[turn:] + held[:turn]
        ranked = sorted(held, key=lambda one: round(2 * math.log2(one[1].cost())))
        if ranked and self._turn % EXPLORE_EVERY == 0:  # the worst may have become better
            ranked.insert(0, ranked.pop())
        return ranked

    async def _gather(self, run: Run, race: _Race) -> None:
        """Ask until those who answered are enough, or nobody is left to ask."""
        send, receive = trio.open_memory_channel[Answer](len(run.row.places))
        async with trio.open_nursery() as nursery:
            while spare(run.row, race.found) < 0 and (race.asked or race.next()):
                if race.lacks() and race.paused and not race.next():
                    await self._wake(race)
                while race.lacks() and (candidate := race.next()) is not None:
                    race.waiting.remove(candidate)
                    race.asked[candidate[0]] = trio.current_time()
                    nursery.start_soon(self._ask, run, race, candidate, send)
                answer = None
                with trio.move_on_at(race.patient_until(self._hedging.late_seconds)):
                    answer = await receive.receive()
                if answer is None:
                    self._lose_patience(race)
                else:
                    self._take(race, *answer)
            nursery.cancel_scope.cancel()
        while receive.statistics().current_buffer_used:
            self._take(race, *receive.receive_nowait())
        race.asked.clear()
        race.late.clear()

    def _lose_patience(self, race: _Race) -> None:
        """Ask others beside who is late, as far as hedges are left, and beside who is silent."""
        now, late_seconds = trio.current_time(), self._hedging.late_seconds
        for index, asked_at in race.asked.items():
            if index in race.late or now < race.due(index, late_seconds):
                continue
            if not race.has_substitute(index):
                continue
            silent = now >= asked_at + SILENT_SECONDS
            if silent or self._hedging.take():
                race.late.add(index)
            else:
                race.endured.add(index)

    @staticmethod
    async def _wake(race: _Race) -> None:
        """Accounts that were not asked, because they did not answer lately, are needed now."""
        for _, account, _ in race.paused:
            account.wake()
        race.waiting, race.paused = race.paused + race.waiting, []
        await trio.sleep(WAKE_SECONDS)  # another read may be trying one of them just now

    async def _ask(
        self, run: Run, race: _Race, candidate: Candidate, send: trio.MemorySendChannel[Answer]
    ) -> None:
        """Read the run from one account. Cancelled, the account can be asked again."""
        index, account, name = candidate
        account.in_flight += 1
        began = trio.current_time()
        self._hedging.asked()
        answer: bytes | StoreError
        try:
            answer = await account.store.get_range(name, run.start, run.length)
        except Paused as error:
            answer = error
        except NotFound as error:
            self._report(run.row, index, "lost")
            answer = error
        except StoreError as error:
            account.failed(error)
            answer = error
        except trio.Cancelled:
            race.waiting.append(candidate)
            account.was_late(trio.current_time() - began)
            raise
        else:
            elapsed = trio.current_time() - began
            account.answered(elapsed)
            self._hedging.answered(elapsed)
        finally:
            account.in_flight -= 1
        send.send_nowait((candidate, answer))

    @staticmethod
    def _take(race: _Race, candidate: Candidate, answer: bytes | StoreError) -> None:
        index = candidate[0]
        del race.asked[index]
        race.late.discard(index)
        if isinstance(answer, Paused):  # its failures are told when it is asked
            race.paused.append(candidate)
        elif isinstance(answer, Exception):
            race.failures.append(answer)
        else:
            race.found[index] = answer

    async def _decode(self, run: Run, race: _Race, use: Use) -> bool:
        """False when a fragment was bad: it is then out of the race."""
        async with self._scratches.lent() as scratch:
            each = decode.decode_each(
                self._keys, run.row, run.kind, run.first, run.count, race.found, scratch
            )
            try:
                blocks = await list_in_slices(each)
            except decode.DamagedFragment as error:
                race.found.pop(error.index)
                race.failures.append(error)
                self._report(run.row, error.index, "damaged")
                return False
            await use(blocks)
        return True

    def _report(self, row: StripeRow, index: int, what: str) -> None:
        account = self._accounts.get(row.places[index])
        logger.warning(
            "account %s %s fragment %d of stripe %s; others serve the read",
            account.name if account else "?",
            what,
            index,
            row.sid.hex(),
        )
        self._on_damage(row.sid, index)

    def _too_few(self, run: Run, race: _Race, when: str) -> AggfsError:
        failures: Sequence[Exception] = race.failures
        said = "; ".join(sorted({str(error) for error in failures})) or "no answer"
        came = len(decode.chosen(run.row, race.found))
        text = f"{came} of {run.row.k} fragments came {when}: {said}"
        return TooFewFragments(text, tuple(failures))
