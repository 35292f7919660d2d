"""`aggfs status`: what the daemon says of its volume. Imports nothing that takes time."""

import json
from typing import Any

import click

from aggfs.cli import client, moving, show
from aggfs.cli.client import NotRunning
from aggfs.cli.places import all_places, place_meant


@click.command()
@click.argument("volume", required=False)
@click.option("as_json", "--json", is_flag=True, help="For programs: one JSON object.")
def status(volume: str | None, as_json: bool) -> None:
    """Accounts, levels, health, and what is not stored yet, of VOLUME (a name or its folder)."""
    place = place_meant(volume)
    try:
        answer = client.call(place.socket_path, "status")
    except NotRunning:
        raise NotRunning(f"the volume {place.name!r} is not mounted{_others()}") from None
    answer["mountpoint"] = place.mountpoint
    click.echo(json.dumps(answer) if as_json else _text(answer))


def _others() -> str:
    mounted = [place.name for place in all_places() if place.mountpoint]
    return f" (mounted: {', '.join(mounted)})" if mounted else ""


def _text(answer: dict[str, Any]) -> str:
    lines = [
        f"volume {answer['name']} on {answer['mountpoint'] or 'no folder'}"
        f"{', READ-ONLY' if answer['read_only'] else ''}",
        f"{_code(answer)}; at most {answer['fragments_per_provider']} at one provider",
        f"{show.size(answer['used_bytes'])} used of {show.size(answer['total_bytes'])},"
        f" {show.size(answer['free_bytes'])} free;"
        f" {show.size(answer['stored_bytes'])} lie in the accounts",
        _waiting(answer),
        *_moving(answer),
        "",
        _accounts(answer),
    ]
    lines += [f"\nnote: {warning}" for warning in answer["warnings"]]
    return "\n".join(lines)


def _code(answer: dict[str, Any]) -> str:
    k, n = answer["k"], answer["n"]
    if answer["code"] == "copies":
        return (
            f"{k} fragments, each in {n // k} copies, give the data back;"
            f" any {n // k - 1} of {n} may be lost"
        )
    return f"any {k} of {n} fragments give the data back"


def _waiting(answer: dict[str, Any]) -> str:
    stripes = answer["stripes"]
    published = f"last segment published {show.age(answer['segment_age_seconds'])}"
    if answer["outbox_entries"]:
        waiting = f"{answer['outbox_entries']} entries wait, the oldest came"
        published += f"; {waiting} {show.age(answer['outbox_age_seconds'])}"
    return (
        f"stripes: {stripes['full']} full, {stripes['stored']} stored, {stripes['staged']} staged"
        f" ({show.size(answer['staged_bytes'])}); {show.size(answer['dirty_bytes'])} dirty;"
        f" {published}"
    )


def _state(account: dict[str, Any]) -> str:
    if not account["healthy"]:
        return f"DOWN: {account['error']}"
    if account.get("leaving"):
        return "healthy, leaving"
    return "FULL" if account["full"] else "healthy"


def _moving(answer: dict[str, Any]) -> list[str]:
    """What moves fragments now, if anything does."""
    movement = answer.get("movement")
    return [moving.line(movement)] if movement and movement["state"] == moving.RUNNING else []


def _accounts(answer: dict[str, Any]) -> str:
    rows = [
        [
            account["name"],
            account["provider"],
            account["driver"],
            show.percent(account["level"]),
            f"{show.size(account['used_bytes'])} of {show.size(account['capacity_bytes'])}",
            _state(account),
        ]
        for account in answer["accounts"]
    ]
    return show.table(["account", "provider", "driver", "level", "used", "state"], rows)
