"""A server on loopback made far away: each way to it has a round trip and a bandwidth of its own.

    with far_away(server.endpoint, 5, Distance(rtt_seconds=0.04, bytes_per_second=8e6)) as ways:
        ... ways[0] ... ways[4]: endpoints, each as if at another provider ...

Each way has an address of its own, 127.0.N.1, and all have one port, for clients that take a
pattern with a number in it. Bytes are delivered half a round trip after they were read; the
bandwidth, the same in both directions, is shared by all connections of a way. The ways tell how
many requests and bytes went through each, and may be moved or cut while they are used. The relay is
a process of its own, so that it takes nothing from the program that measures. Scripts may import
this.
"""

import contextlib
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from tests.support.servers import HOST

TOP = Path(__file__).parent.parent.parent
CHUNK_BYTES = 64 * 1024
IN_FLIGHT_CHUNKS = 64
INTERIM = b"HTTP/1.1 100"  # go on: no answer to a request yet


@dataclass(frozen=True, slots=True)
class Distance:
    """How far away a server is."""

    rtt_seconds: float
    bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through a way so far."""

    requests: int
    sent_bytes: int
    received_bytes: int


class Ways(list[str]):
    """Endpoints, each with a line of its own."""

    def __init__(self, endpoints: Sequence[str], relay: subprocess.Popen[bytes]) -> None:
        super().__init__(endpoints)
        self._relay = relay

    def traffic(self) -> list[Traffic]:
        """Of each way since it is there."""
        return self._ask(None)

    def move(self, number: int, distance: Distance) -> None:
        """Another distance for one way, from now on."""
        self._ask([number, distance.rtt_seconds, distance.bytes_per_second])

    def cut(self, number: int) -> None:
        """One way leads nowhere any more: its connections end, and new ones at once."""
        self._ask([number])

    def _ask(self, question: list[float] | None) -> list[Traffic]:
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        self._relay.stdin.write(json.dumps(question).encode() + b"\n")
        self._relay.stdin.flush()
        return [Traffic(*each) for each in json.loads(self._relay.stdout.readline())]


@contextlib.contextmanager
def far_away(endpoint: str, count: int, distance: Distance) -> Iterator[Ways]:
    """So many ways to one server, as endpoints of their own; gone with the block."""
    port = urllib.parse.urlsplit(endpoint).port
    far = [str(distance.rtt_seconds), str(distance.bytes_per_second)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.shaping", str(port), str(count), *far],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    )
    try:
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())
        yield Ways([f"http://{address(number)}:{port}" for number in range(count)], process)
    finally:
        process.kill()
        process.communicate()


def address(number: int) -> str:
    """Where the way of that number listens."""
    return f"127.0.{number}.1"


class Pace:
    """A bandwidth that several connections share."""

    def __init__(self, bytes_per_second: float) -> None:
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def sent_at(self, size_bytes: int) -> float:
        """When the last of so many bytes leaves."""
        begin = max(self._free_at, trio.current_time())
        self._free_at = begin + size_bytes / self.bytes_per_second
        return self._free_at


class Line:
    """One way: its distance, and what went through it."""

    def __init__(self, distance: Distance) -> None:
        self.rtt_seconds = distance.rtt_seconds
        self.up, self.down = Pace(distance.bytes_per_second), Pace(distance.bytes_per_second)
        self.requests = self.sent_bytes = self.received_bytes = 0
        self._connections: set[trio.CancelScope] = set()
        self._is_cut = False

    def move(self, rtt_seconds: float, bytes_per_second: float) -> None:
        self.rtt_seconds = rtt_seconds
        self.up.bytes_per_second = self.down.bytes_per_second = bytes_per_second

    def cut(self) -> None:
        self._is_cut = True
        for connection in self._connections:
            connection.cancel()

    async def serve(self, port: int, client: trio.SocketStream) -> None:
        """One connection, until it ends."""
        async with client:
            if self._is_cut:
                return
            with trio.CancelScope() as scope:
                self._connections.add(scope)
                try:
                    async with await trio.open_tcp_stream(HOST, port) as server:
                        await Connection(self).pass_on_both_ways(client, server)
                except OSError:  # nobody listens there now: this connection ends, and no other
                    return
                finally:
                    self._connections.discard(scope)


class Connection:
    """Counts its requests: each begins with what the client sends after an answer."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._answered = True

    async def pass_on_both_ways(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async with trio.open_nursery() as both:
            both.start_soon(self._pass_on, client, server, self._line.up, self._sent)
            both.start_soon(self._pass_on, server, client, self._line.down, self._received)

    def _sent(self, data: bytes) -> None:
        self._line.sent_bytes += len(data)
        self._line.requests += self._answered
        self._answered = False

    def _received(self, data: bytes) -> None:
        self._line.received_bytes += len(data)
        self._answered = not data.startswith(INTERIM)

    async def _pass_on(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        pace: Pace,
        count: Callable[[bytes], None],
    ) -> None:
        """One direction; what may be in flight is bounded."""
        put, taken = trio.open_memory_channel[tuple[float, bytes]](IN_FLIGHT_CHUNKS)

        async def deliver() -> None:
            async for arrives_at, data in taken:
                await trio.sleep_until(arrives_at)
                with contextlib.suppress(trio.BrokenResourceError):
                    await sink.send_all(data)
            with contextlib.suppress(trio.BrokenResourceError):
                await sink.send_eof()

        async with trio.open_nursery() as nursery, put:
            nursery.start_soon(deliver)
            with contextlib.suppress(trio.BrokenResourceError):
                while data := await source.receive_some(CHUNK_BYTES):
                    count(data)
                    arrives_at = pace.sent_at(len(data)) + self._line.rtt_seconds / 2
                    await put.send((arrives_at, bytes(data)))


async def relay(port: int, count: int, distance: Distance) -> None:
    """Listen on `count` addresses, print the port, and pass all on to `port` until killed."""
    own_port = 0
    lines = [Line(distance) for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for number, line in enumerate(lines):
            listeners = await trio.open_tcp_listeners(own_port, host=address(number))
            own_port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, partial(line.serve, port), listeners)
        print(json.dumps(own_port), flush=True)
        await answer(lines)


async def answer(lines: Sequence[Line]) -> None:
    """Obey and answer what `Ways` asks on standard input, a line each."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as questions:
        rest = b""
        while data := await questions.receive_some():
            *asked, rest = (rest + data).split(b"\n")
            for question in map(json.loads, asked):
                match question:
                    case [number]:
                        lines[number].cut()
                    case [number, rtt_seconds, bytes_per_second]:
                        lines[number].move(rtt_seconds, bytes_per_second)
                told = [(each.requests, each.sent_bytes, each.received_bytes) for each in lines]
                print(json.dumps(told), flush=True)


if __name__ == "__main__":
    trio.run(relay, int(sys.argv[1]), int(sys.argv[2]), Distance(*map(float, sys.argv[3:])))
