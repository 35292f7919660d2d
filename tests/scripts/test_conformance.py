"""`scripts/conformance`: what it takes for a suite, how it tallies, and that a failure is one."""

from pathlib import Path

import pytest

from tests.support.conformance import judge, recognised, tally_of
from tests.support.mounting import needs_fuse
from tests.support.stage import temporary_stage

FSX = """#!/bin/sh
# As fsx is called; it writes f.fsxgood when it fails.
for argument; do
    case $argument in --record-ops=*) calls=${argument#*=} ;; esac
    path=$argument
done
[ "$(stat -c %s "$path")" = 655360 ] || { echo "too short"; exit 3; }
printf 'write 0x0 0x5 0x0\\nskip punch_hole 0x0 0x1 0x0\\n' >"$calls"
printf 'first' | dd of="$path" conv=notrunc status=none
"""


def _program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def _checkout(path: Path, **scripts: str) -> Path:
    """As a built pjdfstest lies there."""
    (path / "tests").mkdir(parents=True)
    _program(path / "pjdfstest", "#!/bin/sh\n")
    for name, text in scripts.items():
        (path / "tests" / f"{name}.t").write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "held", "failed"),
    [
        ("1..2\nok 1\nok 2\n", 2, ()),
        ("1..2\nok 1\nnot ok 2 - tried 'x', got y\n", 1, ("not ok 2 - tried 'x', got y",)),
        ("1..1\nnot ok 1 # TODO some day\n", 1, ()),  # how TAP says that it may fail
        ("1..3\nok 1\n", 1, ("1 results, planned were 3",)),
        ("ok 1\n", 1, ("1 results, planned were -1",)),
        ("", 0, ("0 results, planned were -1",)),
    ],
)
def test_what_a_script_prints_is_judged(text: str, held: int, failed: tuple[str, ...]):
    tally = tally_of("link/00.t", text)
    assert (tally.part, tally.held, tally.failed) == ("link/00.t", held, failed)


def test_only_what_is_built_is_taken_for_a_suite(tmp_path: Path):
    assert recognised(tmp_path, 1) is None
    assert recognised(_program(tmp_path / "other", "#!/bin/sh\n"), 1) is None
    (tmp_path / "fsx.c").write_text(FSX)
    assert recognised(tmp_path / "fsx.c", 1) is None
    found = recognised(_checkout(tmp_path / "pjd"), 1)
    assert found is not None
    assert found[0] == "pjdfstest"


@needs_fuse
def test_a_suite_runs_on_a_mount_and_one_failure_makes_it_fail(tmp_path: Path):
    good = "echo 1..2; mkdir d && echo ok 1; df -PT . | grep -q fuse.aggfs && echo ok 2"
    bad = "echo 1..1; rmdir absent 2>/dev/null && echo ok 1 || echo not ok 1 - no such directory"
    told: list[str] = []
    with temporary_stage("aggfs-conformance-", told.append) as stage:
        for suite, expected in (
            (_checkout(tmp_path / "bad", a=good, b=bad), False),
            (_program(tmp_path / "fsx", FSX), True),
        ):
            found = recognised(suite, 1)
            assert found is not None
            assert judge(stage, *found, mount=()) is expected, told
    assert told == [
        "a.t: 2 held, 0 failed",
        "b.t: 0 held, 1 failed",
        "    not ok 1 - no such directory",
        "pjdfstest in all: 2 held, 1 failed; none is expected to fail",
        "round 1, with mmap, closed and opened: 25000 held, 0 failed",
        "the same bytes again: 3 held, 0 failed",
        "fsx in all: 25003 held, 0 failed; none is expected to fail",
    ]
