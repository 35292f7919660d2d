"""How figures and tables look on a terminal."""

from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(size_bytes: int) -> str:
    """3 significant digits: 1.50 GiB."""
    value = float(size_bytes)
    for unit in _UNITS:
        if abs(value) < 1000 or unit == _UNITS[-1]:
            break
        value /= 1024
    if unit == "B":
        return f"{size_bytes} B"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f} {unit}"


def age(seconds: float | None) -> str:
    """How long ago, in the unit people would use; "never" for None."""
    if seconds is None:
        return "never"
    return f"{span(seconds)} ago"


def span(seconds: float) -> str:
    """How long something takes, in the unit people would use."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def rate(bytes_per_second: float) -> str:
    """Bytes a second in the unit of networks and disks, 3 significant digits: 12.5 MB/s."""
    value = bytes_per_second / 1e6
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} MB/s"


def latency(seconds: float | None) -> str:
    """How long a request takes, 3 significant digits: 0.25 ms; "-" for None."""
    if seconds is None:
        return "-"
    value, unit = (seconds, "s") if seconds >= 1 else (seconds * 1e3, "ms")
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def percent(level: float) -> str:
    """A level between 0 and 1."""
    return f"{100 * level:.1f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width under their header, two spaces apart."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
