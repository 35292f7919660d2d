"""When a read asks one account more than it needs, because an answer is late.

Late is what takes longer than 95 % of the latest answers did, or than 250 ms while too few are
known. Such requests are at most a tenth of all: when everything is slow, more requests would
only make it slower. What is silent for seconds is another matter: it counts as failed, and its
replacement is no hedge. Pure: told the latencies.
"""

from collections import deque

FIRST_LATE_SECONDS = 0.25
LEAST_LATE_SECONDS = 0.05
SILENT_SECONDS = 3.0
SHARE = 0.1
SAVED_LIMIT = 5.0
SAMPLES = 200
SAMPLES_NEEDED = 20
MEASURE_EVERY = 20


class Hedging:
    """What all reads of a volume share: how long answers take, and how many hedges are left."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=SAMPLES)
        self._answers = 0
        self._saved = 1.0
        self.late_seconds = FIRST_LATE_SECONDS

    def asked(self) -> None:
        """A request went out that is no hedge."""
        self._saved = min(SAVED_LIMIT, self._saved + SHARE)

    def answered(self, seconds: float) -> None:
        """An answer took this long."""
        self._recent.append(seconds)
        self._answers += 1
        if self._answers >= SAMPLES_NEEDED and self._answers % MEASURE_EVERY == 0:
            ordered = sorted(self._recent)
            self.late_seconds = max(LEAST_LATE_SECONDS, ordered[len(ordered) * 95 // 100])

    def take(self) -> bool:
        """Whether one request more may go out because another is late."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
