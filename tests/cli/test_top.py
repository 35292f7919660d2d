"""`aggfs top`: what happened between two looks, and how it is shown."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.cli.main import run
from aggfs.cli.places import place_of
from aggfs.cli.sampling import NOTHING, percentile, rates_between
from aggfs.cli.top import CLEAR_LINE, HOME, _screenful
from tests.support.answering import answering
from tests.support.commands import PROGRAM, TOP, Home, a_home
from tests.support.mounting import needs_fuse

MIB = 1 << 20
ACCOUNT = {
    "name": "one",
    "provider": "first",
    "healthy": True,
    "error": "",
    "full": False,
    "leaving": False,
    "paused_seconds": 0.0,
    "in_flight": 2,
    "requests": 100,
    "answered": 90,
    "answered_seconds": 9.0,
    "failed": 1,
    "cancelled": 7,
    "sent_bytes": 50_000_000,
    "received_bytes": 10_000_000,
}
SAMPLE = {
    "clock_seconds": 110.0,
    "mounted_seconds": 100.0,
    "read_bytes": 40_000_000,
    "written_bytes": 20_000_000,
    "fetched_bytes": 10_000_000,
    "operations": {
        "read": {"begun": 11, "answered": 10, "seconds": 0.5, "histogram": [[0.01, 9], [0.5, 1]]}
    },
    "accounts": [ACCOUNT],
    "queue": {
        "dirty_bytes": 3 * MIB,
        "staged_bytes": 4 * MIB,
        "staging_limit_bytes": 1 << 30,
        "stripes": {"staged": 1, "stored": 2, "full": 3},
        "puts_in_flight": 5,
        "outbox_entries": 7,
        "outbox_age_seconds": 12.0,
    },
    "cache_bytes": 6 * MIB,
    "cache_limit_bytes": 1 << 30,
}


def make_known(name: str) -> None:
    place = place_of(name)
    place.config_path.parent.mkdir(parents=True)
    place.config_path.write_text("")


def later(**changed):
    """The sample of two seconds after."""
    return SAMPLE | {"clock_seconds": 112.0} | changed


# --- between two samples --------------------------------------------------------------------------


def test_the_first_look_is_of_all_since_the_mount():
    rates = rates_between(NOTHING, SAMPLE)
    assert rates.seconds == 10
    assert (rates.read_per_second, rates.written_per_second) == (4e6, 2e6)
    assert rates.hit_rate == 0.75
    (read,) = rates.operations
    assert (read.per_second, read.mean_seconds, read.p95_seconds) == (1.0, 0.05, 0.5)
    assert read.under_way == 1
    (one,) = rates.accounts
    assert (one.per_second, one.mean_seconds, one.failed) == (10.0, 0.1, 1)
    assert (one.sent_per_second, one.received_per_second) == (5e6, 1e6)


def test_between_two_looks_only_what_is_new_counts():
    rates = rates_between(SAMPLE, later(read_bytes=44_000_000, fetched_bytes=12_000_000))
    assert rates.read_per_second == 2e6
    assert rates.fetched_per_second == 1e6
    assert rates.hit_rate == 0.5
    (read,) = rates.operations  # of the one that is under way
    assert (read.per_second, read.mean_seconds, read.p95_seconds) == (0, None, None)
    (one,) = rates.accounts
    assert (one.per_second, one.mean_seconds, one.failed) == (0, None, 0)


def test_what_is_read_ahead_makes_no_rate_below_nothing():
    assert rates_between(SAMPLE, later(read_bytes=40_000_001, fetched_bytes=2**30)).hit_rate == 0
    assert rates_between(SAMPLE, later(fetched_bytes=2**30)).hit_rate is None


def test_an_account_that_joined_meanwhile_is_counted_from_its_first_request():
    joined = ACCOUNT | {"name": "two"}
    _, two = rates_between(SAMPLE, later(accounts=[ACCOUNT, joined])).accounts
    assert two.per_second == 50


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({}, "healthy"),
        ({"leaving": True}, "leaving"),
        ({"full": True}, "FULL"),
        ({"healthy": False, "error": "no answer"}, "DOWN: no answer"),
        (
            {"healthy": False, "error": "no answer", "paused_seconds": 4.2},
            "DOWN, asked again in 4 s: no answer",
        ),
    ],
)
def test_the_state_of_an_account_says_if_it_is_asked(changed, state):
    (one,) = rates_between(SAMPLE, later(accounts=[ACCOUNT | changed])).accounts
    assert one.state == state


def test_a_percentile_is_of_the_requests_between_two_looks():
    before = [[0.1, 1000]]
    assert percentile(before, [[0.1, 1095], [0.2, 5]]) == 0.1
    assert percentile(before, [[0.1, 1094], [0.2, 6]]) == 0.2
    assert percentile(before, [[0.01, 1], [0.1, 1000]]) == 0.01
    assert percentile(before, before) is None


# --- the command ----------------------------------------------------------------------------------


def test_one_frame_says_what_matters(home, capsys):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"counters": SAMPLE}) as asked:
        assert run(["top", "--once", "--interval=0.01"]) == exits.DONE
    assert [verb for verb, _ in asked] == ["counters"] * 2
    text = capsys.readouterr().out
    assert "photos on no folder, mounted for 10 s; the last " in text
    assert "read 0.00 MB/s; written 0.00 MB/s\n" in text
    assert "waiting: 3.00 MiB dirty, 4.00 MiB staged in 3 stripes (at most 1.00 GiB" in text
    assert "5 puts under way; 7 entries, the oldest came 12 s ago\n" in text
    assert "local copies take 6.00 MiB (clean ones at most 1.00 GiB)\n" in text
    assert "read     0.0       -     -           1\n" in text
    assert "one      0.0       -     0.00 MB/s  0.00 MB/s  2          -       healthy\n" in text


def test_for_programs_the_counters_are_what_the_daemon_says(home, capsys):
    make_known("photos")
    with answering(place_of("photos").socket_path, {"counters": SAMPLE}) as asked:
        assert run(["top", "--once", "--json"]) == exits.DONE
    assert json.loads(capsys.readouterr().out) == SAMPLE
    assert asked == [("counters", {"cache": True})]


def test_without_a_mount_there_is_nothing_to_see(home, capsys):
    make_known("photos")
    assert run(["top"]) == exits.NOT_RUNNING
    assert run(["top", "music"]) == exits.NO_ENTRY
    assert run(["top", "--interval=0"]) == exits.USAGE
    err = capsys.readouterr().err
    assert err.startswith(
        "aggfs: the volume 'photos' is not mounted\naggfs: there is no volume 'music' here"
    )


def test_a_frame_takes_no_more_than_the_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "4")
    screen = _screenful(["x" * 50] * 9)
    assert screen.startswith(HOME)
    assert screen.count("\n") == 3
    assert screen.count("x" * 10 + CLEAR_LINE) == 3
    assert "x" * 11 not in screen


@pytest.mark.parametrize("on_terminal", [True, False])
def test_an_interrupt_is_the_usual_end(home, on_terminal):
    """Frames are drawn over each other on a terminal only."""
    make_known("photos")
    ours, theirs = pty.openpty() if on_terminal else os.pipe()
    with (
        answering(place_of("photos").socket_path, {"counters": SAMPLE}),
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "top", "--interval=0.01"],
            stdout=theirs,
            stderr=subprocess.PIPE,
            cwd=TOP,
        ) as process,
    ):
        os.close(theirs)
        try:
            shown = b""
            while shown.count(b"mounted for") < 3:
                shown += (data := os.read(ours, 1000))
                assert data, "it ended by itself"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == exits.DONE
            assert process.stderr.read() == b""
        finally:
            process.kill()
            os.close(ours)
    assert (HOME.encode() in shown) == on_terminal


@needs_fuse
def test_top_sees_what_a_mounted_folder_does(tmp_path):
    with a_home(tmp_path) as user:
        folder = user.path / "Cloud"
        user.aggfs("up", folder)
        try:
            look_at_traffic(user, folder)
        finally:
            user.aggfs("umount", folder)


def look_at_traffic(user: Home, folder: Path) -> None:
    data = os.urandom(2 * MIB)
    (folder / "file").write_bytes(data)
    user.aggfs("flush")
    before = user.json("top", "--once")
    assert before["written_bytes"] == len(data)
    assert before["fetched_bytes"] == 0
    assert before["cache_bytes"] >= len(data)
    assert before["queue"]["dirty_bytes"] == before["queue"]["staged_bytes"] == 0
    sent = sum(account["sent_bytes"] for account in before["accounts"])
    assert sent > len(data) * 3 / 2
    user.aggfs("evict")
    with (folder / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read() == data
    after = user.json("top", "--once")
    rates = rates_between(before, after)
    assert after["read_bytes"] - before["read_bytes"] == len(data)
    assert rates.hit_rate == 0
    assert rates.fetched_per_second > 0
    assert {one.state for one in rates.accounts} == {"healthy"}
    shown = user.aggfs("top", folder, "--once", "--interval=0.01").out
    assert f"Cloud on {folder}, mounted for" in shown
