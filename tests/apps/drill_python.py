"""All that CPython tests of file systems, archives, mailboxes and databases, on the mount."""

from pathlib import Path

import pytest

from tests.apps.test_python import QUICK, run_module
from tests.support.mounting import needs_fuse

pytestmark = needs_fuse

# Debian has no test_sqlite3; tests/apps/test_sqlite.py is about databases.
SLOW = (
    *("test_os", "test_pathlib", "test_tempfile", "test_io"),
    *("test_zipfile", "test_tarfile", "test_mailbox", "test_largefile"),
    *("test_glob", "test_fileio", "test_file", "test_gzip", "test_bz2", "test_lzma", "test_shelve"),
    *("test_importlib", "test_py_compile", "test_compileall", "test_zipapp", "test_filecmp"),
)


@pytest.mark.parametrize("module", [*QUICK, *SLOW])
def test_a_module_of_cpython_passes_on_the_mount(place: Path, module: str):
    assert "SUCCESS" in run_module(module, place)
