"""Bringing blocks in: k range reads of cells, checked, decoded, opened.

All accounts that hold a fragment are ranked by what the next read costs there; the best k are
asked. When one fails, or is later than the hedge delay, the next is asked as well; the first k
good answers win and the rest are cancelled. A cell whose MAC is wrong names its account, counts
as a failure, and is never used.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from aggfs.cache.staging import Staging
from aggfs.coding import codec
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.accounts import Account, Accounts
from aggfs.errors import AggfsError, Paused, StoreError, TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.formats.record import Buffer
from aggfs.model import StripeRow

DEADLINE_SECONDS = 25.0
HEDGE_SECONDS = 0.25
WAKE_SECONDS = 0.1
WORKERS = 4
logger = logging.getLogger(__name__)

Candidate = tuple[int, Account, str]  # fragment, who holds it, under which key
Answer = tuple[int, bytes | StoreError]


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
    """One run being gathered: who can still be asked, who was left alone, what came, what
    failed."""

    waiting: list[Candidate]
    paused: list[Candidate] = field(default_factory=list)
    found: dict[int, bytes] = field(default_factory=dict)
    failures: list[Exception] = field(default_factory=list)


class _ThreadScratch(threading.local):
    """Memory of each worker thread, used again for every run."""

    def __init__(self) -> None:
        self.mine = codec.Scratch()


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
    ) -> None:
        self._keys = keys
        self._accounts = accounts
        self._staging = staging
        self._on_damage = on_damage
        self._deadline_seconds = deadline_seconds
        self._turn = 0
        self._workers = trio.CapacityLimiter(WORKERS)
        self._scratch = _ThreadScratch()

    async def blocks(self, run: Run, use: Callable[[list[Buffer]], None]) -> None:
        """Hand the plaintext of a run of blocks, in order, to `use`: in the worker that decoded
        them; the buffers are valid until it returns.

        Raises `TooFewFragments` when fewer than k good fragments came within the deadline, and
        what `use` raises. Cancellation leaves nothing behind but what `use` did.
        """
        if run.row.sid in self._staging:
            await trio.to_thread.run_sync(self._from_staging, run, use, limiter=self._workers)
            return
        race = _Race(self._candidates(run.row))
        with trio.move_on_after(self._deadline_seconds):
            while True:
                await self._gather(run, race)
                if len(race.found) < run.row.k:
                    if not race.paused:
                        raise self._too_few(run, race, "at all")
                    await self._wake(race)
                elif await self._decode(run, race, use):
                    return
        raise self._too_few(run, race, "in time")

    def _from_staging(self, run: Run, use: Callable[[list[Buffer]], None]) -> None:
        sealed = codec.load_staged(self._staging.read(run.row.sid))
        use(codec.open_blocks(self._keys, sealed, run.first, run.count))

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
        return sorted(held, key=lambda one: round(one[1].cost(), 3))

    async def _gather(self, run: Run, race: _Race) -> None:
        """Ask until k answers are there, or nobody is left to ask."""
        k = run.row.k
        send, receive = trio.open_memory_channel[Answer](len(race.waiting))
        async with trio.open_nursery() as nursery:
            under_way = 0
            hedges = 0
            while len(race.found) < k and (under_way or race.waiting):
                while race.waiting and under_way + len(race.found) < k + hedges:
                    nursery.start_soon(self._ask, run, race, race.waiting.pop(0), send)
                    under_way += 1
                answer = None
                with trio.move_on_after(HEDGE_SECONDS if race.waiting else math.inf):
                    answer = await receive.receive()
                if answer is None:
                    hedges += 1
                else:
                    under_way -= 1
                    self._take(race, *answer)
            nursery.cancel_scope.cancel()

    @staticmethod
    async def _wake(race: _Race) -> None:
        """Accounts that were not asked, because they did not answer lately, are needed now."""
        race.waiting, race.paused = race.paused, []
        for _, account, _ in race.waiting:
            account.wake()
        await trio.sleep(WAKE_SECONDS)  # another read may be trying one of them just now

    async def _ask(
        self, run: Run, race: _Race, candidate: Candidate, send: trio.MemorySendChannel[Answer]
    ) -> None:
        """Read the run from one account. Cancelled, the account can be asked again."""
        index, account, name = candidate
        account.in_flight += 1
        began = trio.current_time()
        try:
            cells = await account.store.get_range(name, run.start, run.length)
        except Paused as error:
            race.paused.append(candidate)
            send.send_nowait((index, error))
        except StoreError as error:
            account.failed(error)
            send.send_nowait((index, error))
        except trio.Cancelled:
            race.waiting.append(candidate)
            raise
        else:
            account.answered(trio.current_time() - began)
            send.send_nowait((index, cells))
        finally:
            account.in_flight -= 1

    @staticmethod
    def _take(race: _Race, index: int, answer: bytes | StoreError) -> None:
        if isinstance(answer, Paused):
            return  # its failures are told when it is asked
        if isinstance(answer, Exception):
            race.failures.append(answer)
        else:
            race.found[index] = answer

    async def _decode(self, run: Run, race: _Race, use: Callable[[list[Buffer]], None]) -> bool:
        """False when a fragment was bad: it is then out of the race."""
        good = dict(race.found)
        try:
            await trio.to_thread.run_sync(
                self._decode_in_worker, run, good, use, limiter=self._workers
            )
        except codec.DamagedFragment as error:
            race.found.pop(error.index)
            race.failures.append(error)
            self._report(run.row, error.index)
            return False
        return True

    def _decode_in_worker(
        self, run: Run, found: Mapping[int, bytes], use: Callable[[list[Buffer]], None]
    ) -> None:
        scratch = self._scratch.mine
        use(
            codec.decode_stripe(self._keys, run.row, run.kind, run.first, run.count, found, scratch)
        )

    def _report(self, row: StripeRow, index: int) -> None:
        account = self._accounts.get(row.places[index])
        logger.warning(
            "account %s returned a damaged fragment %d of stripe %s; others served the read",
            account.name if account else "?",
            index,
            row.sid.hex(),
        )
        self._on_damage(row.sid, index)

    def _too_few(self, run: Run, race: _Race, when: str) -> AggfsError:
        failures: Sequence[Exception] = race.failures
        said = "; ".join(sorted({str(error) for error in failures})) or "no answer"
        text = f"{len(race.found)} of {run.row.k} fragments came {when}: {said}"
        return TooFewFragments(text, tuple(failures))
