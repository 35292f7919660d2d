"""How far a long verb has come, told to whoever asked for it.

Who carries a verb out says `tell("3 of 40 stripes")` wherever he is; who called it listens. In
background jobs nobody listens, and nothing is said.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def tell(text: str) -> None:
    """Say how far it has come. Never waits."""
    listener = _listener.get()
    if listener is not None:
        listener(text)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """What is told within the block, and by the tasks that it starts, is told to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
