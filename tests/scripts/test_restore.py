"""The way out: scripts/restore.py brings a volume back without aggfs."""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from aggfs.coding import slots
from aggfs.coding.keys import is_header_name
from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, Layout
from tests.support.running import (
    Dump,
    Place,
    checkpoint,
    dump,
    fill,
    flush,
    make_volume,
    new_file,
    running,
)
from tests.support.servers import REGION, Moto
from tests.support.stripes import content

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "restore.py"


async def restore(
    place: Place, *options: str, code: int = 0, accounts: list[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script into `root/restored`; a stranger's machine: no aggfs on its path."""
    words = place.root / "words"
    words.write_text(place.words)
    chosen = options or ("--words-file", str(words))
    places = accounts or [one.path for one in place.config.accounts]
    command = [sys.executable, "-I", str(SCRIPT), *chosen, str(place.root / "restored"), *places]
    done = await trio.run_process(
        command,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        cwd=str(place.root),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(place.root),
            "AWS_SHARED_CREDENTIALS_FILE": str(place.root / "aws"),
        },
    )
    found = subprocess.CompletedProcess(command, done.returncode, *map(text, output(done)))
    assert found.returncode == code, found.stdout + found.stderr
    return found


def output(done) -> tuple[bytes, bytes]:
    return done.stdout or b"", done.stderr or b""


def text(data: bytes) -> str:
    return data.decode(errors="replace")


def on_disk(root: Path) -> Dump:
    """A folder of this machine as `dump` shows a volume."""
    found: Dump = {}
    paths = [os.fsencode(root)]
    for path in paths:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            paths += [os.path.join(path, name) for name in os.listdir(path)]
        shown = b"/" + os.path.relpath(path, os.fsencode(root)).removeprefix(b".")
        found[shown] = (status, _xattrs(path), _digest(path, status))
    return found


def _xattrs(path: bytes) -> dict[bytes, bytes]:
    if os.path.islink(path):
        return {}
    names = [name for name in os.listxattr(path) if name.startswith("user.")]
    return {os.fsencode(name): os.getxattr(path, name) for name in names}


def _digest(path: bytes, status: os.stat_result) -> bytes:
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path)
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).digest()
    return b""


def assert_same(volume: Dump, folder: Dump) -> None:
    """What the volume shows is what lies in the folder."""
    assert set(folder) == set(volume)
    root = os.geteuid() == 0
    inodes: dict[object, int] = {}
    for path, (inode, mode, uid, gid, rdev, size, nlink, *times, xattrs, digest) in volume.items():
        status, found_xattrs, found_digest = folder[path]
        assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(mode), path
        assert (found_xattrs, found_digest) == (xattrs, digest), path
        if not stat.S_ISLNK(mode):
            assert status.st_mode == mode, path
        if root:
            assert (status.st_uid, status.st_gid) == (uid, gid), path
        if stat.S_ISREG(mode):
            assert status.st_size == size, path
        if not stat.S_ISDIR(mode):
            assert (status.st_nlink, status.st_rdev) == (nlink, rdev), path
        assert status.st_mtime_ns == times[1], path
        assert inodes.setdefault(inode, status.st_ino) == status.st_ino, path


def can_make_devices(folder: Path) -> bool:
    try:
        os.mknod(folder / "try", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        return False
    (folder / "try").unlink()
    return True


async def filled(root: Path, **settings) -> tuple[Place, Dump]:
    place = await make_volume(root, **settings)
    async with running(place.config, place.state) as volume:
        await fill(volume)
        if not can_make_devices(root):
            directory = volume.namespace.resolve(b"/directory")
            volume.namespace.unlink(directory.number, b"null")
            await flush(volume)
        return place, await dump(volume)


@pytest.mark.parametrize(
    ("k", "n", "layout", "compression"),
    [
        (2, 3, Layout.CONTIGUOUS, None),
        (3, 5, Layout.CONTIGUOUS, "zstd"),
        (4, 6, Layout.INTERLEAVE, None),
        (2, 4, Layout.CONTIGUOUS_COPIES, None),
        (3, 6, Layout.INTERLEAVE_COPIES, "zstd"),
    ],
)
async def test_a_tree_comes_back_without_aggfs(tmp_path, k, n, layout, compression):
    place, before = await filled(tmp_path, k=k, n=n, layout=layout, compression=compression)
    await restore(place)
    assert_same(before, on_disk(tmp_path / "restored"))


async def test_gaps_take_no_room(tmp_path):
    place, _ = await filled(tmp_path)
    await restore(place)
    status = os.stat(tmp_path / "restored/directory/sparse")
    assert status.st_size == 20 * BLOCK_BYTES + 5
    assert status.st_blocks * 512 < 6 * BLOCK_BYTES


async def test_any_k_accounts_will_do(tmp_path):
    place, before = await filled(tmp_path, k=3, n=5)
    shutil.rmtree(tmp_path / "account0")
    shutil.rmtree(tmp_path / "account3")
    told = await restore(place)
    assert told.stderr.count("is left out") == 2
    assert_same(before, on_disk(tmp_path / "restored"))


async def test_in_copies_any_one_account_of_2_of_4_may_be_missing(tmp_path):
    place, before = await filled(tmp_path, k=2, n=4, layout=Layout.CONTIGUOUS_COPIES)
    for number in range(4):
        account = tmp_path / f"account{number}"
        account.rename(tmp_path / "away")
        told = await restore(place)
        assert told.stderr.count("is left out") == 1
        assert_same(before, on_disk(tmp_path / "restored"))
        shutil.rmtree(tmp_path / "restored")
        (tmp_path / "away").rename(account)


async def test_every_kind_of_secret_opens(tmp_path):
    file = slots.new_key_file(os.urandom)
    secrets = (slots.key_file(file), slots.passphrase("cafe\u0301 au lait"))
    place = await make_volume(tmp_path, secrets=secrets)
    (tmp_path / "key").write_bytes(file)
    (tmp_path / "passphrase").write_text("caf\u00e9 au lait\n")
    await restore(place, "--key-file", str(tmp_path / "key"))
    (tmp_path / "restored").rmdir()
    await restore(place, "--passphrase-file", str(tmp_path / "passphrase"))


async def test_a_wrong_secret_is_told_and_makes_nothing(tmp_path):
    place = await make_volume(tmp_path)
    (tmp_path / "wrong").write_text(slots.new_recovery_words(os.urandom))
    told = await restore(place, "--words-file", str(tmp_path / "wrong"), code=1)
    assert told.stderr == "restore: this secret opens no volume in these accounts\n"
    assert not (tmp_path / "restored").exists()


async def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    place = await make_volume(tmp_path)
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "mine").write_text("mine")
    told = await restore(place, code=1)
    assert "is not empty" in told.stderr
    assert os.listdir(tmp_path / "restored") == ["mine"]


