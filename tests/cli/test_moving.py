"""Commands that move fragments: what they print, and what they refuse."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggfs.cli import exits
from aggfs.cli.moving import line
from tests.support.commands import Home, a_home
from tests.support.mounting import needs_fuse
from tests.support.samples import noise

pytestmark = needs_fuse


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Home]:
    with a_home(tmp_path) as home:
        yield home


@pytest.fixture
def folder(user: Home) -> Iterator[Path]:
    """A mounted volume of four accounts with two files."""
    user.init("docs", "--k=2", "--n=3", accounts=4)
    folder = user.path / "docs"
    folder.mkdir()
    user.aggfs("mount", "docs", folder)
    for number in range(2):
        (folder / f"f{number}").write_bytes(noise(3_000_000, number))
    user.aggfs("flush", folder)
    yield folder
    user.aggfs("umount", "docs", "--now")


def names(user: Home) -> list[str]:
    return [one["name"] for one in user.json("account", "list")]


def json_lines(text: str) -> list[dict]:
    return [json.loads(one) for one in text.splitlines()]


def test_an_account_leaves_and_the_configuration_knows(user, folder):
    plan = user.json("account", "remove", "a1", "--dry-run")
    assert plan["account"] == "a1"
    assert names(user) == ["a0", "a1", "a2", "a3"]
    *_, last = json_lines(user.aggfs("account", "remove", "a1", "--json").out)
    assert (last["kind"], last["state"]) == ("remove", "done")
    assert last["moved_bytes"] == last["total_bytes"] == plan["total_bytes"]
    assert names(user) == ["a0", "a2", "a3"]
    done = user.aggfs("account", "remove", "a0", code=exits.BAD_CONFIG)
    assert "3 providers are needed, there are 2" in done.err
    user.aggfs("account", "remove", "a1", code=exits.NO_ENTRY)
    assert (folder / "f1").read_bytes() == noise(3_000_000, 1)


def test_a_volume_that_is_not_mounted_is_rebalanced_by_the_command_itself(user, folder):
    user.aggfs("umount", "docs")
    assert user.aggfs("rebalance", "docs").out.startswith("rebalance: ")
    user.aggfs("mount", "docs", folder)
    assert (folder / "f0").read_bytes() == noise(3_000_000, 0)


def test_a_drained_account_may_take_new_data_again(user, folder):
    assert "; done" in user.aggfs("account", "drain", "a2", "--rate=100MiB").out
    assert user.json("status", "docs")["movement"]["kind"] == "drain"
    user.aggfs("account", "drain", "a2", "--undo")
    user.aggfs("account", "drain", "nobody", code=exits.NO_ENTRY)
    user.aggfs("rebalance", "--rate=fast", code=exits.USAGE)


def test_everything_is_coded_anew_and_the_configuration_knows(user, folder):
    text = user.aggfs("re-encode", "--k=3", "--n=4", "--dry-run").out
    assert "would be moved" in text
    user.aggfs("re-encode", "--k=3", "--n=4")
    status = user.json("status", "docs")
    assert (status["k"], status["n"]) == (3, 4)
    config = (user.path / "config/aggfs/docs/config.toml").read_text()
    assert config.index("k = 3") < config.index("k = 2")
    user.aggfs("umount", "docs")
    user.aggfs("mount", "docs", folder)
    status = user.json("status", "docs")
    assert (status["k"], status["n"]) == (3, 4)
    assert (folder / "f1").read_bytes() == noise(3_000_000, 1)
    user.aggfs("re-encode", "--k=3", "--n=6", code=exits.BAD_CONFIG)


def test_a_line_tells_percent_bytes_and_time():
    answer = {
        "kind": "drain",
        "state": "running",
        "moved_bytes": 3 << 20,
        "total_bytes": 12 << 20,
        "eta_seconds": 90.0,
        "text": "",
    }
    assert line(answer) == "drain: 25.0 %, 3.00 MiB of 12.0 MiB moved, 90 s to go"
    ended = {**answer, "state": "failed", "eta_seconds": None, "text": "no room"}
    assert line(ended) == "drain: 25.0 %, 3.00 MiB of 12.0 MiB moved; failed: no room"
