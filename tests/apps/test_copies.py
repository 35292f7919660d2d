"""rsync and tar: a tree with everything that they keep goes to the mount and comes back."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounting import needs_fuse
from tests.support.programs import run
from tests.support.samples import noise, write_noise

pytestmark = needs_fuse

SPARSE_BYTES = 50_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree outside the mount: hard links, symlinks, a fifo, xattrs, a sparse file, times, modes,
    and names that are not UTF-8."""
    top = tmp_path / "source"
    for number in range(60):
        directory = top / f"d{number % 6}" / f"e{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"f{number}"
        write_noise(path, 700 * number, number)
        os.utime(path, ns=(10**18 + number, 10**18 + 7 * number))
        path.chmod(0o600 | number)
    os.link(top / "d1/e1/f1", top / "hard")
    os.link(top / "d1/e1/f1", top / "d2/harder")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "fifo")
    os.setxattr(top / "hard", "user.colour", b"blue\0\xff")
    os.setxattr(top / "d0", "user.kind", b"directory")
    (Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe"))).write_bytes(b"not UTF-8")
    with (top / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(SPARSE_BYTES // 2)
        file.write(noise(100_000))
        file.truncate(SPARSE_BYTES)
    return top


def differences(source: Path, copy: Path) -> str:
    """What rsync would change of the copy to make it the source, by content; nothing is changed."""
    flags = ("--dry-run", "--checksum", "--itemize-changes", "--delete", "-aHX")
    return run("rsync", *flags, f"{source}/", f"{copy}/", at=source)


def test_the_second_rsync_transfers_nothing(
    source: Path, place: Path, cold: Callable[[], None], tmp_path: Path
):
    def sync(origin: Path, copy: Path) -> str:
        flags = ("-aHAXS", "--delete", "--itemize-changes")
        return run("rsync", *flags, f"{origin}/", f"{copy}/", at=source)

    assert "fifo" in sync(source, place)
    assert sync(source, place) == ""
    (source / "d1/e1/f1").unlink()
    (source / "d3").rename(source / "renamed")
    assert "*deleting   d3/\n" in sync(source, place)
    assert sync(source, place) == ""
    assert (place / "sparse").stat().st_blocks * 512 < SPARSE_BYTES // 10
    cold()
    assert sync(source, place) == ""
    assert differences(source, place) == ""
    back = tmp_path / "back"
    sync(place, back)
    assert differences(source, back) == ""


def test_tar_keeps_hard_links_xattrs_and_gaps(source: Path, place: Path, cold: Callable[[], None]):
    kept = ("--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner")
    archive, unpacked = place / "archive.tar", place / "unpacked"
    unpacked.mkdir()
    run("tar", *kept, "-cf", archive, "-C", source, ".", at=place)
    assert archive.stat().st_size < SPARSE_BYTES // 10
    run("tar", *kept, "-xpf", archive, "-C", unpacked, at=place)

    def is_whole() -> None:
        run("tar", "--compare", "-f", archive, "-C", unpacked, at=place)
        assert differences(source, unpacked) == ""
        assert (unpacked / "hard").stat().st_nlink == 3
        assert os.getxattr(unpacked / "d2/harder", "user.colour") == b"blue\0\xff"
        assert (unpacked / "sparse").stat().st_blocks * 512 < SPARSE_BYTES // 10

    is_whole()
    cold()
    is_whole()
