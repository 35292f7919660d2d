"""The few words that a service says to systemd (sd_notify), and the two that it is told."""

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Who started this process, if it is one that listens.

    `watchdog_seconds`: it ends a service that has not said for so long that it is alive; infinite
    where it does not watch. Nothing here raises or waits: the manager's trouble is not ours.
    """

    address: str | None = None
    watchdog_seconds: float = math.inf

    @classmethod
    def named_in(cls, environment: Mapping[str, str]) -> "ServiceManager":
        """As NOTIFY_SOCKET and WATCHDOG_USEC say; nobody where they are not set."""
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        try:
            seconds = int(environment["WATCHDOG_USEC"]) / MICROSECONDS if watched else math.inf
        except (KeyError, ValueError):
            seconds = math.inf
        return cls(environment.get("NOTIFY_SOCKET") or None, seconds if seconds > 0 else math.inf)

    def ready(self, status: str) -> bool:
        """The folder answers. False: the manager is behind, and has to be told again."""
        return self._say("READY=1", f"STATUS={status}")

    def alive(self) -> None:
        """The loop that serves the folder turns."""
        self._say("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        """The folder is gone, or going."""
        self._say("STOPPING=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line that people read."""
        self._say(f"STATUS={text}")

    def have_patience(self, seconds: float) -> None:
        """Give the step that is under way (here: the stop) so long from now on, at least."""
        self._say(f"EXTEND_TIMEOUT_USEC={int(seconds * MICROSECONDS)}")

    def _say(self, *lines: str) -> bool:
        """False where the manager's queue is full."""
        if self.address is None:
            return True
        abstract = self.address.startswith("@")
        name = "\0" + self.address[1:] if abstract else self.address
        message = "\n".join(" ".join(line.splitlines()) for line in lines)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto(message.encode(errors="replace"), name)
        except BlockingIOError:
            return False
        except OSError:
            return True  # nobody is there any more
        return True


NOBODY = ServiceManager()
