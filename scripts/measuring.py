"""What the benchmarks share: volumes to measure, what they are compared with, and figures.

Importable beside the scripts only. Everything happens in temporary places of its own, which go
with the blocks that made them.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.support.places import ACCESS_VARIABLE, SECRET_VARIABLE  # noqa: E402
from tests.support.servers import OWNER, REGION, SeaweedFS  # noqa: E402
from tests.support.shaping import Distance, Ways, far_away  # noqa: E402

GIB = 1 << 30
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PYTHON = sys.executable


def run(*command: str) -> str:
    """Run a command to its end; its output. Raises CalledProcessError with its errors shown."""
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, timeout=1800)
    return done.stdout


def aggfs(*arguments: str) -> str:
    """One aggfs command."""
    return run(PYTHON, "-c", "from aggfs.cli.main import main; main()", *arguments)


class Volume:
    """A mounted volume of its own in a temporary place, 3-of-5; over directories where no
    `accounts` are given."""

    def __init__(
        self,
        place: pathlib.Path,
        *options: str,
        k: int = 3,
        n: int = 5,
        accounts: Sequence[str] = (),
    ) -> None:
        self.place = place
        self.mountpoint = place / "mnt"
        self.mountpoint.mkdir()
        os.environ["XDG_CONFIG_HOME"] = str(place / "config")
        os.environ["XDG_STATE_HOME"] = str(place / "state")
        os.environ["XDG_DATA_HOME"] = str(place / "data")
        self.accounts = list(accounts or self._directories(n))
        named = [f"--account={account}" for account in self.accounts]
        aggfs("init", "bench", "--k", str(k), "--n", str(n), *options, *named)
        self.mount()

    def _directories(self, count: int) -> Iterator[str]:
        for number in range(count):
            account = self.place / f"account{number}"
            account.mkdir()
            yield f"a{number}={account}?provider=p{number}"

    def mount(self) -> None:
        """Mount in the background."""
        aggfs("mount", "bench", str(self.mountpoint))

    def unmount(self) -> None:
        """Unmount, whatever state it is in."""
        aggfs("umount", "bench")

    def status(self) -> dict:
        """What `aggfs status --json` says."""
        return json.loads(aggfs("status", "bench", "--json"))

    @property
    def pid(self) -> int:
        """The daemon's."""
        return int(self.status()["pid"])

    def flush(self) -> None:
        """Everything into the accounts."""
        aggfs("flush", "--volume", "bench")

    def evict(self) -> None:
        """Nothing clean stays in the sparse files."""
        aggfs("evict", "--volume", "bench")
        drop_caches()

    def requests(self) -> int:
        """Requests to all accounts since the mount."""
        return sum(account["requests"] for account in self.status()["accounts"])

    def objects(self) -> int:
        """Objects in all accounts."""
        return sum(len(files) for n in self.place.glob("account*") for _, _, files in os.walk(n))


def drop_caches() -> None:
    """Empty the kernel's page cache where we may."""
    os.sync()
    with contextlib.suppress(PermissionError):
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def touch_memory() -> None:
    """Use most of the memory once. A virtual machine gets a page from its host when it is first
    used, and that is CPU time of whoever writes to a file just then: up to 3 seconds a GiB."""
    fields = pathlib.Path("/proc/meminfo").read_text().split()
    free_bytes = 1024 * int(fields[fields.index("MemAvailable:") + 1])
    program = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]))
for at in range(0, len(memory), mmap.PAGESIZE):
    memory[at] = 1
"""
    subprocess.run([PYTHON, "-c", program, str(free_bytes * 3 // 4)], check=True)


def cpu_seconds(pid: int) -> float:
    """User + system seconds of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_anon_mib(pid: int) -> float:
    """Anonymous resident memory."""
    return _memory_mib(pid, "RssAnon")


def rss_peak_mib(pid: int) -> float:
    """The most that was resident at once, mapped files included."""
    return _memory_mib(pid, "VmHWM")


def _memory_mib(pid: int, what: str) -> float:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


@contextlib.contextmanager
def volume(*options: str, k: int = 3, n: int = 5, accounts: Sequence[str] = ()) -> Iterator[Volume]:
    """A volume that goes with its end, errors included."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-bench-"))
    made = None
    try:
        made = Volume(place, *options, k=k, n=n, accounts=accounts)
        yield made
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            if made is not None:
                made.unmount()
        subprocess.run(
            ["fusermount3", "-uz", str(place / "mnt")], check=False, stderr=subprocess.DEVNULL
        )
        shutil.rmtree(place, ignore_errors=True)


RESULTS: list[dict] = []


def tell(name: str, value: float, unit: str, bar: str = "") -> None:
    """Print one figure and keep it."""
    RESULTS.append({"name": name, "value": round(value, 3), "unit": unit, "bar": bar})
    print(f"{name:48} {value:10.2f} {unit:14} {bar}", flush=True)


def write_file(path: pathlib.Path, size: int, peak: Callable[[], None] = lambda: None) -> None:
    """A file of random bytes, no 64 KiB twice, with fsync."""
    piece = bytearray(os.urandom(8 * MIB))
    with path.open("wb", buffering=0) as file:
        for number in range(size // len(piece)):
            for at in range(0, len(piece), 64 * 1024):
                piece[at : at + 8] = number.to_bytes(8)
            file.write(piece)
            if number % 16 == 0:
                peak()
        os.fsync(file.fileno())


def read_file(path: pathlib.Path) -> None:
    """Read it all, 1 MiB at a time, from the daemon: nothing of it is in the kernel's pages."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(MIB):
            pass


def in_time(steps: Iterable[object], limit_seconds: float) -> tuple[int, float]:
    """How many steps were done until they or the time ended, and how many each second."""
    began, count = time.monotonic(), 0
    for _ in steps:
        count += 1
        if time.monotonic() - began > limit_seconds:
            break
    return count, count / (time.monotonic() - began)


@contextlib.contextmanager
def null_filesystem() -> Iterator[pathlib.Path]:
    """The floor: a pyfuse3 filesystem that answers everything from memory."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-null-"))
    process = subprocess.Popen([PYTHON, str(ROOT / "scripts/nullfs.py"), str(place)])
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(place) and time.monotonic() < deadline:
            time.sleep(0.02)
        yield place
    finally:
        subprocess.run(["fusermount3", "-uz", str(place)], check=False)
        process.wait(timeout=20)
        place.rmdir()


@contextlib.contextmanager
def s3_ways(count: int, distance: Distance | None) -> Iterator[tuple[SeaweedFS, Ways | list[str]]]:
    """An S3 server and so many endpoints of it, each behind a line of its own; None: no line."""
    place = pathlib.Path(tempfile.mkdtemp(prefix="aggfs-far-"))
    try:
        with SeaweedFS(place) as server:
            if distance is None:
                yield server, [server.endpoint] * count
            else:
                with far_away(server.endpoint, count, distance) as ways:
                    yield server, ways
    finally:
        shutil.rmtree(place, ignore_errors=True)


def s3_accounts(ways: Sequence[str], bucket: str = "aggfs") -> list[str]:
    """An account of a provider of its own behind each endpoint, all in one bucket."""
    os.environ[ACCESS_VARIABLE], os.environ[SECRET_VARIABLE] = OWNER.access, OWNER.secret
    keys = f"access_key_env={ACCESS_VARIABLE}&secret_key_env={SECRET_VARIABLE}"
    return [
        f"a{number}=s3://{bucket}/{number}?provider=p{number}&path_style=yes"
        f"&endpoint={way}&region={REGION}&{keys}"
        for number, way in enumerate(ways)
    ]
