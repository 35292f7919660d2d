"""`aggfs audit`: proofs from what really lies in the accounts."""

import json
from typing import Any

import click

from aggfs.cli import exits, show
from aggfs.cli.asking import ask
from aggfs.cli.places import place_meant


@click.group()
def audit() -> None:
    """Proofs from what really lies in the accounts."""


@audit.command("no-complete-copy")
@click.option("--volume", metavar="NAME", help="The volume, if there are several.")
@click.option("as_json", "--json", is_flag=True, help="For programs.")
def no_complete_copy(volume: str | None, as_json: bool) -> int:
    """List every account and try to rebuild every stripe from each single provider's objects.

    Fails if one can be rebuilt.
    """
    answer = ask(place_meant(volume), "audit-no-complete-copy")
    click.echo(json.dumps(answer) if as_json else _text(answer))
    return exits.FOUND if answer["complete"] else exits.DONE


def _text(answer: dict[str, Any]) -> str:
    rows = [
        [
            provider["provider"],
            str(provider["objects"]),
            str(provider["stripes"]),
            str(provider["most_fragments"]),
        ]
        for provider in answer["providers"]
    ]
    header = ["provider", "objects", "stripes", "most fragments of one"]
    verdict = (
        f"COMPLETE COPIES: {'; '.join(answer['complete'])}"
        if answer["complete"]
        else "no provider can rebuild any stripe"
    )
    return f"{show.table(header, rows)}\n{verdict}"
