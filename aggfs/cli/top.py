"""`aggfs top`: what a mounted volume does now. Imports nothing that takes time."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from aggfs.cli import client, show
from aggfs.cli.client import NotRunning
from aggfs.cli.places import VolumePlace, place_meant
from aggfs.cli.sampling import NOTHING, AccountRate, OperationRate, Rates, Sample, rates_between

CACHE_EVERY = 10  # samples: all local copies are looked at for it
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.argument("volume", required=False)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long from one look to the next.",
)
@click.option("--once", is_flag=True, help="Look for one interval, print that, and end.")
@click.option(
    "--json", "as_json", is_flag=True, help="For programs: the counters, a line for each look."
)
def top(volume: str | None, interval: float, once: bool, as_json: bool) -> None:
    """What VOLUME (a name or its folder) does now: requests, accounts, what waits.

    Ctrl-C ends it.
    """
    place = place_meant(volume)
    samples = _samples(place, interval)
    try:
        if as_json:
            _print_counters(samples, once=once)
        elif once:
            before, after = next(samples), next(samples)
            click.echo("\n".join(frame(place, rates_between(before, after), after)))
        else:
            _show(place, samples)
    except KeyboardInterrupt:  # the usual end of it, no failure
        click.echo()


def _samples(place: VolumePlace, interval: float) -> Iterator[dict[str, Any]]:
    """A sample now, and one after each interval. How much the local copies take is not asked each
    time."""
    cache_bytes, due = 0, time.monotonic()
    while True:
        for number in range(CACHE_EVERY):
            sample = _sample(place, with_cache=number == 0)
            cache_bytes = sample.setdefault("cache_bytes", cache_bytes)
            yield sample
            due = max(due + interval, time.monotonic())
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


def _sample(place: VolumePlace, *, with_cache: bool) -> dict[str, Any]:
    try:
        return client.call(place.socket_path, "counters", cache=with_cache)
    except NotRunning:
        raise NotRunning(f"the volume {place.name!r} is not mounted") from None


def _print_counters(samples: Iterator[dict[str, Any]], *, once: bool) -> None:
    for sample in samples:
        click.echo(json.dumps(sample))
        sys.stdout.flush()
        if once:
            return


def _show(place: VolumePlace, samples: Iterator[dict[str, Any]]) -> None:
    """Frames for ever, over each other on a terminal; the first is of all since the mount."""
    before = NOTHING
    on_terminal = sys.stdout.isatty()
    if on_terminal:
        click.clear()
    for sample in samples:
        lines = frame(place, rates_between(before, sample), sample)
        if on_terminal:
            click.echo(_screenful(lines), nl=False)
        else:
            click.echo("\n".join(lines) + "\n")
        sys.stdout.flush()
        before = sample


def _screenful(lines: list[str]) -> str:
    columns, rows = shutil.get_terminal_size()
    shown = [line[:columns] + CLEAR_LINE for line in lines[: rows - 1]]
    return HOME + "\n".join(shown) + "\n" + CLEAR_BELOW


# --- one frame ------------------------------------------------------------------------------------


def frame(place: VolumePlace, rates: Rates, sample: Sample) -> list[str]:
    """The lines that show what happened between two samples, and how things stand at the last."""
    mounted = sample["clock_seconds"] - sample["mounted_seconds"]
    return [
        f"{place.name} on {place.mountpoint or 'no folder'}, mounted for {show.span(mounted)};"
        f" the last {_interval(rates.seconds)}",
        f"read {show.rate(rates.read_per_second)}{_hits(rates)};"
        f" written {show.rate(rates.written_per_second)}",
        _queue(sample["queue"]),
        f"local copies take {show.size(sample['cache_bytes'])}"
        f" (clean ones at most {show.size(sample['cache_limit_bytes'])})",
        "",
        *_operations(rates.operations),
        "",
        *_accounts(rates.accounts),
    ]


def _interval(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else show.span(seconds)


def _hits(rates: Rates) -> str:
    fetched = f"{show.rate(rates.fetched_per_second)} came from the accounts"
    if rates.hit_rate is None:
        return f" ({fetched})" if rates.fetched_per_second else ""
    return f" ({show.percent(rates.hit_rate)} were here, {fetched})"


def _queue(queue: Sample) -> str:
    stripes = queue["stripes"]
    waiting = (
        f"waiting: {show.size(queue['dirty_bytes'])} dirty,"
        f" {show.size(queue['staged_bytes'])} staged in {stripes['staged'] + stripes['stored']}"
        f" stripes (at most {show.size(queue['staging_limit_bytes'])} together),"
        f" {queue['puts_in_flight']} puts under way; "
    )
    if not queue["outbox_entries"]:
        return waiting + "no entries"
    entries = f"{queue['outbox_entries']} entries"
    return f"{waiting}{entries}, the oldest came {show.age(queue['outbox_age_seconds'])}"


def _operations(operations: tuple[OperationRate, ...]) -> list[str]:
    if not operations:
        return ["no requests"]
    ordered = sorted(operations, key=lambda one: (-one.per_second, one.name))
    rows = [
        [
            one.name,
            f"{one.per_second:.1f}",
            show.latency(one.mean_seconds),
            show.latency(one.p95_seconds),
            str(one.under_way or "-"),
        ]
        for one in ordered
    ]
    header = ["request", "a second", "mean", "95 % below", "under way"]
    return show.table(header, rows).splitlines()


def _accounts(accounts: tuple[AccountRate, ...]) -> list[str]:
    rows = [
        [
            one.name,
            f"{one.per_second:.1f}",
            show.latency(one.mean_seconds),
            show.rate(one.sent_per_second),
            show.rate(one.received_per_second),
            str(one.in_flight or "-"),
            str(one.failed or "-"),
            one.state,
        ]
        for one in accounts
    ]
    header = ["account", "a second", "mean", "up", "down", "in flight", "errors", "state"]
    return show.table(header, rows).splitlines()
