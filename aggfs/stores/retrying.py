"""Trying again, the only place where it is done: full jitter, Retry-After, a budget, a breaker.

An attempt that fails with `Unreachable` is made again after a random part of a growing delay, or
after what the provider asked for. Two things keep that from making a bad day worse:

- the **budget**: every call earns a fraction of a retry, every retry spends one. When most calls
  fail, retries stop being multiplied by all of them.
- the **breaker**: after some failures in a row, with no answer between them, calls fail at once
  for a while, with `Paused` (so that reads go to other accounts without waiting); then a single
  trial call is let through, and its fate decides whether all may go on or the pause gets longer.
  A caller who cannot do without the account may `wake` it, and need not wait for a trial that
  hangs.

Any answer counts as life, a refusal too. An attempt that was cancelled counts as silence only if
it had lasted long: losers of a race between accounts are cancelled all the time.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import trio

from aggfs.errors import AlreadyThere, NotFound, Paused, StoreError, Unreachable
from aggfs.stores.base import Buffer, Capabilities, ObjectInfo, Page, Space, Store

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a `RetryingStore` is. An attempt without an answer for `attempt_seconds` ends
    as `Unreachable`; a cancelled one that lasted `silence_seconds` counts for the breaker."""

    attempts: int = 4
    first_delay_seconds: float = 0.25
    longest_delay_seconds: float = 20.0
    attempt_seconds: float = 60.0
    silence_seconds: float = 10.0
    budget: float = 20.0
    earned_per_call: float = 0.2
    breaker_failures: int = 5
    pause_seconds: float = 2.0
    longest_pause_seconds: float = 60.0


