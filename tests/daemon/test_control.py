"""The control socket: what a command asks, the daemon answers, whoever misbehaves."""

import json
import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from aggfs.cli.client import NotRunning, WentAway, call
from aggfs.daemon.control import ControlServer
from aggfs.daemon.rendezvous import ADDRESS_BYTES, REQUEST_BYTES, socket_path
from aggfs.errors import AggfsError, Busy, Damaged, NoSpace


class Verbs:
    """Verbs that do what their names say; `cancelled` tells of one that was ended."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()

    async def __call__(self, verb, arguments, progress):
        match verb:
            case "echo":
                return arguments
            case "full":
                raise NoSpace("all accounts\nare full")
            case "group":
                raise ExceptionGroup("a nursery", [NoSpace("full")])
            case "trap":
                raise KeyError("nobody foresaw this")
            case "long":
                for step in range(3):
                    progress(f"step {step}")
                    await trio.testing.wait_all_tasks_blocked()
                return {"steps": 3}
            case "never":
                try:
                    await trio.sleep_forever()
                finally:
                    self.cancelled.set()
        return {}


@pytest.fixture
async def verbs() -> Verbs:
    return Verbs()


@pytest.fixture
async def path(tmp_path: Path, verbs: Verbs, nursery: trio.Nursery) -> str:
    path = socket_path(str(tmp_path))
    await nursery.start(ControlServer(verbs).serve, path)
    return path


async def ask(path: str, verb: str, /, **arguments):
    return await trio.to_thread.run_sync(lambda: call(path, verb, **arguments))


async def send(path: str, data: bytes) -> dict[str, object]:
    stream = await trio.open_unix_socket(path)
    async with stream:
        await stream.send_all(data)
        received = b""
        while not received.endswith(b"\n"):
            more = await stream.receive_some()
            if not more:
                break
            received += more
    return json.loads(received)


async def test_a_verb_gets_its_arguments_and_gives_its_result(path):
    arguments = {"path": "a\udcff", "list": [1, 2.5, None, {"deep": True}]}
    assert await ask(path, "echo", **arguments) == arguments


async def test_an_error_arrives_as_itself_in_one_line(path):
    with pytest.raises(NoSpace, match=r"^all accounts are full$"):
        await ask(path, "full")
    with pytest.raises(NoSpace, match=r"^full$"):
        await ask(path, "group")


async def test_an_unforeseen_error_ends_the_request_only(path, caplog):
    with pytest.raises(AggfsError, match="unexpected KeyError"):
        await ask(path, "trap")
    assert "unexpectedly" in caplog.text
    caplog.clear()
    assert await ask(path, "echo", a=1) == {"a": 1}


async def test_a_long_verb_tells_of_its_progress(path):
    heard = []
    assert await ask(path, "long", on_progress=heard.append) == {"steps": 3}
    assert heard == [f"step {step}" for step in range(len(heard))]
    assert heard


async def test_many_clients_are_answered_at_once(path):
    answers = []

    async def one(number: int) -> None:
        answers.append((await ask(path, "echo", number=number))["number"])

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    assert sorted(answers) == list(range(50))


async def test_a_verb_ends_when_its_client_goes_away(path, verbs):
    stream = await trio.open_unix_socket(path)
    await stream.send_all(b'{"verb": "never", "arguments": {}}\n')
    await trio.testing.wait_all_tasks_blocked()
    await stream.aclose()
    with trio.fail_after(10):
        await verbs.cancelled.wait()


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"verb": 1, "arguments": {}}\n',
        b'{"verb": "echo"}\n',
        b"\xff\xfe\n",
        b"[" * 5000 + b"\n",
        b'{"verb": "echo", "arguments": {"x": "' + b"x" * REQUEST_BYTES + b'"}}\n',
    ],
)
async def test_what_is_no_request_is_refused(path, request_line):
    reply = await send(path, request_line)
    assert reply["ok"] is False
    assert reply["error"] == "BadRequest"
    assert await ask(path, "echo", a=1) == {"a": 1}


async def test_a_client_that_says_nothing_is_sent_away(tmp_path, autojump_clock, nursery):
    path = socket_path(str(tmp_path))
    await nursery.start(ControlServer(Verbs()).serve, path)
    reply = await send(path, b'{"verb":')
    assert reply["error"] == "BadRequest"


async def test_only_its_user_may_open_the_socket(path):
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_the_socket_of_a_dead_daemon_is_replaced_and_removed_at_the_end(tmp_path):
    path = socket_path(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(ControlServer(Verbs()).serve, path)
        assert await ask(path, "echo", a=1) == {"a": 1}
        nursery.cancel_scope.cancel()
    assert not os.path.exists(path)


async def test_a_state_directory_may_have_a_long_path(tmp_path, nursery):
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    path = socket_path(str(directory))
    assert len(path) > ADDRESS_BYTES
    await nursery.start(ControlServer(Verbs()).serve, path)
    assert await ask(path, "echo", a=1) == {"a": 1}


def test_without_a_daemon_the_client_says_so(tmp_path):
    with pytest.raises(NotRunning):
        call(socket_path(str(tmp_path)), "status")
    with pytest.raises(NotRunning):
        call(socket_path(str(tmp_path / "absent")), "status")
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(socket_path(str(tmp_path)))
    with pytest.raises(NotRunning):
        call(socket_path(str(tmp_path)), "status")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", WentAway),
        (b"nonsense\n", Damaged),
        (b"[]\n", Damaged),
        (b'{"ok": false, "error": "os", "text": "x"}\n', AggfsError),
        (b'{"ok": false, "error": "Exception", "text": "x"}\n', AggfsError),
        (b'{"progress": ""}\n', Busy),
    ],
)
async def test_a_daemon_that_answers_nonsense_is_noticed(tmp_path, answer, kind, nursery):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path(str(tmp_path)))
    listener.listen()
    server = trio.SocketListener(trio.socket.from_stdlib_socket(listener))

    async def serve() -> None:
        async with await server.accept() as stream:
            await stream.receive_some()
            await stream.send_all(answer)
            if kind is Busy:
                await trio.sleep_forever()

    nursery.start_soon(serve)
    with pytest.raises(kind):
        await ask(socket_path(str(tmp_path)), "status", silence_seconds=0.2)
    await server.aclose()
    nursery.cancel_scope.cancel()
