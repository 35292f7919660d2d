"""What work costs, kept: counts of requests and objects, and CPU time of the daemon.

Never wall time: machines are shared. CPU time, too, differs from machine to machine and from hour
to hour, so that it is told in units of a reference: what this process takes just then for a mix of
what a daemon does. Daemon and reference have one CPU between them: on two that share a core, the
work of one would make that of the other dearer. A budget is what was measured when it was set (see
docs/performance.md for the figures in full); a quarter more is a failure.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import xxhash
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.faults import Ground, flushed, new_ground, until_full
from tests.support.mounting import needs_fuse
from tests.support.samples import write_noise
from tests.support.stage import MIB, Stage
from tests.support.volumes import LiveVolume, drop_pages

pytestmark = needs_fuse

SIZE_BYTES = 192 * MIB
ROUNDS = 3
FILES = 1000
FILE_BYTES = 4096
LEEWAY = 1.25
REFERENCE_CALLS = 50_000
REFERENCE_STEPS = 1_000_000
TICKS = os.sysconf("SC_CLK_TCK")

# Of the daemon, 3-of-5 over directories, the cache encrypted; in references for as many bytes.
CPU_BUDGETS = {"write": 4.5, "cold read": 2.2, "warm read": 0.8}
REQUEST_BUDGETS = {"put": 1450, "get_range": 820}  # for each GiB written, or read cold
OBJECT_BUDGET = 30  # of 1,000 files of 4 KiB


@pytest.fixture
def volume(stage: Stage) -> LiveVolume:
    """3-of-5 over directories."""
    return stage.volume(stage.directories(5), k=3, n=5)


@pytest.mark.alone
def test_large_files_keep_to_their_budgets(stage: Stage, volume: LiveVolume, tmp_path: Path):
    """The least of some rounds: other work only adds."""
    with one_cpu(volume.pid):
        rounds = [one_round(volume, volume.folder / f"{n}", tmp_path) for n in range(ROUNDS)]
    ratios = {what: min(found[what] for found in rounds) for what in CPU_BUDGETS}
    gib = ROUNDS * SIZE_BYTES / (1024 * MIB)
    requests = {verb: volume.asked().get(verb, 0) / gib for verb in REQUEST_BUDGETS}
    stage.tell(f"in references: {ratios}; a GiB asks {requests}")
    for found, budgets in ((ratios, CPU_BUDGETS), (requests, REQUEST_BUDGETS)):
        assert {what: one for what, one in found.items() if one > budgets[what] * LEEWAY} == {}


def one_round(volume: LiveVolume, path: Path, place: Path) -> dict[str, float]:
    """A file written, brought to the accounts, read from there, and read again: the daemon's CPU
    time for each, in references."""
    unit = reference_seconds(place)
    found = {}
    began = cpu_seconds(volume)
    write_noise(path, SIZE_BYTES)
    volume.flush()
    volume.wait_until_quiet()
    found["write"] = cpu_seconds(volume) - began
    volume.evict()
    for what in ("cold read", "warm read"):
        drop_pages(path)
        began = cpu_seconds(volume)
        read(path)
        found[what] = cpu_seconds(volume) - began
    return {what: seconds / unit for what, seconds in found.items()}


def test_names_ask_no_account(volume: LiveVolume):
    for number in range(FILES):
        (volume.folder / f"{number:04}").write_bytes(os.urandom(FILE_BYTES))
    volume.flush()
    volume.wait_until_quiet()
    before = volume.asked()
    names = sorted(os.listdir(volume.folder))
    assert len(names) == FILES
    for name in names:
        os.stat(volume.folder / name)
    os.rename(volume.folder / names[0], volume.folder / "renamed")
    assert volume.asked() == before, "what is listed, looked at and renamed asks no account"


async def test_small_files_keep_to_their_budget_of_objects(
    stage: Stage, tmp_path: Path, autojump_clock: object
):
    """Made at one moment: how many flushes go on meanwhile is another matter."""
    ground = await new_ground(tmp_path, 3, 5)
    async with ground.opened() as volume:
        before = objects_of(ground)
        for number in range(FILES):
            await ground.write_file(volume, b"%d" % number, FILE_BYTES)
        await flushed(volume)
        await until_full(volume)
        objects = objects_of(ground) - before
    stage.tell(f"{objects} objects of {FILES} files of {FILE_BYTES} bytes")
    assert objects <= OBJECT_BUDGET * LEEWAY


def objects_of(ground: Ground) -> int:
    """In all accounts."""
    return sum(map(len, ground.clouds.contents().values()))


def cpu_seconds(volume: LiveVolume) -> float:
    """User and system time of the daemon so far."""
    fields = Path(f"/proc/{volume.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def reference_seconds(place: Path) -> float:
    """CPU time of this process for as many bytes, written, synced, read, encrypted and summed, and
    for a fixed number of system calls and steps of Python.

    It allocates nothing large meanwhile: whether malloc asks the kernel for such memory each time
    anew depends on what the process did before, and made the reference twice as dear.
    """
    cipher, data, nonce = AESGCM(bytes(32)), os.urandom(MIB), bytes(12)
    found, sealed = bytearray(MIB), bytearray(MIB + 16)
    began = time.process_time()
    with (place / "reference").open("w+b", buffering=0) as file:
        for _ in range(SIZE_BYTES // MIB):
            file.write(data)
        os.fdatasync(file.fileno())
        file.seek(0)
        while file.readinto(found):
            cipher.encrypt_into(nonce, found, None, sealed)
            xxhash.xxh3_64_intdigest(sealed)
    for _ in range(REFERENCE_CALLS):
        os.stat(place)
    steps = 0
    for number in range(REFERENCE_STEPS):
        steps += number & 7
    return time.process_time() - began


@contextlib.contextmanager
def one_cpu(pid: int) -> Iterator[None]:
    """This process and that one, on one of the CPUs this process may use."""
    all_cpus = os.sched_getaffinity(0)
    chosen = {min(all_cpus)}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), chosen)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cpus)


def read(path: Path) -> None:
    """All of it, in requests of 1 MiB."""
    with path.open("rb", buffering=0) as file:
        while file.read(MIB):
            pass
