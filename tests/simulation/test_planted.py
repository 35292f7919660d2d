"""Eleven bugs, one planted at a time: each is found within some seeds."""

import json

import pytest

from tests.simulation.planted import BUGS, COPIES_COUNTED
from tests.simulation.test_simulation import played


@pytest.mark.parametrize("bug", [name for name in BUGS if name != "none"])
def test_a_planted_bug_is_found(bug: str) -> None:
    seeds = "1000-1015" if bug == COPIES_COUNTED else "3-18"
    lines = played("--seeds", seeds, "--hours", "0.7", "--until-failed", "--bug", bug)
    assert json.loads(lines[-1])["failed"] == 1
    print(next(line for line in lines if "WRONG" in line))
