"""What may still come to an account: puts that are under way, and puts that were given up.

A put that was begun cannot be called back. Where no answer came, or nobody waits for it any more,
it may be done all the same a while later: by a thread that is left alone, a proxy, the provider.
What is deleted before that comes back, and no row knows it. So who deletes a fragment for good
asks here first. Of the puts of a former run nothing is known but when they are over.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

LATE_SECONDS = 120.0  # a put that was given up may still arrive for so long


class Arrivals:
    """Those of one account. On the loop."""

    def __init__(self) -> None:
        self.late_seconds = LATE_SECONDS
        self._under_way: Counter[str] = Counter()
        self._given_up: dict[str, float] = {}  # object -> when, the oldest first
        self._first_asked: float | None = None

    @contextmanager
    def put(self, key: str) -> Iterator[None]:
        """A put of this object is under way while the block runs; an error gives it up."""
        self._under_way[key] += 1
        try:
            yield
        except BaseException:
            self._forget_old()
            self._given_up.pop(key, None)
            self._given_up[key] = trio.current_time()
            raise
        finally:
            self._under_way[key] -= 1
            if not self._under_way[key]:
                del self._under_way[key]

    def _forget_old(self) -> None:
        now = trio.current_time()
        while self._given_up:
            key, when = next(iter(self._given_up.items()))
            if now - when < self.late_seconds:
                return
            del self._given_up[key]

    def may_come(self, key: str) -> bool:
        """Whether a put of this object, begun by this run, may still arrive."""
        when = self._given_up.get(key)
        late = when is not None and trio.current_time() - when < self.late_seconds
        return late or key in self._under_way

    def former_may_come(self) -> bool:
        """Whether puts that a former run has begun may still arrive: so it is for a while from
        the first question on."""
        if self._first_asked is None:
            self._first_asked = trio.current_time()
        return trio.current_time() - self._first_asked < self.late_seconds
