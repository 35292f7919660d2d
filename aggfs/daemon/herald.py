"""What the service manager is told while a folder is served: that the loop turns, what waits.

The herald is a task of the loop that serves the folder. A loop that hangs pings nobody, and the
watchdog ends the process; what programs had made durable is there after the restart.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping

import trio

from aggfs.daemon.systemd import ServiceManager
from aggfs.errors import AggfsError

log = logging.getLogger(__name__)

TELL_SECONDS = 5.0
READY_TRIES = 600  # a manager that is behind is told again that the folder answers
AGAIN_SECONDS = 0.1
PATIENCE_SECONDS = 30.0  # asked for at each telling of a stop: several tellings may be missed
STOP_SECONDS = 900.0  # no more patience is asked for after so long: a shutdown must end
OPENING = "opening the volume"
SETTLING = "stopping: the local state is made durable"

Answer = Mapping[str, object]


class Herald:
    """Tells `manager`; `ask` is the volume's verb `status`."""

    def __init__(self, manager: ServiceManager, ask: Callable[[], Awaitable[Answer]]) -> None:
        self._manager = manager
        self._ask = ask
        self._patient_until: float | None = None
        self._asks = False
        self._told = ""

    async def run(self) -> None:
        """Tell until cancelled; ends at once where nobody listens."""
        if self._manager.address is None:
            return
        seconds = min(TELL_SECONDS, self._manager.watchdog_seconds / 3)
        while True:
            self._manager.alive()
            if self._patient_until is not None and trio.current_time() < self._patient_until:
                self._manager.have_patience(PATIENCE_SECONDS)
            await self.tell()
            await trio.sleep(seconds)

    def opening(self) -> None:
        """The volume is being opened and mounted."""
        self._say(OPENING)

    async def ready(self) -> None:
        """The folder answers."""
        self._asks = True
        self._told = await self._words()
        for _ in range(READY_TRIES):
            if self._manager.ready(self._told):
                return
            await trio.sleep(AGAIN_SECONDS)

    async def stopping(self, seconds: float) -> None:
        """The folder is gone; up to `seconds` are taken to bring what waits to the accounts."""
        self._patient_until = trio.current_time() + seconds + STOP_SECONDS
        self._told = f"stopping: {await self._words()}"
        self._manager.stopping(self._told)
        self._manager.have_patience(PATIENCE_SECONDS)

    async def settling(self) -> str:
        """Nothing more is sent, and the volume is not asked any more; what waits, in words."""
        self._asks, words = False, await self._words()
        self._say(SETTLING)
        return words

    def ended(self, words: str) -> None:
        """All is closed. What is said last is what people read of a service that is not running."""
        self._say(f"stopped: {words}")

    async def tell(self) -> None:
        """What waits, where that has changed."""
        if self._asks:
            prefix = "" if self._patient_until is None else "stopping: "
            self._say(prefix + await self._words())

    async def _words(self) -> str:
        if self._manager.address is None:
            return ""
        try:
            return in_words(await self._ask())
        except AggfsError as error:
            return str(error)
        except Exception:  # a line of text for people must not end the mount
            log.exception("the volume's status failed unexpectedly")
            return "what waits is not known"

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._manager.status(text)


def in_words(answer: Answer) -> str:
    """One line for people: what is not in the accounts yet, and what keeps it."""
    waiting = _number(answer, "staged_bytes") + _number(answer, "dirty_bytes")
    entries = _number(answer, "outbox_entries") + _number(answer, "segments_pending")
    if waiting:
        unit, name = (2**20, "MiB") if waiting >= 2**20 else (2**10, "KiB")
        words = [f"{waiting / unit:.1f} {name} wait to be uploaded"]
    elif entries:
        words = ["changed names wait to be uploaded"]
    else:
        words = ["everything is in the accounts"]
    if answer.get("read_only"):
        words.insert(0, "READ-ONLY")
    accounts = answer.get("accounts")
    silent = [
        str(account.get("name"))
        for account in (accounts if isinstance(accounts, list) else [])
        if not account.get("healthy", True)
    ]
    if silent:
        words.append(f"no answer from {', '.join(silent)}")
    return "; ".join(words)


def _number(answer: Answer, name: str) -> int:
    found = answer.get(name)
    return found if isinstance(found, int) else 0