def objects_of(account: Path) -> list[Path]:
    found = [path for path in account.rglob("*") if path.is_file()]
    return [path for path in found if not is_header_name(str(path.relative_to(account)))]


async def test_damaged_fragments_are_out_voted(tmp_path):
    place, before = await filled(tmp_path)
    for path in objects_of(tmp_path / "account1"):
        data = bytearray(path.read_bytes())
        for at in range(130, len(data), 200):
            data[at] ^= 1
        path.write_bytes(data)
    await restore(place)
    assert_same(before, on_disk(tmp_path / "restored"))


async def test_what_cannot_be_had_is_named_and_the_rest_comes_back(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"whole", content(300_000, 1))
        await flush(volume)
        await new_file(volume, 1, b"broken", content(400_000, 2))
        await flush(volume)
        for path in fragments_of(volume, place, b"/broken")[:2]:
            path.unlink()
    told = await restore(place, code=1)
    assert "/broken: is left out: 1 of 2 fragments" in told.stderr
    assert os.listdir(tmp_path / "restored") == ["whole"]
    assert (tmp_path / "restored" / "whole").read_bytes() == content(300_000, 1)


def fragments_of(volume: Volume, place: Place, path: bytes) -> list[Path]:
    """The files in the accounts that hold a file's only stripe."""
    (sid,) = volume.sids_of(volume.namespace.resolve(path))
    state = volume.parts.blocks.stripe(sid)
    directories = {one.id: Path(one.path) for one in place.config.accounts}
    return [
        directories[owner] / volume.parts.keys.fragment_name(state.row.epoch, sid, index, owner)
        for index, owner in enumerate(state.row.places)
    ]


async def test_a_lost_segment_is_named_and_the_rest_comes_back(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        for number in range(3):
            await new_file(volume, 1, b"file%d" % number, content(100, number))
            await flush(volume)
        keys, last = volume.parts.keys, volume.parts.publisher.state.namespace.sequence
    for account in place.config.accounts[:2]:
        name = keys.segment_name(1, place.config.device, 1, last - 1, account.id)
        (Path(account.path) / name).unlink()
    told = await restore(place, code=1)
    assert f"segment {last - 1} of chain 1" in told.stderr
    assert sorted(os.listdir(tmp_path / "restored")) == ["file0", "file2"]


async def test_a_stripe_without_row_is_read_by_its_own_table(tmp_path):
    place = await make_volume(tmp_path)
    async with running(place.config, place.state) as volume:
        await new_file(volume, 1, b"file", content(700_000, 1))
        await flush(volume)
        keys, last = volume.parts.keys, volume.parts.publisher.state.control.sequence
    for account in place.config.accounts[:2]:
        name = keys.segment_name(1, place.config.device, 0, last, account.id)
        (Path(account.path) / name).unlink()
    await restore(place, code=1)
    assert (tmp_path / "restored" / "file").read_bytes() == content(700_000, 1)


async def test_accounts_may_be_parts_of_s3_buckets(tmp_path):
    place, before = await filled(tmp_path)
    with Moto(tmp_path / "moto", buckets=("bucket",)) as server:
        with contextlib.closing(server.client()) as client:
            for number in (0, 1):
                account = tmp_path / f"account{number}"
                for path in filter(Path.is_file, account.rglob("*")):
                    key = f"at {number}/{path.relative_to(account)}"
                    client.put_object(Bucket="bucket", Key=key, Body=path.read_bytes())
        (tmp_path / "aws").write_text(
            f"[moto]\naws_access_key_id={server.keys.access}\n"
            f"aws_secret_access_key={server.keys.secret}\n"
        )
        settings = f"endpoint={server.endpoint}&region={REGION}&profile=moto&path_style=yes"
        accounts = [f"s3://bucket/at%20{number}?{settings}" for number in (0, 1)]
        await restore(place, accounts=accounts)
    assert_same(before, on_disk(tmp_path / "restored"))


async def test_a_checkpoint_stands_for_the_segments_before_it(tmp_path):
    place, _ = await filled(tmp_path)
    async with running(place.config, place.state) as volume:
        assert await checkpoint(volume, place) > 10
        directory = volume.namespace.resolve(b"/directory")
        await new_file(volume, directory.number, b"later", content(2000))
        volume.namespace.rename(directory.number, b"link", 1, b"x", wait_for_content=False)
        volume.namespace.unlink(directory.number, b"size1")
        await flush(volume)
        before = await dump(volume)
    await restore(place)
    assert_same(before, on_disk(tmp_path / "restored"))
