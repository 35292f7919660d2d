"""Commands about contents that are kept, and shared: versions, restore, clone."""

import json
from typing import Any

import click

from aggfs.cli import show
from aggfs.cli.asking import ask
from aggfs.cli.places import Target, target_meant

TIME = "TIME"
json_option = click.option("as_json", "--json", is_flag=True, help="For programs.")


@click.command()
@click.argument("path")
@json_option
def versions(path: str, as_json: bool) -> None:
    """List what is kept of the file PATH, the newest first: time, size, version, device."""
    target = target_meant(path)
    answer = ask(target.place, "versions", path=target.path)
    click.echo(json.dumps(answer) if as_json else _versions_text(answer))


def _versions_text(answer: dict[str, Any]) -> str:
    if not answer["versions"]:
        return "this file has no version yet: nothing of it was sent out"
    rows = [
        [
            one["time"],
            show.size(one["size"]),
            one["version"],
            one["device"],
            "current" if one["current"] else "gone" if one["gone"] else "",
        ]
        for one in answer["versions"]
    ]
    return show.table(("time", "size", "version", "device", ""), rows)


@click.command()
@click.argument("path")
@click.option("--version", metavar="V", help="The version, or the first digits of it.")
@click.option("--at", metavar=TIME, help="What was current at this time (ISO 8601; UTC).")
@click.option("--to", metavar="PATH", help="Make a new file of it, instead of PATH itself.")
def restore(path: str, version: str | None, at: str | None, to: str | None) -> None:
    """Bring an old content of the file PATH back. What it holds now is kept as a version."""
    if (version is None) == (at is None):
        raise click.UsageError("one of --version and --at says which content")
    target = target_meant(path)
    arguments: dict[str, Any] = {"path": target.path}
    arguments |= {"at": at} if version is None else {"version": version}
    if to is not None:
        arguments["to"] = same_volume(target, to).path
    answer = ask(target.place, "restore", **arguments)
    click.echo(f"{to or path} is as it was at {answer['time']}")


@click.command()
@click.argument("source")
@click.argument("target", metavar="DESTINATION")
def clone(source: str, target: str) -> None:
    """Make the file or tree DESTINATION of SOURCE; no data moves. SOURCE may be what was there at
    a time: FOLDER/.aggfs/at/TIME/..."""
    meant = target_meant(source)
    answer = ask(meant.place, "clone", path=meant.path, to=same_volume(meant, target).path)
    more = f", {answer['cloned']} files and directories" if answer["cloned"] > 1 else ""
    click.echo(f"{target} is a clone of {source}{more}")


def same_volume(target: Target, path: str) -> Target:
    """What another PATH means, which must lie in the same volume."""
    other = target_meant(path)
    if other.place != target.place:
        raise click.UsageError(f"{path} lies in another volume: copy it, with cp")
    return other
