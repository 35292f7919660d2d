"""`aggfs bench`: what is measured, what is told, and that nothing stays."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.cli.folderspeed import PREFIX, RANDOM_READS, SMALL_BYTES, SMALL_FILES, measure_folder
from aggfs.cli.main import run
from aggfs.errors import NoSpace
from tests.support.commands import PROGRAM, TOP, Home, a_home
from tests.support.mounting import needs_fuse

MIB = 1 << 20
WAIT_SECONDS = 30


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path) as home:
        yield home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def objects_of(accounts: list[Path]) -> set[str]:
    return {str(path) for account in accounts for path in account.rglob("*") if path.is_file()}


# --- folders --------------------------------------------------------------------------------------


def test_a_folder_is_measured_and_left_as_it_was(home, folder, capsys):
    (folder / "large").write_text("a name that is used by somebody")
    size = 3 * MIB // 2
    assert run(["bench", str(folder), f"--size={size}", "--json"]) == exits.DONE
    answer = json.loads(capsys.readouterr().out)
    done = [(one["operations"], one["size_bytes"]) for one in answer["measured"]]
    assert done == [
        (2, size),
        (2, size),
        (RANDOM_READS, RANDOM_READS * SMALL_BYTES),
        (SMALL_FILES, SMALL_FILES * SMALL_BYTES),
        (SMALL_FILES, SMALL_FILES * SMALL_BYTES),
        (SMALL_FILES, 0),
    ]
    for one in answer["measured"]:
        assert 0 < one["mean_seconds"] <= one["seconds"] / one["operations"]
    assert answer["notes"] == []
    assert os.listdir(folder) == ["large"]
    assert (folder / "large").read_text() == "a name that is used by somebody"


def test_for_people_a_folder_is_a_table(home, folder, capsys):
    assert run(["bench", str(folder), "--size=1MiB"]) == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    header = ["what", "a second", "bytes", "mean", "95 % below", "measured"]
    assert re.split("  +", lines[0]) == header
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "write, 1 MiB each, with fsync",
        "read again, 1 MiB each",
        "read 4 KiB anywhere",
        "make a file of 4 KiB",
        "read a file of 4 KiB",
        "stat",
    ]


def test_when_the_time_is_over_what_was_done_counts(folder):
    found = measure_folder(folder, size_bytes=8 * MIB, seconds=1e-9)
    assert [one.operations for one in found] == [1] * 6
    assert os.listdir(folder) == []


@pytest.mark.parametrize("measurement", range(6))
def test_whatever_ends_it_nothing_stays(folder, measurement):
    heard = []

    def interrupt(text):
        heard.append(text)
        if len(heard) > measurement:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_folder(folder, size_bytes=MIB, seconds=10, report=interrupt)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(folder, number):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "bench", str(folder), "--size=4GiB", "--seconds=60"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=TOP,
    ) as process:
        try:
            deadline = time.monotonic() + WAIT_SECONDS
            while not list(folder.glob(f"{PREFIX}*/large")):
                assert time.monotonic() < deadline
            process.send_signal(number)
            assert process.wait(WAIT_SECONDS) == exits.INTERRUPTED
            assert process.stderr.read().strip() == b"aggfs: interrupted"
        finally:
            process.kill()
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["/nowhere/at/all"], exits.NO_ENTRY, "/nowhere/at/all: there is no such folder"),
        ([__file__], exits.FAILED, "test_bench.py is no folder"),
        (["/sys"], exits.FAILED, "ermi"),  # "Permission denied", or to root "not permitted"
        (["/", "--size=much"], exits.USAGE, "'much' is no size"),
        (["/", "--size=0"], exits.USAGE, "--size: at least one byte"),
        ([], exits.USAGE, "which folder?"),
        (["--accounts", "music"], exits.NO_ENTRY, "there is no volume 'music'"),
    ],
)
def test_what_cannot_be_measured_is_told_in_one_line(home, capsys, arguments, code, text):
    assert run(["bench", *arguments]) == code
    told = capsys.readouterr()
    assert text in told.err
    assert told.out == ""
    if code != exits.USAGE:
        assert told.err.startswith("aggfs: ")
        assert told.err.count("\n") == 1


@needs_fuse
def test_a_folder_that_becomes_full_is_told_and_left_as_it_was(user):
    """A volume whose accounts have hardly any room."""
    specs = [
        f"--account=a{index}={path}?provider=p{index}&quota=80MiB"
        for index, path in enumerate(user.directories(3))
    ]
    user.aggfs("init", "small", *specs)
    mounted = user.path / "mounted"
    mounted.mkdir()
    user.aggfs("mount", "small", mounted)
    try:
        done = user.aggfs("bench", mounted, "--size=1GiB", code=exits.NO_SPACE)
        assert done.err == f"aggfs: {mounted} is full: nothing more could be written\n"
        assert done.out == ""
        assert os.listdir(mounted) == []
    finally:
        user.aggfs("umount", mounted)


def test_only_a_full_disk_is_called_full(folder):
    """Another fault keeps its name."""

    def refuse(text):
        raise OSError(5, "Input/output error", "/x")

    with pytest.raises(OSError, match="Input/output error") as caught:
        measure_folder(folder, size_bytes=MIB, seconds=1, report=refuse)
    assert not isinstance(caught.value, NoSpace)


# --- accounts -------------------------------------------------------------------------------------


@needs_fuse
def test_the_accounts_of_a_volume_are_measured_mounted_or_not(user):
    user.init("photos", accounts=4)
    accounts = [user.path / f"account{index}" for index in range(4)]
    before = objects_of(accounts)
    arguments = ("bench", "--accounts", "photos", "--size=4MiB", "--seconds=5")
    answer = user.json(*arguments)
    assert objects_of(accounts) == before
    check_figures(answer)
    assert answer["notes"] == []

    mounted = user.path / "mounted"
    mounted.mkdir()
    user.aggfs("mount", "photos", mounted)
    try:
        (mounted / "file").write_bytes(os.urandom(MIB))
        user.aggfs("flush", mounted)
        assert "photos is mounted" in user.json(*arguments)["notes"][0]
        noted = user.json("bench", mounted, "--size=1MiB")["notes"]
        assert "trash" in noted[0]
        user.aggfs("scrub", mounted, "--full")
    finally:
        user.aggfs("umount", mounted)
    shown = user.aggfs(*arguments).out.splitlines()
    header = ["account", "provider", "put 4 KiB", "get 4 KiB", "up", "down"]
    assert re.split("  +", shown[0]) == header
    assert any(line.startswith("2 of 3 *  1.50  1 ") for line in shown)
    assert "* as the volume is stored now" in shown


def check_figures(answer):
    assert [one["name"] for one in answer["accounts"]] == ["a0", "a1", "a2", "a3"]
    assert answer["together"]["up_per_second"] > 0
    assert [(one["k"], one["n"]) for one in answer["codes"]] == [(2, 3), (2, 4), (3, 4)]
    assert [one["factor"] for one in answer["codes"]] == [1.5, 2, pytest.approx(4 / 3)]
    assert [one["may_vanish"] for one in answer["codes"]] == [1, 2, 1]
    assert [one["current"] for one in answer["codes"]] == [True, False, False]
    for one in answer["codes"]:
        assert one["encode_per_second"] > 0
        assert 0 < one["upload"]["per_second"] <= one["encode_per_second"]
        assert 0 < one["cold_read"]["per_second"] <= one["decode_per_second"]


def test_an_account_that_is_away_is_told_and_the_others_are_measured(user):
    user.init("photos")
    (user.path / "account1").rename(user.path / "elsewhere")
    done = user.aggfs("bench", "--accounts", "--size=2MiB", code=None)
    assert done.code in (exits.UNREACHABLE, exits.REFUSED)
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["a0", "a2", "all"]
    assert lines[4].startswith("a1: ")
    assert "fewer than 3 providers" in lines[-1]
    told = json.loads(user.aggfs("bench", "--accounts", "--size=2MiB", "--json", code=None).out)
    assert [one["name"] for one in told["failures"]] == ["a1"]
    assert told["codes"] == []
