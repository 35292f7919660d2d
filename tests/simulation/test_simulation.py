"""Hours of a volume's life, many times over: nothing acknowledged is lost, no wrong byte is read.

`scripts/simulate --seeds N` plays a seed again; see `tests.simulation.simulation`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
GROUP = 25
HOURS_EACH = 2
FAULTS_EACH = 2000


def played(*arguments: str) -> list[str]:
    """What `scripts/simulate` prints. Its processes end with it."""
    command = [sys.executable, "-m", "tests.simulation.many", *arguments]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("first", range(0, 50, GROUP))
def test_a_volume_survives_whatever_happens_to_its_accounts_and_its_machine(first: int) -> None:
    lines = played("--seeds", f"{first}-{first + GROUP - 1}", "--hours", str(HOURS_EACH))
    summary = json.loads(lines[-1])
    print(summary)
    assert summary["failed"] == 0, "\n".join(lines)
    assert summary["simulated_hours"] >= GROUP * HOURS_EACH
    assert summary["faults"] >= GROUP * FAULTS_EACH
    assert all(summary["faults_by_kind"].values())


def test_the_same_seed_is_the_same_run_to_the_last_request() -> None:
    first, second = (played("--seeds", "51-52", "--hours", "0.5")[:-1] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
