"""pip: a virtual environment on the mount, with a wheel installed into it, is run from there."""

import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

MODULES = 300
NAME = "sample-1.0"
ADD_UP = f"""
from importlib import import_module

def main():
    print(sum(import_module(f"sample.m{{n}}").N for n in range({MODULES})))
"""


def make_wheel(directory: Path) -> Path:
    """A wheel of many modules, with a script that imports them all and prints their sum."""
    files = {"sample/__init__.py": ADD_UP}
    files |= {f"sample/m{number}.py": f"N = {number}\n" for number in range(MODULES)}
    files[f"{NAME}.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n"
    files[f"{NAME}.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{NAME}.dist-info/entry_points.txt"] = "[console_scripts]\nadd-up = sample:main\n"
    record = "".join(f"{path},{_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{NAME}.dist-info/RECORD"] = record + f"{NAME}.dist-info/RECORD,,\n"
    path = directory / f"{NAME}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return path


def _digest(text: str) -> str:
    return "sha256=" + urlsafe_b64encode(sha256(text.encode()).digest()).rstrip(b"=").decode()


def test_a_wheel_is_installed_and_run(place: Path, cold: Callable[[], None]):
    wheel, environment = make_wheel(place), place / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, at=place)
    programs = environment / "bin"

    def pip(*arguments: str | Path) -> str:
        chosen = ("--python", programs / "python", "--no-cache-dir")
        return run(sys.executable, "-m", "pip", *chosen, *arguments, at=place, PIP_NO_INDEX="1")

    pip("install", wheel)
    total = f"{sum(range(MODULES))}\n"
    assert run(programs / "add-up", at=place) == total
    cold()
    assert run(programs / "add-up", at=place) == total
    assert f"{MODULES - 1}.py" in pip("show", "--files", "sample")
    pip("uninstall", "--yes", "sample")
    assert not list(place.glob("environment/lib/python*/site-packages/sample*"))
