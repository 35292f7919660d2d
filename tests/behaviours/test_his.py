"""HIS: what was there before: versions, the trash, views of a time, clones."""

import json
import os

from tests.support.mounting import needs_fuse
from tests.support.samples import noise
from tests.support.stage import MIB, Stage, shows

pytestmark = needs_fuse


@shows("HIS-1")
def test_an_old_version_of_a_file_comes_back(stage: Stage):
    """A file is overwritten by mistake: `versions` lists what it held, `restore` brings it back."""
    volume = stage.volume()
    path = volume.folder / "letter"
    first, second = noise(3 * MIB), noise(MIB)[::-1]
    path.write_bytes(first)
    volume.flush(path)
    path.write_bytes(second)
    volume.flush(path)
    listed = volume.aggfs("versions", path)
    stage.tell(listed)
    told = json.loads(volume.aggfs("versions", path, "--json"))["versions"]
    assert [one["size"] for one in told] == [len(second), len(first)]
    sent = sum(one["sent_bytes"] for one in volume.status()["accounts"])
    with path.open("rb") as reader:  # has pages of it in the kernel's memory
        assert reader.read() == second
        stage.tell(volume.aggfs("restore", path, "--version", told[1]["version"][:8]))
        reader.seek(0)
        assert reader.read() == first
    assert path.read_bytes() == first
    assert os.stat(path).st_size == len(first)
    volume.aggfs("restore", path, "--at", told[0]["time"], "--to", volume.folder / "second")
    assert (volume.folder / "second").read_bytes() == second
    volume.flush()
    moved = sum(one["sent_bytes"] for one in volume.status()["accounts"]) - sent
    stage.tell(f"two restores of {len(first) + len(second)} bytes sent {moved} bytes")
    assert moved < MIB
    assert len(json.loads(volume.aggfs("versions", path, "--json"))["versions"]) == 3
