"""Commands about what was removed: trash, undelete."""

import json
from typing import Any

import click

from aggfs.cli import show
from aggfs.cli.asking import ask
from aggfs.cli.history import json_option, same_volume
from aggfs.cli.places import Target, place_meant, target_meant

volume_option = click.option("--volume", metavar="NAME", help="The volume.")


@click.group(invoke_without_command=True)
@volume_option
@json_option
@click.pass_context
def trash(context: click.Context, volume: str | None, as_json: bool) -> None:
    """List what was removed and can be brought back, the newest first."""
    if context.invoked_subcommand is None:
        answer = ask(place_meant(volume), "trash")
        click.echo(json.dumps(answer) if as_json else _trash_text(answer))


@trash.command()
@volume_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def empty(volume: str | None, yes: bool) -> None:
    """Let go of everything in the trash, for good."""
    place = place_meant(volume)
    if not yes:
        click.confirm(f"Let go of everything in the trash of {place.name}?", abort=True)
    answer = ask(place, "trash-empty")
    kept = f", {answer['kept']} stay: another device may still use them" if answer["kept"] else ""
    click.echo(f"{answer['gone']} files and directories are gone{kept}")


def _trash_text(answer: dict[str, Any]) -> str:
    if not answer["entries"]:
        return "the trash is empty"
    rows = [
        [
            one["removed"],
            show.size(one["size"]) if one["type"] == "file" else one["type"],
            one["id"][:12],
            one["path"],
        ]
        for one in answer["entries"]
    ]
    table = show.table(("removed", "size", "id", "path"), rows)
    return f"{table}\nabout {show.size(answer['size_bytes'])} in all"


@click.command()
@click.argument("what", metavar="PATH|ID")
@click.option("--to", metavar="PATH", help="Another place for it.")
@volume_option
def undelete(what: str, to: str | None, volume: str | None) -> None:
    """Bring back what was removed last from PATH, or the entry ID of the trash. A directory
    comes back with all that is in the trash from it."""
    if _is_id(what):
        target = Target(place_meant(volume), "/")
        arguments = {"id": what}
    else:
        target = target_meant(what)
        arguments = {"path": target.path}
    if to is not None:
        arguments["to"] = same_volume(target, to).path
    answer = ask(target.place, "undelete", **arguments)
    more = f", with {answer['brought_back'] - 1} more" if answer["brought_back"] > 1 else ""
    click.echo(f"{answer['path']} is back{more}")


def _is_id(text: str) -> bool:
    """A file of such a name is meant by `./NAME`."""
    return len(text) >= 8 and all(digit in "0123456789abcdef" for digit in text)
