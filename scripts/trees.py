"""A source tree under git, and the work that is timed with it."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from measuring import in_time
from peers import Peer

LARGEST_BYTES = 64 * 1024
GIT = ["git", "-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0"]


@dataclass(frozen=True, slots=True)
class Tree:
    """A packed source tree with its history of one commit."""

    archive: pathlib.Path
    files: int


@contextlib.contextmanager
def source_tree(count: int) -> Iterator[Tree]:
    """So many of Python's own sources, or as many as there are."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-tree-"))
    try:
        found = copy_sources(place / "tree", count)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"], ["gc", "-q"]):
            git(place / "tree", *command)
        archive = place / "tree.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(place / "tree", "tree")
        yield Tree(archive, found)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def copy_sources(target: pathlib.Path, count: int) -> int:
    found = 0
    for kind in ("stdlib", "purelib"):
        top = pathlib.Path(sysconfig.get_path(kind))
        for path in sorted(top.rglob("*.py")):
            if found < count and path.stat().st_size <= LARGEST_BYTES:
                copy = target / kind / path.relative_to(top)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
                found += 1
    return found


def git(folder: pathlib.Path, *command: str, timeout: float = 300) -> None:
    """Raises CalledProcessError or TimeoutExpired."""
    subprocess.run([*GIT, *command], cwd=folder, check=True, capture_output=True, timeout=timeout)


def tree_work(peer: Peer, tree: Tree, limit_seconds: float) -> Iterator[tuple[str, float, str]]:
    """The tree unpacked, looked at by git, removed. What takes too long is left out."""
    with tarfile.open(tree.archive) as tar:
        steps = (tar.extract(member, peer.folder, filter="data") for member in tar)
        count, unpacked = in_time(steps, 10 * limit_seconds)
    yield "source tree, unpacked", unpacked, "1/s"
    if count >= tree.files:
        for which in ("first", "warm"):
            began = time.monotonic()
            try:
                git(peer.folder / "tree", "status", "--short", timeout=3 * limit_seconds)
            except subprocess.TimeoutExpired:
                break
            yield f"git status, {which}", 1000 * (time.monotonic() - began), "ms"
    _, removed = in_time(removals(peer.folder / "tree"), limit_seconds)
    yield "source tree, removed", removed, "1/s"


def removals(top: pathlib.Path) -> Iterator[None]:
    """Each step removes one entry below, contents first."""
    for folder, folders, names in os.walk(top, topdown=False):
        for name in names:
            yield os.unlink(os.path.join(folder, name))
        for name in folders:
            yield os.rmdir(os.path.join(folder, name))