class Breaker:
    """Whether calls may go out at all. Pure: told the time, and what became of attempts."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0  # in a row
        self._pauses = 0  # in a row
        self._paused_until: float | None = None
        self._trial_is_out = False
        self._trial_began = 0.0

    def wait_seconds(self, now: float) -> float:
        """0: a call may go out. Otherwise how long to leave the account alone."""
        if self._paused_until is None:
            return 0.0
        least = self._policy.pause_seconds if self._trial_is_out else 0.0
        return max(self._paused_until - now, least)

    def wake(self, now: float) -> None:
        """The pause ends: the account is needed. A trial that just went out decides first."""
        if self._paused_until is not None:
            self._paused_until = min(self._paused_until, now)
        if now - self._trial_began >= self._policy.pause_seconds:
            self._trial_is_out = False

    def going_out(self, now: float) -> bool:
        """An attempt that `wait_seconds` allowed is made now. True: it is a trial; hand that to
        the method that tells its end."""
        self._trial_is_out = self._paused_until is not None
        self._trial_began = now
        return self._trial_is_out

    def answered(self) -> None:
        """The account is alive."""
        self._failures = self._pauses = 0
        self._paused_until = None
        self._trial_is_out = False

    def failed(self, now: float, asked_seconds: float, share: float, *, trial: bool) -> None:
        """No answer. `share` is random in 0..1: pauses of many clients should not end together."""
        self._failures += 1
        if trial:
            self._trial_is_out = False
        elif self._paused_until is not None or self._failures < self._policy.breaker_failures:
            return  # went out before the pause began, or one of few
        pause = min(
            self._policy.longest_pause_seconds, self._policy.pause_seconds * 2.0**self._pauses
        )
        self._pauses = min(self._pauses + 1, 30)
        self._paused_until = now + max(asked_seconds, pause * (1 + share) / 2)

    def given_up(self, *, trial: bool) -> None:
        """The attempt was cancelled early: it tells nothing."""
        if trial:
            self._trial_is_out = False


class RetryingStore:
    """A store whose passing faults are tried again. Cancellable everywhere, as the store within.

    `random` gives numbers in 0..1, `clock` seconds that only grow (`trio.current_time`): with a
    seeded one and trio's mock clock all waits are the same each time.
    """

    def __init__(
        self,
        store: Store,
        *,
        random: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._store = store
        self._random = random
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._breaker = Breaker(self._policy)
        self._saved = self._policy.budget
        self.retries = 0

    @property
    def capabilities(self) -> Capabilities:
        return self._store.capabilities

    @property
    def place(self) -> str:
        return self._store.place

    @property
    def pause_seconds(self) -> float:
        """How long calls will still fail at once; 0 when the account is asked as usual."""
        return self._breaker.wait_seconds(self._clock())

    def wake(self) -> None:
        """Let the next call out as a trial, however long the account was to be left alone."""
        self._breaker.wake(self._clock())

    async def put(self, key: str, pieces: Sequence[Buffer]) -> None:
        await self._persist(lambda: self._store.put(key, pieces))

    async def create(self, key: str, pieces: Sequence[Buffer]) -> None:
        """As the store's. What an attempt without an answer had stored is known again as ours."""
        unsure = False

        async def attempt() -> None:
            nonlocal unsure
            try:
                await self._store.create(key, pieces)
            except Unreachable:
                unsure = True
                raise
            except AlreadyThere:
                if not unsure or not await self._holds(key, pieces):
                    raise

        await self._persist(attempt)

    async def get(self, key: str) -> bytes:
        return await self._persist(lambda: self._store.get(key))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        return await self._persist(lambda: self._store.get_range(key, start, length))

    async def head(self, key: str) -> ObjectInfo:
        return await self._persist(lambda: self._store.head(key))

    async def list_page(self, prefix: str, after: str) -> Page:
        return await self._persist(lambda: self._store.list_page(prefix, after))

    async def delete(self, key: str) -> None:
        await self._persist(lambda: self._store.delete(key))

    async def space(self) -> Space | None:
        return await self._persist(self._store.space)

    async def prepare(self) -> None:
        await self._store.prepare()

    async def aclose(self) -> None:
        await self._store.aclose()

    async def _persist(self, job: Callable[[], Awaitable[Result]]) -> Result:
        self._saved = min(self._policy.budget, self._saved + self._policy.earned_per_call)
        attempt = 1
        while True:
            try:
                return await self._attempt(job)
            except Unreachable as error:
                delay = self._delay_seconds(attempt, error.retry_after_seconds or 0.0)
                if delay is None:
                    raise
            await trio.sleep(delay)
            attempt += 1
            self.retries += 1

    async def _attempt(self, job: Callable[[], Awaitable[Result]]) -> Result:
        began = self._clock()
        wait = self._breaker.wait_seconds(began)
        if wait > 0:
            raise Paused(
                f"{self.place}: did not answer lately, is asked again in {wait:.1f} s",
                retry_after_seconds=wait,
            )
        trial = self._breaker.going_out(began)
        try:
            with trio.move_on_after(self._policy.attempt_seconds) as scope:
                result = await job()
            if scope.cancelled_caught:
                text = f"{self.place}: no answer within {self._policy.attempt_seconds:g} s"
                raise Unreachable(text)
        except Unreachable as error:
            self._breaker.failed(
                self._clock(), error.retry_after_seconds or 0.0, self._random(), trial=trial
            )
            raise
        except StoreError:
            self._breaker.answered()
            raise
        except BaseException:
            self._interrupted(began, trial=trial)
            raise
        self._breaker.answered()
        return result

    def _interrupted(self, began: float, *, trial: bool) -> None:
        now = self._clock()
        if now - began >= self._policy.silence_seconds:
            self._breaker.failed(now, 0.0, self._random(), trial=trial)
        else:
            self._breaker.given_up(trial=trial)

    def _delay_seconds(self, attempt: int, asked_seconds: float) -> float | None:
        """How long to wait before the next attempt; None: enough."""
        policy = self._policy
        if attempt >= policy.attempts or asked_seconds > policy.longest_delay_seconds:
            return None
        if self._saved < 1 or self._breaker.wait_seconds(self._clock()) > 0:
            return None
        self._saved -= 1
        longest = min(
            policy.longest_delay_seconds, policy.first_delay_seconds * 2.0 ** (attempt - 1)
        )
        return asked_seconds + self._random() * longest

    async def _holds(self, key: str, pieces: Sequence[Buffer]) -> bool:
        try:
            return await self._store.get(key) == b"".join(pieces)
        except NotFound:
            return False
