"""Moments as people write them, and as milliseconds since 1970.

ISO 8601: `2026-11-22`, `2026-11-22T20:15`, `2026-11-22T20:15:30.5+01:00`; without an offset it is
UTC. Or seconds since 1970: `@1795378530`.
"""

from datetime import UTC, datetime


def parse_moment(text: str) -> int:
    """Milliseconds since 1970. Raises ValueError, with what would be right."""
    try:
        if text.startswith("@"):
            return int(float(text[1:]) * 1000)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is no time: write 2026-11-22, 2026-11-22T20:15:30Z or @SECONDS"
        ) from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    return round(found.timestamp() * 1000)


def format_moment(moment_ms: int) -> str:
    """In UTC, to the second, or to the millisecond where it is not whole; `parse_moment` gives
    the same back."""
    at = datetime.fromtimestamp(moment_ms // 1000, UTC)
    rest = f".{moment_ms % 1000:03}" if moment_ms % 1000 else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{rest}Z"
