"""Commands that keep a volume clean and whole: gc."""

import json
from typing import Any

import click

from aggfs.cli import show
from aggfs.cli.asking import ask
from aggfs.cli.places import place_meant


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
