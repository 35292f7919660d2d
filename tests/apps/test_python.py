"""CPython's own tests, of what it knows of file systems, with their directories on the mount."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

# Debian's libpython3.11-testsuite goes with this interpreter, whatever runs aggfs itself.
PYTHON = "/usr/bin/python3.11"
TIMEOUT_SECONDS = 4800
QUICK = (
    *("test_posix", "test_shutil", "test_mmap", "test_fcntl"),
    *("test_dbm", "test_dbm_dumb", "test_dbm_ndbm"),
)


def run_module(module: str, place: Path) -> str:
    """One of CPython's test modules, in this directory; what it printed. All of it must pass."""
    # The deadlines of its tests follow from the timeout: a busy machine is no wrong machine.
    options = ("--verbose", f"--timeout={TIMEOUT_SECONDS}", "--tempdir", place)
    plain = {"TMPDIR": place, "HOME": place, "PYTHONDONTWRITEBYTECODE": ""}
    return run(PYTHON, "-m", "test", *options, module, at=place, seconds=TIMEOUT_SECONDS, **plain)


@pytest.mark.parametrize("module", QUICK)
def test_a_module_of_cpython_passes_on_the_mount(place: Path, module: str):
    assert "\nOK" in run_module(module, place)


def test_nothing_is_left_of_what_was_temporary(place: Path, cold: Callable[[], None]):
    assert "\nOK" in run_module("test_tempfile", place)
    assert list(place.iterdir()) == []
    cold()
    assert list(place.iterdir()) == []
