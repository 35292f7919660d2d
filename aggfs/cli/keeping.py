"""Commands that keep a volume clean and whole: gc, scrub, check."""

import json
from typing import Any

import click

from aggfs.cli import client, exits, show
from aggfs.cli.asking import ask, on_terminal
from aggfs.cli.client import NotRunning
from aggfs.cli.places import VolumePlace, place_meant

_FAULTS_SHOWN = 20


@click.command()
@click.argument("volume", required=False)
@click.option("dry_run", "--dry-run", is_flag=True, help="Only tell what would be collected.")
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def gc(volume: str | None, dry_run: bool, as_json: bool) -> None:
    """Collect what nothing refers to any more; what was found before the grace is deleted."""
    answer = ask(place_meant(volume), "gc", dry_run=dry_run)
    click.echo(json.dumps(answer) if as_json else _gc_text(answer, dry_run=dry_run))


def _gc_text(answer: dict[str, Any], *, dry_run: bool) -> str:
    found = f"{answer['found_stripes']} stripes ({show.size(answer['found_bytes'])})"
    lines = [f"{found} {'can go' if dry_run else 'were told to go'}"]
    if answer["revived_stripes"]:
        lines.append(f"{answer['revived_stripes']} stripes stay: something refers to them again")
    if not dry_run:
        size = show.size(answer["deleted_bytes"])
        lines.append(f"deleted {answer['deleted_objects']} objects of stripes ({size})")
    lines.append(f"{answer['waiting_stripes']} stripes are told to go, and wait for their grace")
    if answer["deleting_objects"]:
        size = show.size(answer["deleting_bytes"])
        lines.append(f"{answer['deleting_objects']} objects ({size}) wait for their accounts")
    for account in answer["accounts"]:
        if account["failure"]:
            lines.append(f"account {account['name']} cannot be listed: {account['failure']}")
        elif account["strays"]:
            text = f"{account['strays']} objects ({show.size(account['stray_bytes'])}) lie astray"
            lines.append(f"account {account['name']}: {text}, {account['deleted']} deleted")
    return "\n".join(lines + [f"note: {note}" for note in answer["notes"]])


@click.command()
@click.argument("volume", required=False)
@click.option("full", "--full", is_flag=True, help="Read and check every fragment, byte for byte.")
@click.option("--listing", is_flag=True, help="Only compare listings with what should be there.")
@click.option("--repair", is_flag=True, help="Make again what is missing or damaged.")
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def scrub(volume: str | None, full: bool, listing: bool, repair: bool, as_json: bool) -> int:
    """Look for what should lie in the accounts. Fails if something is left to repair."""
    if full and listing:
        raise click.UsageError("--full reads, --listing does not: choose one")
    answer = ask(place_meant(volume), "scrub", full=full, repair=repair)
    click.echo(json.dumps(answer) if as_json else _scrub_text(answer))
    return exits.FAILED if _is_left(answer) else exits.DONE


def _is_left(answer: dict[str, Any]) -> bool:
    records = sum(answer["records"].values())
    repaired = answer["repaired_fragments"] + answer["repaired_records"]
    return bool(answer["left_out"]) or answer["fault_count"] + records > repaired


def _scrub_text(answer: dict[str, Any]) -> str:
    read = f", {show.size(answer['read_bytes'])} read" if answer["read_bytes"] else ""
    lines = [f"{answer['stripes']} stripes, {answer['fragments']} fragments looked at{read}"]
    if answer["went_on"]:
        lines.append("reading went on where it was stopped")
    lines += [
        f"account {fault['account']}: fragment {fault['fragment']} of stripe {fault['stripe']}"
        f" is {fault['what']}"
        for fault in answer["faults"][:_FAULTS_SHOWN]
    ]
    if answer["fault_count"] > _FAULTS_SHOWN:
        lines.append(f"... {answer['fault_count']} faults in all")
    lines += [
        f"account {name}: {count} objects of journal and header are missing or damaged"
        for name, count in answer["records"].items()
    ]
    lines += [
        f"account {name} is left out, nothing is known of it: {text}"
        for name, text in answer["left_out"].items()
    ]
    if answer["repaired_fragments"] or answer["repaired_records"]:
        size = show.size(answer["repaired_bytes"])
        lines.append(
            f"made again: {answer['repaired_fragments']} fragments and"
            f" {answer['repaired_records']} objects of journal and header, {size} moved"
        )
    elif not (answer["fault_count"] or answer["records"]):
        lines.append("everything is as it should be")
    return "\n".join(lines)


@click.command()
@click.argument("volume", required=False)
@click.option("--repair", is_flag=True, help="Make right what can be; needs an unmounted volume.")
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def check(volume: str | None, repair: bool, as_json: bool) -> int:
    """Compare names, contents, stripes, staging, ledger and accounts with each other.

    Fails if something is left that is not as it should be.
    """
    answer = _checked(place_meant(volume), repair=repair)
    click.echo(json.dumps(answer) if as_json else _check_text(answer))
    return exits.FAILED if answer["findings"] or _is_left(answer["scrub"]) else exits.DONE


def _checked(place: VolumePlace, *, repair: bool) -> dict[str, Any]:
    """By the daemon where one runs; else the state as it lies there first, and nothing more where
    that is not in order."""
    try:
        answer = client.call(place.socket_path, "check", on_progress=on_terminal(), repair=repair)
        return answer | {"repaired": [], "mounted": True}
    except NotRunning:
        pass
    from aggfs.cli import assembling

    local = assembling.check(place, repair=repair)
    if local["findings"]:
        return local | {"scrub": _NOTHING_LOOKED_AT, "mounted": False}
    answer = assembling.answer(place, "check", {"repair": repair})
    return answer | {"repaired": local["repaired"], "mounted": False}


_NOTHING_LOOKED_AT: dict[str, Any] = {
    "stripes": 0,
    "fragments": 0,
    "read_bytes": 0,
    "went_on": False,
    "faults": [],
    "fault_count": 0,
    "records": {},
    "left_out": {},
    "repaired_fragments": 0,
    "repaired_records": 0,
    "repaired_bytes": 0,
    "left_records": {},
}


def _check_text(answer: dict[str, Any]) -> str:
    lines = [f"made right: {one['text']}" for one in answer["repaired"]]
    lines += [f"{one['room']}: {one['text']}" for one in answer["findings"]]
    if not answer["findings"]:
        lines.append("the local state is in order")
    elif answer["mounted"]:
        lines.append("unmount, and `aggfs check --repair` makes right what follows from the rest")
    else:
        lines.append("the accounts were not looked at: the local state comes first")
    if answer["scrub"]["stripes"] or answer["scrub"]["left_out"]:
        lines.append(_scrub_text(answer["scrub"]))
    return "\n".join(lines)
