"""Starting behind the command: it returns when the folder is ready, or says why it is not."""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from aggfs.daemon.mountpoint import mounted_at, prepare
from tests.support.mounting import TOP, needs_fuse

STARTER = """
import os, sys, time, trio
from aggfs.daemon.background import start
from aggfs.errors import AggfsError, WrongKey

def work(ready):
    what = sys.argv[2]
    if what == "wrong":
        raise ExceptionGroup("a nursery", [WrongKey("this passphrase opens no slot")])
    if what == "trap":
        raise KeyError("nobody foresaw this")
    if what == "die":
        os._exit(3)
    if what == "group":
        before = os.getpgrp(), os.getsid(0)
        ready()
        print(before == (int(sys.argv[3]), int(sys.argv[4])), os.getsid(0) == os.getpid())
        return
    if what == "slow":
        trio.run(trio.sleep_forever)
    if what == "serve":
        from aggfs.daemon.main import Service, serve
        from aggfs.mount.options import MountOptions
        from tests.support.memory_mount import TestedVolume
        service = Service(sys.argv[3], sys.argv[4], MountOptions())
        trio.run(serve, TestedVolume(), service, ready)
        return
    ready()

try:
    print(start(work, sys.argv[1], seconds=1 if sys.argv[2] == "slow" else 60))
except AggfsError as error:
    print(f"{type(error).__name__}: {error}")
"""


def start(log: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STARTER, str(log), *arguments],
        capture_output=True,
        text=True,
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(TOP)},
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_starter_returns_when_the_daemon_is_ready(tmp_path: Path):
    assert int(start(tmp_path / "log", "return")) > 1


def test_an_error_before_that_is_the_starters_error(tmp_path: Path):
    assert start(tmp_path / "log", "wrong") == "WrongKey: this passphrase opens no slot"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_an_unforeseen_error_is_one_line_there_and_a_traceback_in_the_log(tmp_path: Path):
    assert start(tmp_path / "log", "trap") == "AggfsError: KeyError: 'nobody foresaw this'"
    assert "Traceback" in (tmp_path / "log").read_text()


def test_a_daemon_that_dies_silently_is_noticed(tmp_path: Path):
    assert start(tmp_path / "log", "die").startswith("MountRefused: the daemon ended before")


def test_a_daemon_that_takes_too_long_is_ended(tmp_path: Path):
    assert start(tmp_path / "log", "slow").startswith("MountRefused: the folder was not ready")


def test_the_daemon_leaves_its_starters_group_when_it_is_ready_and_not_before(tmp_path: Path):
    pid = int(start(tmp_path / "log", "group", str(os.getpgrp()), str(os.getsid(0))))
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        assert select.select([descriptor], [], [], 60)[0], "the daemon did not end"
        os.close(descriptor)
    assert (tmp_path / "log").read_text() == "True True\n"


@needs_fuse
def test_the_folder_is_there_when_the_starter_returns(tmp_path: Path):
    (tmp_path / "mnt").mkdir()
    (tmp_path / "state").mkdir()
    pid = int(start(tmp_path / "log", "serve", str(tmp_path / "mnt"), str(tmp_path / "state")))
    descriptor = os.pidfd_open(pid)
    try:
        (tmp_path / "mnt" / "f").write_bytes(b"at once")
        assert (tmp_path / "mnt" / "f").read_bytes() == b"at once"
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        assert select.select([descriptor], [], [], 60)[0], "the daemon did not end"
        assert mounted_at(str(tmp_path / "mnt")) is None
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
        prepare(str(tmp_path / "mnt"))
