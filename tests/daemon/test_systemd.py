"""What systemd is told, heard at a real socket."""

import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from aggfs.daemon.herald import PATIENCE_SECONDS, STOP_SECONDS, Herald, in_words
from aggfs.daemon.systemd import NOBODY, ServiceManager
from aggfs.errors import Unreachable

ALL_THERE = "everything is in the accounts"


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every message that has come."""
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(str(tmp_path / "notify"))
    yield made
    made.socket.close()


@pytest.fixture
def told(tmp_path: Path) -> ServiceManager:
    return ServiceManager(str(tmp_path / "notify"), 3.0)


class Answers:
    """A volume's `status`."""

    def __init__(self, **answer: object) -> None:
        self.answer = answer
        self.error: Exception | None = None
        self.asked = 0

    async def __call__(self) -> dict[str, object]:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self.answer


async def hear(manager: Manager, seconds: float) -> list[str]:
    """Everything that comes in so long: a socket's queue is short."""
    found = []
    for _ in range(int(seconds)):
        await trio.sleep(1)
        found += manager.heard()
    return found


def test_each_word_is_what_systemd_knows(manager: Manager, told: ServiceManager):
    told.ready("all is well")
    told.alive()
    told.status("two\nlines")
    told.have_patience(1.5)
    told.stopping("bye")
    assert manager.heard() == [
        "READY=1\nSTATUS=all is well",
        "WATCHDOG=1",
        "STATUS=two lines",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1\nSTATUS=bye",
    ]


def test_an_abstract_address_begins_with_an_at_sign():
    name = f"aggfs-test-{os.getpid()}"
    heard = Manager(f"\0{name}")
    ServiceManager(f"@{name}").alive()
    assert heard.heard() == ["WATCHDOG=1"]
    heard.socket.close()


def test_nobody_needs_to_listen(tmp_path: Path):
    NOBODY.alive()
    ServiceManager(str(tmp_path / "absent")).alive()


def test_a_manager_that_does_not_read_makes_nobody_wait(manager: Manager, told: ServiceManager):
    for _ in range(1000):
        told.alive()
    assert 0 < len(manager.heard()) < 1000


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, math.inf),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, math.inf),
        ({"WATCHDOG_USEC": "0"}, math.inf),
        ({"WATCHDOG_USEC": "soon"}, math.inf),
    ],
)
def test_the_watchdog_is_as_the_environment_says(variables: dict[str, str], seconds: float):
    found = ServiceManager.named_in({"NOTIFY_SOCKET": "/a", **variables})
    assert found == ServiceManager("/a", seconds)
    assert ServiceManager.named_in({}) == NOBODY


async def test_the_loop_says_that_it_turns_oftener_than_the_watchdog_wants(
    manager: Manager, told: ServiceManager, nursery: trio.Nursery, autojump_clock
):
    nursery.start_soon(Herald(told, Answers()).run)
    for _ in range(30):
        await trio.sleep(1.01)
        assert manager.heard()[0] == "WATCHDOG=1"


async def test_a_manager_that_is_behind_is_told_again_that_the_folder_answers(
    manager: Manager, told: ServiceManager, nursery: trio.Nursery
):
    while told.ready("the queue fills"):
        pass
    ready = trio.Event()

    async def tell() -> None:
        await Herald(told, Answers()).ready()
        ready.set()

    nursery.start_soon(tell)
    await trio.testing.wait_all_tasks_blocked()
    assert not ready.is_set()
    manager.heard()
    await ready.wait()
    assert manager.heard() == [f"READY=1\nSTATUS={ALL_THERE}"]


async def test_what_waits_is_told_when_it_changes(
    manager: Manager, told: ServiceManager, nursery: trio.Nursery, autojump_clock
):
    answers = Answers(staged_bytes=3 << 20)
    herald = Herald(told, answers)
    herald.opening()
    nursery.start_soon(herald.run)
    heard = await hear(manager, 10)
    assert answers.asked == 0
    await herald.ready()
    heard += await hear(manager, 10)
    answers.answer = {}
    heard += await hear(manager, 10)
    assert [message for message in heard if message != "WATCHDOG=1"] == [
        "STATUS=opening the volume",
        "READY=1\nSTATUS=3.0 MiB wait to be uploaded",
        f"STATUS={ALL_THERE}",
    ]


async def test_a_stop_asks_for_patience_while_it_gets_on_but_not_for_ever(
    manager: Manager, told: ServiceManager, nursery: trio.Nursery, autojump_clock
):
    answers = Answers(dirty_bytes=1 << 20)
    herald = Herald(told, answers)
    nursery.start_soon(herald.run)
    await herald.ready()
    await trio.sleep(5)
    assert not [message for message in manager.heard() if message.startswith("EXTEND")]
    await herald.stopping(60)
    assert manager.heard()[-2:] == [
        "STOPPING=1\nSTATUS=stopping: 1.0 MiB wait to be uploaded",
        f"EXTEND_TIMEOUT_USEC={int(PATIENCE_SECONDS * 1e6)}",
    ]
    heard = await hear(manager, 60)
    assert [message for message in heard if message.startswith("EXTEND")]
    words = await herald.settling()
    asked = answers.asked
    await hear(manager, STOP_SECONDS)
    assert answers.asked == asked, "a volume that closes is not asked"
    assert set(await hear(manager, 60)) == {"WATCHDOG=1"}
    herald.ended(words)
    assert manager.heard() == ["STATUS=stopped: 1.0 MiB wait to be uploaded"]


async def test_a_status_that_fails_ends_nothing(
    manager: Manager, told: ServiceManager, nursery: trio.Nursery, autojump_clock, caplog
):
    answers = Answers()
    herald = Herald(told, answers)
    nursery.start_soon(herald.run)
    await herald.ready()
    answers.error = Unreachable("no answer")
    await trio.sleep(2)
    answers.error = KeyError("nobody foresaw this")
    await trio.sleep(2)
    answers.error = None
    await trio.sleep(2)
    words = [message for message in manager.heard() if message.startswith("STATUS")]
    assert words == [
        "STATUS=no answer",
        "STATUS=what waits is not known",
        f"STATUS={ALL_THERE}",
    ]
    assert "unexpectedly" in caplog.text
    caplog.clear()


async def test_where_nobody_listens_nothing_is_asked():
    answers = Answers()
    herald = Herald(NOBODY, answers)
    await herald.run()
    await herald.ready()
    await herald.stopping(60)
    await herald.settling()
    assert answers.asked == 0


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({}, ALL_THERE),
        ({"staged_bytes": 1 << 20, "dirty_bytes": 1 << 19}, "1.5 MiB wait to be uploaded"),
        ({"staged_bytes": 1000}, "1.0 KiB wait to be uploaded"),
        ({"outbox_entries": 2}, "changed names wait to be uploaded"),
        ({"segments_pending": 1}, "changed names wait to be uploaded"),
        ({"read_only": True}, f"READ-ONLY; {ALL_THERE}"),
        (
            {"accounts": [{"name": "a", "healthy": True}, {"name": "b", "healthy": False}]},
            f"{ALL_THERE}; no answer from b",
        ),
    ],
)
def test_what_waits_is_one_line(answer: dict[str, object], words: str):
    assert in_words(answer) == words
