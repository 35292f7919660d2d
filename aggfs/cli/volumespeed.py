"""What the accounts of a volume and this machine give together, and what k and n would cost."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import trio

from aggfs.cli import assembling
from aggfs.cli.accountspeed import Bounds, Measurement, measure_accounts
from aggfs.cli.codingspeed import coding_speed
from aggfs.cli.expecting import Speeds, codes_for, expected_read, expected_upload
from aggfs.cli.places import VolumePlace
from aggfs.config import Config
from aggfs.errors import AggfsError

CODING_SECONDS = 0.2

Answer = dict[str, Any]


def measure_volume(
    place: VolumePlace, *, size_bytes: int, seconds: float, report: Callable[[str], None]
) -> tuple[Answer, list[AggfsError]]:
    """Measure all accounts of a volume, mounted or not, and this machine's coding: what was found,
    and the errors of accounts that failed."""
    config = assembling.load_config(place)
    found = trio.run(
        partial(measure_accounts, report=report), config.accounts, Bounds(size_bytes, seconds)
    )
    notes = []
    if place.mountpoint is not None:
        notes.append(f"{place.name} is mounted: what its daemon moved meanwhile is missing here")
    codes = _codes(config, found, report)
    if found.speeds and not codes:
        notes.append("there is no code for fewer than 3 providers that answer")
    answer = {
        "accounts": [asdict(one) for one in found.speeds],
        "together": {
            "up_per_second": found.up_together,
            "down_per_second": found.down_together,
        },
        "failures": [{"name": name, "error": str(one)} for name, one in found.failures.items()],
        "codes": codes,
        "notes": notes,
    }
    return answer, list(found.failures.values())


def _codes(config: Config, found: Measurement, report: Callable[[str], None]) -> list[Answer]:
    """A row for each code that the accounts allow which were measured, one fragment at each
    provider."""
    if not found.up_together or not found.down_together:
        return []
    up = Speeds({one.name: one.up_per_second for one in found.speeds}, found.up_together)
    down = Speeds({one.name: one.down_per_second for one in found.speeds}, found.down_together)
    now = {(one.k, one.n) for one in config.classes if not one.layout.in_copies}
    rows = []
    for k, n in codes_for(len({one.provider for one in found.speeds})):
        report(f"coding {k} of {n}")
        speed = coding_speed(k, n, seconds=CODING_SECONDS)
        rows.append(
            {
                "k": k,
                "n": n,
                "current": (k, n) in now,
                "factor": n / k,
                "may_vanish": n - k,
                "upload": asdict(expected_upload(k, n, up, speed.encode_per_second)),
                "cold_read": asdict(expected_read(k, n, down, speed.decode_per_second)),
                **asdict(speed),
            }
        )
    return rows
