"""Commands that keep a volume clean and whole: gc, scrub."""

import json
from typing import Any

import click

from aggfs.cli import exits, show
from aggfs.cli.asking import ask
from aggfs.cli.places import place_meant

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
