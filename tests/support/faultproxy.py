"""A provider that misbehaves: a proxy before a real S3 server, whose faults are set while it runs.

Requests pass as they are, signatures included; what a fault does is written beside its name. Each
proxy has one fault at a time, for every request that it can touch.
"""

import contextlib
import enum
import http.client
import http.server
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any, Self

from tests.support.servers import HOST

UPSTREAM_SECONDS = 60
HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade", "proxy-connection"}
FLIP = 0x20


class ProxyFault(enum.Enum):
    """What goes wrong."""

    NONE = "none"
    DOWN = "down"  # the connection is closed without an answer
    HANG = "hang"  # no answer, until the fault is another one
    SLOW = "slow"  # the answer comes late
    CORRUPT = "corrupt"  # one byte in every 512 of an object comes wrong
    QUOTA = "quota"  # no room for more than `quota_bytes` from now on
    SERVER_ERROR = "server error"  # a 500


class FaultProxy:
    """One provider. `fault` may be set at any time; `slow_seconds`, `quota_bytes` belong to it."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urllib.parse.urlsplit(upstream)
        self.slow_seconds = 2.0
        self.quota_bytes = 0
        self._fault = ProxyFault.NONE
        self._changed = threading.Event()
        self._server = _Server(self)

    @property
    def endpoint(self) -> str:
        """The URL of the service behind the faults."""
        return f"http://{HOST}:{self._server.server_address[1]}"

    @property
    def fault(self) -> ProxyFault:
        """What goes wrong now."""
        return self._fault

    @fault.setter
    def fault(self, fault: ProxyFault) -> None:
        self._fault = fault
        changed, self._changed = self._changed, threading.Event()
        changed.set()

    @contextlib.contextmanager
    def failing(self, fault: ProxyFault) -> Iterator[None]:
        """While the block runs, this goes wrong."""
        self.fault = fault
        try:
            yield
        finally:
            self.fault = ProxyFault.NONE

    def wait(self, seconds: float | None = None) -> None:
        """Until the fault is another one, or so long."""
        self._changed.wait(seconds)

    def takes(self, size_bytes: int) -> bool:
        """Whether there is room for so many bytes more."""
        if self._fault is ProxyFault.QUOTA:
            if size_bytes > self.quota_bytes:
                return False
            self.quota_bytes -= size_bytes
        return True

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.fault = ProxyFault.NONE
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy) -> None:
        super().__init__((HOST, 0), _Handler)
        self.proxy = proxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the play."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base's name
        """Nothing is logged."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        proxy = self.server.proxy
        fault = proxy.fault
        if fault is ProxyFault.HANG:
            proxy.wait()
        if fault in (ProxyFault.DOWN, ProxyFault.HANG):
            self.close_connection = True
            return
        if fault is ProxyFault.SLOW:
            proxy.wait(proxy.slow_seconds)
        if fault is ProxyFault.SERVER_ERROR:
            self._refuse(500, "InternalError")
        elif self.command == "PUT" and not proxy.takes(len(body)):
            self._refuse(403, "QuotaExceeded")
        else:
            self._pass(body, corrupt=fault is ProxyFault.CORRUPT)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve  # noqa: N815 - the base's names

    def _pass(self, body: bytes, *, corrupt: bool) -> None:
        upstream = self.server.proxy.upstream
        connection = http.client.HTTPConnection(
            str(upstream.hostname), upstream.port, timeout=UPSTREAM_SECONDS
        )
        with contextlib.closing(connection):
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            listing = "list-type" in self.path
            if corrupt and self.command == "GET" and answer.status < 300 and not listing:
                data = _spoilt(data)
            self._answer(answer.status, answer.getheaders(), data)

    def _refuse(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        self._answer(status, [("Content-Type", "application/xml")], text)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        known = {name.lower() for name, _ in headers}
        for name, value in headers:
            head = self.command == "HEAD" and name.lower() == "content-length"
            if name.lower() not in HOP | {"content-length"} or head:
                self.send_header(name, value)
        if self.command != "HEAD" or "content-length" not in known:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _spoilt(data: bytes) -> bytes:
    spoilt = bytearray(data)
    for at in range(100, len(spoilt), 512):
        spoilt[at] ^= FLIP
    return bytes(spoilt)
