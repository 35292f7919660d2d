"""Commands about paths in a volume: flush, where, why, holes, evict.

PATH is a path in a mounted folder, or VOLUME:/path. They ask the daemon, or open the volume
themselves where none runs.
"""

import json
from collections.abc import Callable
from typing import Any

import click

from aggfs.cli import show
from aggfs.cli.asking import ask
from aggfs.cli.places import VolumePlace, place_meant, target_meant

_json_option = click.option("as_json", "--json", is_flag=True, help="For programs.")
volume_option = click.option("--volume", metavar="NAME", help="The volume, where no PATH says it.")


@click.command()
@click.argument("path", required=False)
@volume_option
def flush(path: str | None, volume: str | None) -> None:
    """Bring PATH, or everything, into the accounts; returns when it is stored and published."""
    place, arguments = meant(path, volume)
    ask(place, "flush", **arguments)


@click.command()
@click.argument("path")
@_json_option
def where(path: str, as_json: bool) -> None:
    """Show in which accounts each block of PATH lies."""
    target = target_meant(path)
    answer = ask(target.place, "where", path=target.path)
    _tell(answer, _where_text, as_json=as_json)


@click.command()
@click.argument("path", required=False)
@volume_option
@_json_option
def why(path: str | None, volume: str | None, as_json: bool) -> None:
    """Show which providers may fail before PATH, or anything, is lost."""
    place, arguments = meant(path, volume)
    _tell(ask(place, "why", **arguments), _why_text, as_json=as_json)


@click.command()
@click.argument("path")
@_json_option
def holes(path: str, as_json: bool) -> None:
    """Show what of PATH is not on this machine (holes), and what is nowhere (gaps: zeros)."""
    target = target_meant(path)
    answer = ask(target.place, "holes", path=target.path)
    _tell(answer, _holes_text, as_json=as_json)


@click.command()
@click.argument("path", required=False)
@volume_option
@click.option("--force", is_flag=True, help="Also what is pinned; it is brought again then.")
def evict(path: str | None, volume: str | None, force: bool) -> None:
    """Drop the local copy of PATH, or of everything, as far as the accounts have it."""
    place, arguments = meant(path, volume)
    answer = ask(place, "evict", force=force, **arguments)
    pinned = answer["pinned_files"]
    click.echo(
        f"evicted {show.size(answer['evicted_bytes'])},"
        f" kept {show.size(answer['kept_bytes'])} that the accounts do not have yet"
        + (f", left {pinned} pinned files alone (--force takes them too)" if pinned else "")
    )


def meant(path: str | None, volume: str | None) -> tuple[VolumePlace, dict[str, Any]]:
    """The volume, and the arguments of a verb whose path may be left out."""
    if path is None:
        return place_meant(volume), {}
    target = target_meant(path)
    return target.place, {"path": target.path}


def _tell(answer: dict[str, Any], text: Callable[[dict[str, Any]], str], *, as_json: bool) -> None:
    click.echo(json.dumps(answer) if as_json else text(answer))


def _where_text(answer: dict[str, Any]) -> str:
    lines = [
        f"{answer['path']}: {answer['size']} bytes, version {answer['version'] or '-'},"
        f" {answer['state']}"
    ]
    for run in answer["blocks"]:
        last = run["block"] + run["count"] - 1
        blocks = f"block {run['block']}" if run["count"] == 1 else f"blocks {run['block']}-{last}"
        lines.append(f"{blocks}: {run['state']}, stripe {run['sid'] or '-'} from {run['index']}")
        lines += [
            f"  fragment {fragment['index']}: {fragment['account'] or 'nowhere yet'}"
            f" {fragment['key']}".rstrip()
            for fragment in run["fragments"]
        ]
    return "\n".join(lines)


def _why_text(answer: dict[str, Any]) -> str:
    if not answer["stripes"]:
        return "nothing of it lies in the accounts yet"
    lines = [
        f"{answer['stripes']} stripes, {answer['at_risk']} at risk, {answer['lost']} lost",
        f"any {answer['any']} of the providers may fail together",
    ]
    lines += [
        f"  {provider['provider']}: {provider['stripes']} stripes,"
        f" {'may fail' if provider['may_fail'] else 'MUST NOT FAIL'}"
        for provider in answer["providers"]
    ]
    return "\n".join(lines)


def _holes_text(answer: dict[str, Any]) -> str:
    lines = [f"size {answer['size']}"]
    for kind in ("holes", "gaps", "dirty"):
        total = sum(end - start for start, end in answer[kind])
        lines.append(f"{kind}: {total} bytes in {len(answer[kind])} ranges")
        lines += [f"  {start}-{end}" for start, end in answer[kind]]
    return "\n".join(lines)
