"""The unit files as systemd itself judges them; and a service under a systemd that was booted.

Booting takes root, /dev/fuse and cgroups of one's own. Where that is not to be had, the test says
so aloud, and the unit files are judged without it, as they are everywhere.
"""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent.parent
DRILL = TOP / "scripts" / "drill"
UNITS = {"system": TOP / "systemd" / "system", "user": TOP / "systemd" / "user"}
EXPOSURE_LIMIT = 40  # in tenths
BOOT_SECONDS = 240.0


def judged(*command: str | Path, directory: Path) -> None:
    """systemd-analyze finds nothing wrong. It looks for runtime files in `directory`."""
    done = subprocess.run(
        ["systemd-analyze", *command],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("level", UNITS)
def test_systemd_finds_no_fault_in_a_unit(level: str, tmp_path: Path):
    unit = tmp_path / "aggfs@.service"
    program = str(Path(sys.executable).with_name("aggfs"))
    text = (UNITS[level] / unit.name).read_text("utf-8")
    unit.write_text(text.replace("ExecStart=aggfs ", f"ExecStart={program} "))
    judged("verify", "--man=no", f"--{level}", unit, directory=tmp_path)


def test_systemd_finds_the_machines_service_confined(tmp_path: Path):
    unit = shutil.copy(UNITS["system"] / "aggfs@.service", tmp_path)
    judged("security", "--offline=yes", f"--threshold={EXPOSURE_LIMIT}", unit, directory=tmp_path)


@pytest.mark.filterwarnings("default:no systemd was booted")
def test_a_service_of_the_machine_starts_heals_and_stops_under_a_booted_systemd():
    """`scripts/drill systemd --short`: ready, confined, killed and back, stopped with data that is
    nowhere else, and every byte there at the next start."""
    reason = output_of("--why-no-machine", sys.executable)
    if reason:
        text = f"no systemd was booted: {reason}; its unit was judged by systemd-analyze alone"
        warnings.warn(text, stacklevel=1)
        return
    told = output_of("--boot", sys.executable, "--short")
    assert "passed: 1 scenes" in told, told


def output_of(*arguments: str) -> str:
    """What scripts/drill prints. Whatever it began ends with it."""
    drill = subprocess.Popen(
        [DRILL, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        return drill.communicate(timeout=BOOT_SECONDS)[0].strip()
    finally:
        if drill.poll() is None:
            os.killpg(drill.pid, signal.SIGTERM)
            drill.wait(BOOT_SECONDS)
