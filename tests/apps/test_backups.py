"""borg: a repository of backups on the mount, and the mount as what is backed up."""

from collections.abc import Callable
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.programs import run
from tests.support.samples import noise, tree_of, write_noise

pytestmark = needs_fuse

FILES = 40


def test_a_borg_repository_is_filled_pruned_and_checked(
    place: Path, cold: Callable[[], None], tmp_path: Path
):
    source, repository, restored = place / "source", place / "repository", tmp_path / "restored"
    for directory in (source, restored):
        directory.mkdir()
    for number in range(FILES):
        write_noise(source / f"file{number}", 3000 * number, number)

    def borg(*arguments: str | Path, at: Path = place) -> str:
        home = {"BORG_BASE_DIR": tmp_path, "BORG_PASSPHRASE": "a passphrase"}
        return run("borg", *arguments, at=at, **home)

    borg("init", "--encryption=repokey-blake2", repository)
    borg("create", f"{repository}::first", "source")
    with (source / "file39").open("ab") as file:
        file.write(noise(2_000_000))
    (source / "file1").unlink()
    borg("create", f"{repository}::second", "source")
    borg("delete", f"{repository}::first")
    borg("compact", repository)
    borg("check", "--verify-data", repository)
    cold()
    borg("check", "--verify-data", repository)
    borg("extract", f"{repository}::second", at=restored)
    assert tree_of(restored / "source") == tree_of(source)
    assert len(tree_of(source)) == FILES - 1
