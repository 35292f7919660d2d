"""`aggfs bench`: what a folder gives, or the accounts of a volume and this machine."""

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aggfs.cli import exits, folderspeed, show
from aggfs.cli.client import NotRunning
from aggfs.cli.folderspeed import Measured
from aggfs.cli.places import VolumePlace, place_meant, target_meant
from aggfs.config import parse_size

FOLDER_BYTES = "256MiB"
ACCOUNT_BYTES = "64MiB"

Answer = dict[str, Any]


@click.command()
@click.argument("target", metavar="PATH|VOLUME", required=False)
@click.option("--accounts", is_flag=True, help="The accounts of VOLUME, not the folder PATH.")
@click.option(
    "--size",
    metavar="SIZE",
    help=f"How much is written: of PATH {FOLDER_BYTES}; to each account {ACCOUNT_BYTES}, twice.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.01),
    default=10.0,
    show_default=True,
    help="How long one measurement takes at most.",
)
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def bench(
    target: str | None, accounts: bool, size: str | None, seconds: float, as_json: bool
) -> int:
    """Measure a folder, PATH; or with --accounts what the accounts of VOLUME and this machine give,
    and what each k and n would cost over them.

    Everything that is made for it is removed again.
    """
    if target is None and not accounts:
        raise click.UsageError("which folder? Or --accounts, for the accounts of a volume")
    size_bytes = _size(size or (ACCOUNT_BYTES if accounts else FOLDER_BYTES))
    if accounts:
        return _bench_accounts(place_meant(target), size_bytes, seconds, as_json=as_json)
    _bench_folder(Path(str(target)), size_bytes, seconds, as_json=as_json)
    return exits.DONE


def _size(text: str) -> int:
    try:
        size_bytes = parse_size(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise click.UsageError(f"--size: {error}") from None
    if size_bytes < 1:
        raise click.UsageError("--size: at least one byte")
    return size_bytes


def _reporter() -> Callable[[str], None]:
    """Who tells, on a terminal, what is measured now."""
    if not sys.stderr.isatty():
        return lambda text: None
    return lambda text: click.echo(f"\r\x1b[K{text}\r", nl=False, err=True)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """A signal that ends programs is an interrupt: what was made is removed."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


# --- a folder -------------------------------------------------------------------------------------


def _bench_folder(path: Path, size_bytes: int, seconds: float, *, as_json: bool) -> None:
    report = _reporter()
    with _stopped_by_signals():
        found = folderspeed.measure_folder(
            path, size_bytes=size_bytes, seconds=seconds, report=report
        )
    report("")
    notes = _notes_of(path)
    if as_json:
        click.echo(json.dumps({"measured": [asdict(one) for one in found], "notes": notes}))
    else:
        click.echo("\n".join([_folder_text(found), *(f"note: {note}" for note in notes)]))


def _notes_of(path: Path) -> list[str]:
    try:
        name = target_meant(str(path)).place.name
    except NotRunning:
        return []
    return [
        f"what came into the accounts of {name} meanwhile is in its trash now; `aggfs trash empty`"
        " lets go of it, and of all else there"
    ]


def _folder_text(found: list[Measured]) -> str:
    rows = [
        [
            one.what,
            f"{one.operations / one.seconds:.0f}",
            show.rate(one.size_bytes / one.seconds) if one.size_bytes else "-",
            show.latency(one.mean_seconds),
            show.latency(one.p95_seconds),
            f"{one.operations} in {show.latency(one.seconds)}",
        ]
        for one in found
    ]
    return show.table(["what", "a second", "bytes", "mean", "95 % below", "measured"], rows)


# --- accounts -------------------------------------------------------------------------------------


def _bench_accounts(place: VolumePlace, size_bytes: int, seconds: float, *, as_json: bool) -> int:
    from aggfs.cli import volumespeed  # trio, the stores and the ciphers

    report = _reporter()
    answer, failures = volumespeed.measure_volume(
        place, size_bytes=size_bytes, seconds=seconds, report=report
    )
    report("")
    click.echo(json.dumps(answer) if as_json else _accounts_text(answer))
    return exits.exit_code_of(failures[-1]) if failures else exits.DONE


def _accounts_text(answer: Answer) -> str:
    lines = [show.table(*_speeds(answer))] if answer["accounts"] else []
    lines += [f"{one['name']}: {one['error']}" for one in answer["failures"]]
    if answer["codes"]:
        lines += ["", show.table(*_codes(answer))]
        lines.append("* as the volume is stored now" if _is_among(answer) else "")
    lines += [f"note: {note}" for note in answer["notes"]]
    return "\n".join(lines).rstrip()


def _speeds(answer: Answer) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            one["name"],
            one["provider"],
            show.latency(one["put_seconds"]),
            show.latency(one["get_seconds"]),
            show.rate(one["up_per_second"]),
            show.rate(one["down_per_second"]),
        ]
        for one in answer["accounts"]
    ]
    together = answer["together"]
    up, down = show.rate(together["up_per_second"]), show.rate(together["down_per_second"])
    rows.append(["all at once", "", "", "", up, down])
    return ["account", "provider", "put 4 KiB", "get 4 KiB", "up", "down"], rows


def _is_among(answer: Answer) -> bool:
    return any(one["current"] for one in answer["codes"])


def _codes(answer: Answer) -> tuple[list[str], list[list[str]]]:
    rows = [
        [
            f"{one['k']} of {one['n']}{' *' if one['current'] else ''}",
            f"{one['factor']:.2f}",
            str(one["may_vanish"]),
            *(text for way in ("upload", "cold_read") for text in _limited(one[way])),
            show.rate(one["encode_per_second"]),
            show.rate(one["decode_per_second"]),
        ]
        for one in answer["codes"]
    ]
    header = ["k of n", "room", "may vanish", "upload", "limit", "cold read", "limit"]
    return [*header, "code", "decode"], rows


def _limited(expected: Answer) -> tuple[str, str]:
    return show.rate(expected["per_second"]), expected["limit"]
