"""The lines that benchmarks put before a service: what they count, and what they survive."""

import http.server
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.support.servers import HOST
from tests.support.shaping import Distance, far_away

NEAR = Distance(rtt_seconds=0.0, bytes_per_second=1e9)


class Service(http.server.BaseHTTPRequestHandler):
    """Answers everything with a hundred bytes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(bytes(100))

    def log_message(self, *words: object) -> None:
        """Says nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with http.server.ThreadingHTTPServer((HOST, 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()
        thread.join()


def get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310 - on loopback
        return len(answer.read())


def test_each_way_counts_its_own_requests_and_bytes(endpoint: str):
    with far_away(endpoint, 2, NEAR) as ways:
        assert [get(ways[1]), get(ways[1])] == [100, 100]
        unused, used = ways.traffic()
    assert (unused.requests, unused.received_bytes) == (0, 0)
    assert used.requests == 2
    assert used.received_bytes >= 200
    assert used.sent_bytes


def test_a_way_that_is_cut_leads_nowhere_and_the_others_do(endpoint: str):
    with far_away(endpoint, 2, NEAR) as ways:
        ways.cut(0)
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(ways[0])
        assert get(ways[1]) == 100


def test_the_ways_are_there_still_after_a_time_without_a_service(endpoint: str):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    with far_away(f"http://{HOST}:{port}", 1, NEAR) as ways:
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            get(ways[0])
        with http.server.ThreadingHTTPServer((HOST, port), Service) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            assert get(ways[0]) == 100
            server.shutdown()
            thread.join()
