"""A volume as its user has it: made, mounted, asked and lost by commands, over any accounts."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import trio

from aggfs.cli.client import call
from aggfs.daemon.mountpoint import mounted_at
from aggfs.daemon.rendezvous import socket_path
from tests.support.checking import assert_sound
from tests.support.commands import Home, words_in
from tests.support.places import Place

PASSPHRASE = "a passphrase of the tests"
LIFETIME_SECONDS = 1800.0
WAIT_SECONDS = 90.0
_LOOK_AGAIN_SECONDS = 0.05


class LiveVolume:
    """One volume of one home. Nothing is mounted until `mount`; `close` ends everything."""

    def __init__(
        self, home: Home, name: str, places: Sequence[Place], *, k: int, n: int, seconds: float
    ) -> None:
        """`seconds` bounds each command."""
        self.home = home
        self.name = name
        self.places = list(places)
        self.k = k
        self.n = n
        self.words = ""
        self.folder = home.path / name
        self.expected_log: list[str] = []
        self._seconds = seconds
        self._options: tuple[str, ...] = ()
        self._guardian: threading.Timer | None = None

    # --- commands -----------------------------------------------------------------------------

    def aggfs(self, *arguments: str | Path, code: int = 0) -> str:
        """A command; what it printed."""
        return self.home.aggfs(*arguments, code=code, seconds=self._seconds).out

    def init(self, *options: str) -> None:
        """Make it. The words and a passphrase open it."""
        secret = self.home.path / "passphrase"
        secret.write_text(PASSPHRASE + "\n")
        self.folder.mkdir(exist_ok=True)
        shape = [f"--k={self.k}", f"--n={self.n}", "--passphrase-file", str(secret)]
        self.words = words_in(self.aggfs("init", self.name, *self._specs(), *shape, *options))

    def _specs(self) -> list[str]:
        return [f"--account={place.spec()}" for place in self.places]

    def mount(self, *options: str) -> None:
        """Mount it; a stale mount of it is no obstacle."""
        self._options = options
        given = [part for option in options for part in ("-o", option)]
        self.aggfs("mount", self.name, self.folder, *given)
        self._watch(self.pid)

    def _watch(self, pid: int) -> None:
        """A call into a folder that never answers ends only with the daemon."""
        self._unwatch()
        self._guardian = threading.Timer(LIFETIME_SECONDS, _kill, (pid,))
        self._guardian.daemon = True
        self._guardian.start()

    def _unwatch(self) -> None:
        if self._guardian is not None:
            self._guardian.cancel()
            self._guardian = None

    def umount(self, *options: str) -> None:
        """Bring everything into the accounts, and unmount."""
        self.aggfs("umount", self.name, *options)
        self._unwatch()

    def remount(self) -> None:
        """Bring everything into the accounts, unmount, and mount with the same options."""
        self.umount()
        self.mount(*self._options)

    def flush(self, path: Path | None = None) -> None:
        """Everything, or one path, into the accounts."""
        self.aggfs("flush", *([path] if path else ["--volume", self.name]))

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The daemon itself: what a command would ask, without starting one."""
        return dict(call(socket_path(str(self.state)), verb, **arguments))

    def evict(self) -> None:
        """Nothing of the files stays here: not in the cache, not in the kernel."""
        self.ask("evict")
        for directory, _, names in os.walk(self.folder):
            for name in names:
                drop_pages(Path(directory) / name)

    def status(self) -> dict[str, Any]:
        """What `aggfs status --json` says, but for the folder."""
        return self.ask("status")

    def explained(self, command: str, path: Path) -> dict[str, Any]:
        """`where`, `why` or `holes` of a path."""
        return dict(json.loads(self.aggfs(command, path, "--json")))

    def audit(self, code: int = 0) -> dict[str, Any]:
        """What `aggfs audit no-complete-copy` says."""
        arguments = ("audit", "no-complete-copy", "--volume", self.name, "--json")
        return dict(json.loads(self.aggfs(*arguments, code=code)))

    def recover_as(self, name: str, *, places: Sequence[Place] = ()) -> "LiveVolume":
        """The same volume under another name on another machine: a home with nothing in it."""
        path = self.home.path.parent / f"{self.home.path.name}-{name}"
        path.mkdir()
        home = Home(path, self.home.variables)
        chosen = list(places) or self.places
        other = LiveVolume(home, name, chosen, k=self.k, n=self.n, seconds=self._seconds)
        other.folder.mkdir()
        other.recover(self.words)
        return other

    def recover(self, words: str, *, code: int = 0) -> str:
        """`aggfs recover` with these words."""
        self.words = words
        file = self.home.path / "words"
        file.write_text(words + "\n")
        return self.aggfs("recover", self.name, *self._specs(), "--words-file", file, code=code)

    # --- what it does -------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The daemon's."""
        return int(self.status()["pid"])

    @property
    def state(self) -> Path:
        """Its state directory."""
        return self.home.path / "state" / "aggfs" / self.name

    def place(self, name: str) -> Place:
        """The account of this name."""
        return next(place for place in self.places if place.name == name)

    def asked(self) -> dict[str, int]:
        """Requests for objects so far, by verb; what the accounts are asked about room is none."""
        total: dict[str, int] = {}
        for account in self.status()["accounts"]:
            for verb, count in account["requests_by_verb"].items():
                if verb != "space":
                    total[verb] = total.get(verb, 0) + count
        return total

    def received_bytes(self) -> int:
        """How much has come from the accounts so far."""
        return sum(int(account["received_bytes"]) for account in self.status()["accounts"])

    def wait_until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> float:
        """Until the status is so; how many seconds that took."""
        began = time.monotonic()
        while not holds(status := self.status()):
            late = time.monotonic() - began >= WAIT_SECONDS
            assert not late, f"not within {WAIT_SECONDS} s: {what}; {status}"
            time.sleep(_LOOK_AGAIN_SECONDS)
        return time.monotonic() - began

    def wait_until_quiet(self) -> None:
        """Until nothing is under way: every stripe full, everything published."""
        self.wait_until(_quiet, "everything is full and published")

    # --- its end ------------------------------------------------------------------------------

    def kill(self) -> None:
        """`kill -9` of the daemon."""
        pid = self.pid
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([descriptor], [], [], WAIT_SECONDS)[0], "still alive"
        finally:
            os.close(descriptor)

    def lose_local_state(self) -> None:
        """The machine is gone, and all it knew."""
        for name in ("config", "state", "data"):
            shutil.rmtree(self.home.path / name, ignore_errors=True)

    def log(self) -> str:
        """What its daemons have logged so far."""
        path = self.state / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def expect_log(self, text: str) -> None:
        """A warning with this text in it is provoked."""
        self.expected_log.append(text)

    def unexpected_log(self) -> list[str]:
        """Log records of WARNING and above that nobody named, and tracebacks."""
        lines = re.findall(
            r"^.* (?:WARNING|ERROR|CRITICAL) .*$|^Traceback.*$", self.log(), re.MULTILINE
        )
        return [line for line in lines if not any(text in line for text in self.expected_log)]

    def assert_sound(self) -> None:
        """Its local state is in order. Nobody has it open."""
        if self.state.exists():
            trio.run(assert_sound, self.state)

    def close(self) -> None:
        """Unmount if need be, whatever state it is in. Never raises."""
        self._unwatch()
        folder = str(self.folder)
        if mounted_at(folder) is None:
            return
        done = self._end()
        for _ in range(5):
            if done or mounted_at(folder) is None:
                return
            subprocess.run(["fusermount3", "-u", "-z", folder], check=False, timeout=WAIT_SECONDS)

    def _end(self) -> bool:
        try:
            self.aggfs("umount", self.name, "--now")
        except (AssertionError, OSError, ValueError):
            try:
                self.kill()
            except (AssertionError, OSError, ValueError):
                return False
            return False
        return True


def _quiet(status: dict[str, Any]) -> bool:
    waiting = ("under_replicated", "dirty_bytes", "staged_bytes", "outbox_entries")
    return not any(status[name] for name in (*waiting, "segments_pending"))


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def drop_pages(path: Path) -> None:
    """The kernel keeps nothing of a regular file."""
    if not path.is_file() or path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
