"""Many files edited at once: each has a descriptor until it is sent out."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import resource, sys, trio
from pathlib import Path
from tests.support.running import make_volume, new_file, running

resource.setrlimit(resource.RLIMIT_NOFILE, (200, {hard}))

async def main():
    place = await make_volume(Path(sys.argv[1]))
    async with running(place.config, place.state) as volume:
        rows = [await new_file(volume, 1, b"file%d" % n, b"x%d" % n) for n in range({files})]
        for n, row in enumerate(rows):
            assert bytes(await volume.files.read(row.number, 0, 9)) == b"x%d" % n
    async with running(place.config, place.state) as volume:
        for n, row in enumerate(rows):
            assert bytes(await volume.files.read(row.number, 0, 9)) == b"x%d" % n
    print("well")

trio.run(main)
"""


def run(root: Path, *, hard: int, files: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(hard=hard, files=files), root],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    return done.stdout.strip() or done.stderr[-2000:]


def test_more_files_may_be_edited_than_a_shell_allows_descriptors(tmp_path):
    assert run(tmp_path, hard=4096, files=1000) == "well"
