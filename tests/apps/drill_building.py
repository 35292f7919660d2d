"""What developers do, in earnest: a large repository, a real project, large wheels, a backup."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.apps.test_git import assert_whole, git, make_repository
from tests.support.mounting import needs_fuse
from tests.support.programs import run
from tests.support.samples import noise, tree_of

pytestmark = needs_fuse

COMMITS = 20_000
SOURCE = "AGGFS_DRILL_SOURCE"  # the directory with zlib's source, as Debian has it


def test_a_large_repository_is_cloned_and_collected(place: Path, cold: Callable[[], None]):
    origin, clone = place / "origin", place / "clone"
    make_repository(origin, COMMITS)
    git(place, "clone", "--quiet", "--no-local", origin, clone)
    git(clone, "checkout", "--quiet", "HEAD~10000")
    git(clone, "checkout", "--quiet", "main")
    git(clone, "repack", "-adfq", "--window=10")
    cold()
    assert_whole(clone, COMMITS)
    assert_whole(origin, COMMITS)


def test_zlib_is_built_and_passes_its_own_tests(place: Path, cold: Callable[[], None]):
    [archive] = Path(os.environ[SOURCE]).glob("zlib_*.orig.tar.*")
    run("tar", "-xf", archive, at=place)
    [top] = place.glob("zlib*")
    run(top / "configure", f"--prefix={place / 'installed'}", at=top)
    run("make", "-j4", at=top)
    assert "zlib test OK" in run("make", "test", at=top)
    run("make", "install", at=top)
    cold()
    assert "zlib test OK" in run("make", "test", at=top)
    assert (place / "installed/lib/libz.so").resolve().read_bytes().startswith(b"\x7fELF")


def test_large_wheels_are_installed_and_run(place: Path, cold: Callable[[], None]):
    environment = place / "environment"
    run(sys.executable, "-m", "venv", environment, at=place)
    programs = environment / "bin"
    run(programs / "pip", "install", "--no-cache-dir", "numpy", "scipy", at=place, seconds=900)
    program = "import numpy, scipy.linalg as l; print(round(l.det(numpy.eye(50) * 2) / 2**50))"
    assert run(programs / "python", "-c", program, at=place) == "1\n"
    cold()
    assert run(programs / "python", "-c", program, at=place) == "1\n"
    run(programs / "pip", "check", at=place)


def test_a_restic_repository_is_filled_pruned_and_checked(
    place: Path, cold: Callable[[], None], tmp_path: Path
):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(300):
        (source / f"file{number}").write_bytes(noise(1000 * number, number))

    def restic(*arguments: str | Path) -> str:
        chosen = {"RESTIC_REPOSITORY": place / "repository", "RESTIC_PASSWORD": "a password"}
        return run("restic", "--no-cache", *arguments, at=source, seconds=600, **chosen)

    restic("init")
    restic("backup", ".")
    (source / "file299").unlink()
    restic("backup", ".")
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    cold()
    restic("check", "--read-data")
    restic("restore", "latest", "--target", tmp_path / "restored")
    assert tree_of(tmp_path / "restored") == tree_of(source)
