"""Whatever a handler meets, the folder goes on."""

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.support.mounting import ServedFolder, needs_fuse

pytestmark = needs_fuse

UNFORESEEN = "failed unexpectedly; answered EIO"


def test_an_unforeseen_error_is_eio_once_logged_and_the_daemon_goes_on(folder: ServedFolder):
    top = Path(folder.path)
    (top / "f").touch()
    (top / "trap-unlink").touch()
    (top / "d").mkdir()
    (top / "d" / "trap-readdir").touch()
    (top / "r").write_bytes(b"trap-read")
    folder.expect_log(UNFORESEEN)
    provoked = [
        lambda: os.stat(top / "trap-lookup"),
        lambda: os.mkdir(top / "trap-create"),
        lambda: os.unlink(top / "trap-unlink"),
        lambda: os.getxattr(top / "f", "user.trap-getxattr"),
        lambda: os.listdir(top / "d"),
        lambda: (top / "r").read_bytes(),
        lambda: (top / "f").write_bytes(b"trap-write"),
    ]
    for attempt in [*provoked, *provoked]:
        with pytest.raises(OSError, match="Input/output") as caught:
            attempt()
        assert caught.value.errno == errno.EIO
    assert folder.log().count(UNFORESEEN) == len(provoked)
    assert folder.log().count("Traceback") >= len(provoked)
    (top / "g").write_bytes(b"still here")
    assert (top / "g").read_bytes() == b"still here"
    assert folder.process.poll() is None


def test_no_space_is_told_at_the_write(folder: ServedFolder):
    with pytest.raises(OSError, match="No space"):
        (Path(folder.path) / "f").write_bytes(b"no-space")


def test_an_error_that_waited_is_told_at_close(folder: ServedFolder):
    descriptor = os.open(Path(folder.path) / "f", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"trap-flush")
    with pytest.raises(OSError, match="No space"):
        os.close(descriptor)


def test_a_read_that_never_ends_delays_nobody_else(folder: ServedFolder):
    top = Path(folder.path)
    (top / "slow").write_bytes(b"never")
    errors: list[int | None] = []

    def read() -> None:
        try:
            (top / "slow").read_bytes()
        except OSError as error:
            errors.append(error.errno)

    readers = [threading.Thread(target=read) for _ in range(20)]
    for reader in readers:
        reader.start()
    for index in range(100):
        (top / f"{index}").touch()
    assert len(os.listdir(top)) == 101
    folder.expect_log("still in use")
    folder.process.terminate()
    folder.wait_until_unmounted()
    folder.ask("stop")  # asked twice: the session ends, whoever waits
    assert folder.process.wait(60) == 0
    for reader in readers:
        reader.join(30)
    assert len(errors) == 20
