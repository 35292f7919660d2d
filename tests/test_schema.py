"""docs/schema.md lists every table of the local database, and no other."""

import re
from pathlib import Path

from aggfs.assemble import opening

SCHEMA = Path(__file__).parent.parent / "docs" / "schema.md"


def test_every_table_is_documented() -> None:
    text = SCHEMA.read_text("utf-8")
    assert set(re.findall(r"^\| `([a-z_]+)`", text, re.MULTILINE)) == set(opening.TABLES)
