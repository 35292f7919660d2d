"""docs/behaviours.md names what there is."""

import importlib
import re
from pathlib import Path

from tests.support.stage import SHOWN

TOP = Path(__file__).parent.parent.parent
TABLE = (TOP / "docs" / "behaviours.md").read_text("utf-8")
ROWS = re.findall(r"^\| ([A-Z]{3}-\d+) \|.*\|(.*)\|(.*)\|$", TABLE, re.MULTILINE)


def load_all() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(f"tests.behaviours.{path.stem}")


def test_every_row_can_be_shown_and_everything_shown_has_a_row() -> None:
    load_all()
    shown = {name for name in SHOWN if re.fullmatch(r"[A-Z]{3}-\d+", name)}
    assert {name for name, _, _ in ROWS} == shown
    assert all(f"`scripts/demo {name}`" in command for name, command, _ in ROWS)


def test_every_test_that_a_row_names_is_there() -> None:
    for name, _, tests in ROWS:
        path = ""
        for named in re.findall(r"`([^`]+)`", tests):
            file, _, function = named.partition("::")
            path = file or path
            text = (TOP / "tests" / path).read_text("utf-8")
            assert f"def {function}" in text, f"{name}: {named}"
