"""A local disk that is full, or fails, at any of the calls that write to it: see
tests/support/failing.py. `scripts/drill disk` tries all of them."""

from pathlib import Path

import pytest

from tests.support.failing import sweep
from tests.support.filling import run_on_a_small_disk


@pytest.mark.parametrize(("error", "every"), [("ENOSPC", 41), ("EIO", 23)])
def test_nothing_is_lost_when_the_disk_refuses_a_call(tmp_path: Path, error: str, every: int):
    """The program hears of it, the next start needs no help, and what was sure is there."""
    count = 0
    for told, fault in sweep(tmp_path, error, every=every):
        assert not fault, f"{told}: {fault}"
        count += 1
    assert count >= 5


def test_on_a_disk_that_is_really_full_files_can_be_removed_and_nothing_is_lost(tmp_path: Path):
    told = run_on_a_small_disk(tmp_path / "top")
    assert "all is whole" in told
