"""The command line: finds the command, and turns every error into one line and an exit code.

Command modules are imported only when they are called: `aggfs status` must not wait for trio or
boto3.
"""

import importlib
import os
import sys
from collections.abc import Sequence

import click

from aggfs.cli import exits
from aggfs.errors import AggfsError

# command -> the module that has it, under its own name with "_" for "-"
COMMANDS = {
    "account": "aggfs.cli.accounts",
    "audit": "aggfs.cli.audit",
    "device": "aggfs.cli.devices",
    "clone": "aggfs.cli.history",
    "bench": "aggfs.cli.bench",
    "check": "aggfs.cli.keeping",
    "evict": "aggfs.cli.paths",
    "flush": "aggfs.cli.paths",
    "gc": "aggfs.cli.keeping",
    "holes": "aggfs.cli.paths",
    "init": "aggfs.cli.making",
    "key": "aggfs.cli.keys",
    "mount": "aggfs.cli.mounting",
    "pin": "aggfs.cli.pinning",
    "re-encode": "aggfs.cli.moving",
    "rebalance": "aggfs.cli.moving",
    "recover": "aggfs.cli.making",
    "restore": "aggfs.cli.history",
    "scrub": "aggfs.cli.keeping",
    "status": "aggfs.cli.status",
    "top": "aggfs.cli.top",
    "trash": "aggfs.cli.trash",
    "umount": "aggfs.cli.mounting",
    "undelete": "aggfs.cli.trash",
    "unpin": "aggfs.cli.pinning",
    "up": "aggfs.cli.making",
    "versions": "aggfs.cli.history",
    "warm": "aggfs.cli.pinning",
    "where": "aggfs.cli.paths",
    "why": "aggfs.cli.paths",
}
DEBUG = "--debug"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, by name."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, None if there is none."""
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = getattr(importlib.import_module(module), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="aggfs")
@click.option(DEBUG, is_flag=True, help="Show where an error arose.")
def aggfs(debug: bool) -> None:
    """One folder over several accounts, complete at none of them."""


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Errors are printed as one line."""
    try:
        result = aggfs.main(args=list(arguments), prog_name="aggfs", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _told("interrupted", exits.INTERRUPTED)
    except Exception as error:  # the last door: a user is told in one line, never by a trace
        if DEBUG in arguments:
            raise
        return _told_error(error)
    return result if isinstance(result, int) else exits.DONE


def _told_error(error: BaseException) -> int:
    error = _first_leaf(error)
    if isinstance(error, AggfsError):
        return _told(str(error) or type(error).__name__, exits.exit_code_of(error))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _told(f"{where}{error.strerror or error}", exits.FAILED)
    return _told(f"unexpected {type(error).__name__}: {error} (see --debug)", exits.FAILED)


def _first_leaf(error: BaseException) -> BaseException:
    """Of what a nursery tied together the first error of ours, or else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [_first_leaf(inner) for inner in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, AggfsError)), leaves[0])


def _told(text: str, code: int) -> int:
    click.echo(f"aggfs: {' '.join(text.split())}", err=True)
    return code


def main() -> None:
    """The console script."""
    try:
        code = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = exits.DONE
    sys.exit(code)
