"""A server on loopback made far away: each way to it has a round trip and a bandwidth of its own.

    with far_away(server.endpoint, 5, Distance(rtt_seconds=0.04, bytes_per_second=8e6)) as ways:
        ... ways[0] ... ways[4]: endpoints, each as if at another provider ...

Each way has an address of its own, 127.0.N.1, and all have one port, for clients that take a
pattern with a number in it. Bytes are delivered half a round trip after they were read; the
bandwidth, the same in both directions, is shared by all connections of a way. The relay is a
process of its own, so that it takes nothing from the program that measures. Scripts may import
this.
"""

import contextlib
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from tests.support.servers import HOST

TOP = Path(__file__).parent.parent.parent
CHUNK_BYTES = 64 * 1024
IN_FLIGHT_CHUNKS = 64


@dataclass(frozen=True, slots=True)
class Distance:
    """How far away a server is."""

    rtt_seconds: float
    bytes_per_second: float


@contextlib.contextmanager
def far_away(endpoint: str, count: int, distance: Distance) -> Iterator[list[str]]:
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
        yield [f"http://{address(number)}:{port}" for number in range(count)]
    finally:
        process.kill()
        process.communicate()


def address(number: int) -> str:
    """Where the way of that number listens."""
    return f"127.0.{number}.1"


class Pace:
    """A bandwidth that several connections share."""

    def __init__(self, bytes_per_second: float) -> None:
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def sent_at(self, size_bytes: int) -> float:
        """When the last of so many bytes leaves."""
        begin = max(self._free_at, trio.current_time())
        self._free_at = begin + size_bytes / self._bytes_per_second
        return self._free_at


async def relay(port: int, count: int, distance: Distance) -> None:
    """Listen on `count` addresses, print the port, and pass all on to `port` until killed."""
    own_port = 0
    async with trio.open_nursery() as nursery:
        for number in range(count):
            up, down = Pace(distance.bytes_per_second), Pace(distance.bytes_per_second)

            async def serve(client: trio.SocketStream, up: Pace = up, down: Pace = down) -> None:
                async with client, await trio.open_tcp_stream(HOST, port) as server:  # noqa: SIM117
                    async with trio.open_nursery() as both:
                        both.start_soon(_pass_on, client, server, up, distance)
                        both.start_soon(_pass_on, server, client, down, distance)

            listeners = await trio.open_tcp_listeners(own_port, host=address(number))
            own_port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, serve, listeners)
        print(json.dumps(own_port), flush=True)


async def _pass_on(
    source: trio.SocketStream, sink: trio.SocketStream, pace: Pace, distance: Distance
) -> None:
    """One direction of one connection; what may be in flight is bounded."""
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
                await put.send((pace.sent_at(len(data)) + distance.rtt_seconds / 2, bytes(data)))


if __name__ == "__main__":
    trio.run(relay, int(sys.argv[1]), int(sys.argv[2]), Distance(*map(float, sys.argv[3:])))
