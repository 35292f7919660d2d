"""Hours of a volume's life, many times over: nothing acknowledged is lost, no wrong byte is read.

`scripts/simulate --seeds N` plays a seed again; see `tests.simulation.simulation`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.simulation import FIRST_IN_COPIES

REPOSITORY = Path(__file__).parents[2]
HOURS_EACH = 2
HOURS, FAULTS = 50, 50_000  # of each group
GROUPS = ("0-26", "27-53")


def played(*arguments: str) -> list[str]:
    """What `scripts/simulate` prints. Its processes end with it."""
    command = [sys.executable, "-m", "tests.simulation.many", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("seeds", GROUPS)
def test_a_volume_survives_whatever_happens_to_its_accounts_and_its_machine(seeds: str) -> None:
    lines = played("--seeds", seeds, "--hours", str(HOURS_EACH))
    summary = json.loads(lines[-1])
    print(summary)
    assert summary["failed"] == 0, "\n".join(lines)
    assert summary["simulated_hours"] >= HOURS
    assert summary["faults"] >= FAULTS
    assert all(summary["faults_by_kind"].values())


def test_so_does_one_whose_fragments_are_copies() -> None:
    seeds = f"{FIRST_IN_COPIES}-{FIRST_IN_COPIES + 7}"
    lines = played("--seeds", seeds, "--hours", "1")
    summary = json.loads(lines[-1])
    print(summary)
    assert summary["failed"] == 0, "\n".join(lines)
    assert summary["simulated_hours"] >= 8
    assert summary["faults"] >= 5000


def test_the_same_seed_is_the_same_run_to_the_last_request() -> None:
    first, second = (played("--seeds", "51-52", "--hours", "0.5")[:-1] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
