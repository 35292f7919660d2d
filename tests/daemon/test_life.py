"""The life of a mount: started, asked to go, killed, and started again."""

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aggfs.cli.client import NotRunning
from aggfs.daemon import mountpoint
from aggfs.daemon.folder import _has_a_reader
from aggfs.daemon.mountpoint import mounted_at, prepare
from aggfs.errors import Busy, NoSpace
from tests.support.mounting import TOP, ServedFolder, needs_fuse, served

pytestmark = needs_fuse

MEMORY_MOUNT = "tests.support.memory_mount"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends_cleanly(folder: ServedFolder, number: int):
    (Path(folder.path) / "f").write_bytes(b"x")
    assert folder.stop(number) == 0
    assert mounted_at(folder.path) is None
    assert os.listdir(folder.path) == []
    assert os.listdir(folder.state_directory) == []


def test_a_signal_that_comes_twice_at_once_cuts_nobody_off(folder: ServedFolder):
    with open(Path(folder.path) / "f", "w") as file:
        for _ in range(3):
            folder.process.terminate()
        folder.wait_until_unmounted()
        file.write("x")
    assert folder.process.wait(60) == 0


def test_umount_from_outside_ends_the_daemon_cleanly(folder: ServedFolder):
    subprocess.run(["fusermount3", "-u", folder.path], check=True, timeout=60)
    assert folder.process.wait(60) == 0


def test_the_verb_unmount_is_refused_while_somebody_is_there(folder: ServedFolder):
    with open(Path(folder.path) / "f", "w"), pytest.raises(Busy, match="busy"):
        folder.ask("unmount")
    assert os.listdir(folder.path) == ["f"]
    folder.ask("unmount")
    assert folder.process.wait(60) == 0
    assert mounted_at(folder.path) is None


def test_the_verb_stop_unmounts_whoever_is_there(folder: ServedFolder):
    with open(Path(folder.path) / "f", "w") as file:
        folder.ask("stop")
        folder.wait_until_unmounted()
        file.write("written after the name was gone")
    assert folder.process.wait(60) == 0


def test_mapped_pages_are_written_back_before_the_end(folder: ServedFolder):
    script = (
        "import mmap, sys\n"
        "f = open(sys.argv[1], 'r+b')\n"
        "m = mmap.mmap(f.fileno(), 4096)\n"
        "m[0:5] = b'pages'\n"
        "print('mapped', flush=True)\n"
        "sys.stdin.read()\n"
    )
    path = Path(folder.path) / "f"
    path.write_bytes(bytes(4096))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as mapper:
        assert mapper.stdout is not None
        assert mapper.stdout.readline() == b"mapped\n"
        reader = os.open(path, os.O_RDONLY)
        folder.process.terminate()
        folder.wait_until_unmounted()
        assert os.pread(reader, 5, 0) == b"pages"
        os.close(reader)
        mapper.communicate(b"")
    assert folder.process.wait(60) == 0


def test_after_a_kill_the_dead_mount_is_cleared_by_the_next_start(tmp_path: Path):
    with served(MEMORY_MOUNT, tmp_path) as folder:
        folder.process.kill()
        folder.process.wait(60)
        with pytest.raises(OSError, match="not connected"):
            os.listdir(folder.path)
        assert prepare(folder.path) == folder.path
        assert mounted_at(folder.path) is None
        with served(MEMORY_MOUNT, tmp_path) as again:
            assert os.listdir(again.path) == []


def test_a_live_mount_is_not_mounted_over(folder: ServedFolder):
    with pytest.raises(Busy, match="mounted already"):
        prepare(folder.path)
    assert os.listdir(folder.path) == []


def test_the_control_socket_answers_while_the_folder_is_there(folder: ServedFolder):
    assert folder.ask("echo", a=[1]) == {"a": [1]}
    with pytest.raises(NoSpace, match="full"):
        folder.ask("full")
    assert folder.ask("kernel") == {"lookups": 0, "opened": 0, "faults": 0}
    assert folder.stop() == 0
    with pytest.raises(NotRunning):
        folder.ask("echo")


def test_a_verb_that_never_ends_does_not_keep_the_daemon(folder: ServedFolder):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(folder.socket)
        client.sendall(b'{"verb": "never", "arguments": {}}\n')
        assert folder.ask("echo") == {}
        assert folder.stop() == 0


def test_sequential_readers_are_read_ahead_of(folder: ServedFolder):
    mount = mounted_at(folder.path)
    assert mount is not None
    value = Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").read_text().strip()
    assert value == ("4096" if os.geteuid() == 0 else "128")


def test_systemd_hears_that_the_folder_is_ready_and_that_it_stops(tmp_path: Path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "300000",
        }
        heard: list[bytes] = []

        def hear_until(word: bytes) -> None:
            while not heard or word not in heard[-1]:
                heard.append(manager.recv(1000))

        with served(MEMORY_MOUNT, tmp_path, environment=environment) as folder:
            hear_until(b"READY=1")
            assert heard[0] == b"STATUS=opening the volume"
            hear_until(b"WATCHDOG=1")
            assert folder.stop() == 0
            hear_until(b"STOPPING=1")
            hear_until(b"EXTEND_TIMEOUT_USEC=")
            hear_until(b"STATUS=stopped: everything is in the accounts")


def test_a_machine_without_fuse_is_told_so_in_one_line(monkeypatch: pytest.MonkeyPatch):
    # The place of the device is the machine's, not ours: nothing else can take it away.
    monkeypatch.setattr(mountpoint, "FUSE_DEVICE", "/dev/absent")
    with pytest.raises(mountpoint.MountRefused, match="/dev/absent is missing"):
        mountpoint.check_fuse(allow_other=False)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/absent")
    with pytest.raises(mountpoint.MountRefused, match="fusermount3 is missing"):
        mountpoint.check_fuse(allow_other=False)


def test_the_client_imports_nothing_heavy():
    script = (
        "import sys, aggfs.cli.client\n"
        "heavy = {'trio', 'boto3', 'click', 'pyfuse3', 'msgspec', 'lmdb'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=TOP, timeout=60)


@pytest.mark.parametrize(
    ("complaint", "told"),
    [
        ("fuse_release(): fuse_reply_* failed with No such file or directory", False),
        ("fuse_write(): fuse_reply_* failed with Input/output error", True),
        ("handler raised", True),
    ],
)
def test_a_reply_that_nobody_waits_for_is_no_fault(complaint: str, told: bool):
    record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, "%s", (complaint,), None)
    assert _has_a_reader(record) == told
