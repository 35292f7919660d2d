"""git: a repository of thousands of commits lives on the mount."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.mounting import needs_fuse
from tests.support.programs import run

pytestmark = needs_fuse

COMMITS = 3000


def history(commits: int, *, directories: int = 20, files: int = 30) -> Iterator[bytes]:
    """What `git fast-import` makes a branch of: each commit changes two of the files."""
    chance = random.Random(commits)
    for number in range(1, commits + 1):
        yield b"commit refs/heads/main\nmark :%d\n" % number
        yield b"committer A <a@example.org> %d +0000\n" % (1_700_000_000 + 60 * number)
        yield b"data <<.\nchange %d\n.\n" % number
        if number > 1:
            yield b"from :%d\n" % (number - 1)
        for _ in range(2):
            path = b"d%d/f%d.txt" % (chance.randrange(directories), chance.randrange(files))
            text = b"".join(b"line %d\n" % chance.randrange(10**6) for _ in range(30))
            yield b"M 100644 inline %s\ndata %d\n%s\n" % (path, len(text), text)
    yield b"done\n"


def git(repository: Path, *arguments: str | Path, given: bytes = b"") -> str:
    """A git command that no configuration of the machine reaches."""
    identity = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in NAMED}
    nowhere = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    return run("git", *arguments, at=repository, given=given, **identity, **nowhere)


NAMED = ("NAME", "EMAIL")


def make_repository(path: Path, commits: int) -> None:
    """A repository with that much history, checked out."""
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    git(path, "fast-import", "--quiet", "--done", given=b"".join(history(commits)))
    git(path, "reset", "--quiet", "--hard")


def assert_whole(repository: Path, commits: int) -> None:
    """Every object is there and right, and the files are what was committed."""
    assert "error" not in git(repository, "fsck", "--full", "--strict", "--no-dangling")
    assert git(repository, "rev-list", "--count", "HEAD").strip() == str(commits)
    assert git(repository, "status", "--porcelain") == ""


def test_a_repository_is_cloned_committed_to_and_collected(place: Path, cold: Callable[[], None]):
    origin, clone = place / "origin", place / "clone"
    make_repository(origin, COMMITS)
    git(place, "clone", "--quiet", "--no-local", origin, clone)
    assert_whole(clone, COMMITS)
    for number in range(5):
        (clone / "d0" / "new.txt").write_text(f"version {number}\n")
        git(clone, "add", "--all")
        git(clone, "commit", "--quiet", "--message", f"commit {number}")
    git(clone, "push", "--quiet", "origin", "HEAD:refs/heads/pushed")
    git(clone, "gc", "--quiet", "--prune=now")
    git(origin, "gc", "--quiet", "--prune=now")
    assert_whole(clone, COMMITS + 5)
    cold()
    assert_whole(clone, COMMITS + 5)
    git(origin, "reset", "--quiet", "--hard", "pushed")
    assert_whole(origin, COMMITS + 5)


def test_clones_of_one_machine_share_objects_by_hard_links(place: Path, cold: Callable[[], None]):
    origin, clone, tree = place / "origin", place / "clone", place / "tree"
    make_repository(origin, 100)
    git(place, "clone", "--quiet", "--local", origin, clone)
    [pack] = (clone / ".git" / "objects" / "pack").glob("*.pack")
    assert pack.stat().st_nlink == 2
    git(clone, "worktree", "add", "--quiet", "--detach", tree, "HEAD~50")
    git(clone, "stash", "list")
    cold()
    assert pack.stat().st_nlink == 2
    assert_whole(clone, 100)
    assert_whole(tree, 50)
