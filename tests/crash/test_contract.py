"""docs/semantics.md names the tests that keep its promises: they are there."""

import re

import pytest

from tests.support.commands import TOP

NAMED = re.compile(r"`((?:[a-z]+/)?test_\w+\.py)?(?:::(test_\w+))?`")
TEXT = (TOP / "docs" / "semantics.md").read_text()


def named() -> list[tuple[str, str]]:
    """(path below tests/, function or nothing); a function alone is in the file before it."""
    found = []
    path = ""
    for match in NAMED.finditer(TEXT):
        path = match[1] or path
        if match[0] != "``":
            found.append((path, match[2] or ""))
    return found


@pytest.mark.parametrize(("path", "function"), sorted(set(named())))
def test_what_is_said_to_be_tested_is_tested(path: str, function: str) -> None:
    text = (TOP / "tests" / path).read_text()
    assert not function or re.search(rf"^(async )?def {function}\(", text, re.MULTILINE)


def test_every_promise_of_durability_names_a_test() -> None:
    for part in ("## What survives", "## Known ways to lose data"):
        table = TEXT.partition(part)[2].partition("\n## ")[0]
        rows = [row for row in table.splitlines() if row.startswith("| ")][1:]
        assert len(rows) > 10
        assert all("test_" in row or "the same" in row for row in rows), rows
