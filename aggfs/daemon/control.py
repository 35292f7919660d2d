"""The daemon's end of the control socket.

A connection carries one request and its answer, as lines of JSON:

    -> {"verb": "status", "arguments": {}}
    <- {"progress": "3 of 40 stripes stored"}          any number of these
    <- {"ok": true, "result": {...}}                   or
    <- {"ok": false, "error": "NoSpace", "text": "..."}

A request is bounded in size and in time; a verb ends when its client goes away. Only the user who
runs the daemon, and root, may connect.
"""

import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from aggfs.daemon.background import first_of_ours
from aggfs.daemon.rendezvous import REPLY_BYTES, REQUEST_BYTES, address_of
from aggfs.errors import AggfsError
from aggfs.mount.errors import leaves

log = logging.getLogger(__name__)

REQUEST_SECONDS = 10
SEND_SECONDS = 30
ALIVE_SECONDS = 5  # a verb that says nothing is said to be alive this often
BACKLOG = 128

Progress = Callable[[str], None]
Verb = Callable[[str, dict[str, object], Progress], Awaitable[dict[str, object]]]


class BadRequest(AggfsError):
    """The request is no request of this protocol."""


def listen(path: str) -> trio.SocketListener:
    """The socket at `path`, mode 0600; one left by a daemon that died is replaced.

    The caller holds the volume's lock, so no other daemon can be listening there.
    """
    with suppress(FileNotFoundError):
        os.unlink(path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with address_of(path) as address:
        bound.bind(address)
        os.chmod(address, 0o600)
    bound.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(bound))


class ControlServer:
    """Answers requests by calling `verb(name, arguments, progress)`.

    `verb` is cancelled when its client goes away.
    """

    def __init__(self, verb: Verb) -> None:
        self._verb = verb
        self._clients = 0
        self._client_left = trio.Event()

    async def idle(self) -> None:
        """Until every client that came has its answer."""
        while self._clients:
            self._client_left = trio.Event()
            await self._client_left.wait()

    async def serve(
        self, path: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Listen at `path` until cancelled; then the socket is gone."""
        listener = listen(path)
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                await trio.serve_listeners(self._serve_client, [listener], handler_nursery=nursery)
        finally:
            os.unlink(path)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                if _is_allowed(stream):
                    await self._answer(stream)
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # gone, or as good as gone
        finally:
            self._clients -= 1
            self._client_left.set()

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            reply = await self._reply_to(stream)
        except trio.BrokenResourceError:
            raise
        except Exception as error:  # a verb's fault is its asker's: it must not end the mount
            found = first_of_ours(error)
            if found is None:
                log.exception("a control verb failed unexpectedly")
            reply = _failure(found or next(leaves(error)))
        await _send(stream, reply)

    async def _reply_to(self, stream: trio.SocketStream) -> dict[str, object]:
        """The answer; raises BrokenResourceError when the client went away meanwhile."""
        verb, arguments = await _receive_request(stream)
        result: dict[str, object] | None = None
        send, receive = trio.open_memory_channel[str](1)

        def progress(text: str) -> None:
            with suppress(trio.WouldBlock):  # the client reads slowly: a later one will do
                send.send_nowait(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_progress, stream, receive)
            nursery.start_soon(_cancel_when_gone, stream, nursery.cancel_scope)
            result = await self._verb(verb, arguments, progress)
            nursery.cancel_scope.cancel()
        if result is None:
            raise trio.BrokenResourceError
        return {"ok": True, "result": result}


async def _receive_request(stream: trio.SocketStream) -> tuple[str, dict[str, object]]:
    received = bytearray()
    with trio.move_on_after(REQUEST_SECONDS):
        while not received.endswith(b"\n"):
            data = await stream.receive_some()
            received += data
            if not data or len(received) > REQUEST_BYTES:
                break
    if not received.endswith(b"\n") or len(received) > REQUEST_BYTES:
        raise BadRequest(f"a request is one line of at most {REQUEST_BYTES} bytes")
    try:
        request = json.loads(received)
    except (ValueError, RecursionError):
        raise BadRequest("a request is one line of JSON") from None
    match request:
        case {"verb": str(verb), "arguments": dict(arguments)}:
            return verb, arguments
        case _:
            raise BadRequest("a request has a verb and arguments")


async def _send_progress(stream: trio.SocketStream, texts: trio.MemoryReceiveChannel[str]) -> None:
    while True:
        text = ""
        with trio.move_on_after(ALIVE_SECONDS):
            text = await texts.receive()
        try:
            await _send(stream, {"progress": text})
        except (trio.BrokenResourceError, trio.TooSlowError):
            return  # _cancel_when_gone sees it too


async def _cancel_when_gone(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    """Clients send nothing after the request: anything that can be read is the end."""
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some(REQUEST_BYTES):
            pass
    scope.cancel()


async def _send(stream: trio.SocketStream, message: dict[str, object]) -> None:
    line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
    if len(line) > REPLY_BYTES:
        line = json.dumps(_failure(BadRequest("the answer is too long"))).encode() + b"\n"
    with trio.fail_after(SEND_SECONDS):
        await stream.send_all(line)


def _failure(error: BaseException) -> dict[str, object]:
    if isinstance(error, AggfsError):
        name, text = type(error).__name__, str(error)
    else:
        name, text = "AggfsError", f"unexpected {type(error).__name__}: {error}"
    return {"ok": False, "error": name, "text": " ".join(text.split())}


def _is_allowed(stream: trio.SocketStream) -> bool:
    credentials = stream.socket.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    _pid, uid, _gid = struct.unpack("3i", credentials)
    return uid in (os.geteuid(), 0)
