"""The examples of docs/semantics.md hold on a mount."""

import contextlib
import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import VOLUME
from tests.support.mounting import needs_fuse, served

pytestmark = needs_fuse
PAGE = Path(__file__).parent.parent.parent / "docs" / "semantics.md"
SECTION = re.compile(r"^## (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    title: "\n".join(EXAMPLE.findall(text))
    for title, text in SECTION.findall(PAGE.read_text("utf-8"))
    if EXAMPLE.search(text)
}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with served(VOLUME, tmp_path_factory.mktemp("semantics")) as folder:
        yield Path(folder.path)
    assert folder.unexpected_log() == []


@pytest.mark.parametrize("title", EXAMPLES)
def test_the_examples_of_a_section_hold(volume: Path, title: str):
    directory = volume / title
    directory.mkdir()
    examples = doctest.DocTestParser().get_doctest(EXAMPLES[title], {}, title, str(PAGE), 0)
    told: list[str] = []
    with contextlib.chdir(directory):
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(examples, out=told.append)
    assert not told, "".join(told)


def test_every_section_of_operations_has_examples():
    assert list(EXAMPLES) == ["Names", "Contents", "Attributes", "What differs from ext4"]
