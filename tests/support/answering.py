"""A daemon without a volume: the real control socket, answering what a test wants."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from aggfs.daemon.control import ControlServer

Answers = Mapping[str, dict[str, Any] | Exception]


@contextmanager
def answering(socket_path: str, answers: Answers) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Serve the socket from a thread; gives the list of (verb, arguments) that were asked."""
    asked: list[tuple[str, dict[str, Any]]] = []
    started = threading.Event()
    scope = trio.CancelScope()
    tokens: list[trio.lowlevel.TrioToken] = []

    async def verb(name, arguments, progress):
        asked.append((name, arguments))
        progress("some of it is done")
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def serve() -> None:
        tokens.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(ControlServer(verb).serve, socket_path)
                started.set()

    Path(socket_path).parent.mkdir(parents=True, exist_ok=True)
    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert started.wait(30)
        yield asked
    finally:
        tokens[0].run_sync_soon(scope.cancel)
        thread.join()
