"""Secrets that users give: passphrases, recovery words, key files. Never printed, never logged."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from aggfs.coding import slots
from aggfs.coding.slots import Secret
from aggfs.errors import BadConfig

SECRET_BYTES_LIMIT = 64 * 1024

_WAYS: dict[str, tuple[str, Callable[[str], Secret]]] = {
    "passphrase": ("Passphrase", slots.passphrase),
    "words": ("Recovery words", slots.recovery_words),
}


def secret_options(command: Callable[..., None]) -> Callable[..., None]:
    """--passphrase-file, --words-file and --key-file, for commands that open a volume anew."""
    path = click.Path(path_type=Path, dir_okay=False)
    for name, text in (
        ("--key-file", "Open with this key file."),
        ("--words-file", "Open with the recovery words in this file."),
        ("--passphrase-file", "Open with the passphrase in this file (its first line)."),
    ):
        command = click.option(name, type=path, metavar="FILE", help=text)(command)
    return command


def read_secret(
    passphrase_file: Path | None, words_file: Path | None, key_file: Path | None
) -> Secret:
    """The secret in the one file that was given; asked for at the terminal if none was."""
    given = [path for path in (passphrase_file, words_file, key_file) if path is not None]
    if len(given) > 1:
        raise click.UsageError("give one of --passphrase-file, --words-file and --key-file")
    if key_file is not None:
        return slots.key_file(_content(key_file))
    if words_file is not None:
        return slots.recovery_words(_text(words_file))
    if passphrase_file is not None:
        return passphrase_in(passphrase_file)
    return ask("passphrase")


def passphrase_in(path: Path) -> Secret:
    """The first line of a file as a passphrase. Raises `BadConfig` if there is none."""
    lines = _text(path).splitlines()
    if not lines or not lines[0]:
        raise BadConfig(f"{path}: its first line should be the passphrase, and is empty")
    return slots.passphrase(lines[0])


def ask(way: str) -> Secret:
    """The passphrase or the recovery words, asked for at the terminal."""
    prompt, secret_of = _WAYS[way]
    _need_a_terminal()
    return secret_of(click.prompt(prompt, hide_input=True, err=True))


def ask_new_passphrase() -> Secret:
    """A passphrase for a new slot, asked for twice."""
    _need_a_terminal()
    text = click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return slots.passphrase(text)


def show_words(words: str) -> None:
    """Print recovery words, once."""
    click.echo("Recovery words. They open everything, they are shown once: write them down.\n")
    numbered = [f"{place:2} {word:<10}" for place, word in enumerate(words.split(), 1)]
    for row in range(0, len(numbered), 6):
        click.echo("  " + " ".join(numbered[row : row + 6]).rstrip())
    click.echo("")


def _need_a_terminal() -> None:
    if not sys.stdin.isatty():
        raise BadConfig("there is no terminal to ask at: give the secret in a file (see --help)")


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(SECRET_BYTES_LIMIT + 1)
    if len(content) > SECRET_BYTES_LIMIT:
        raise BadConfig(f"{path}: a secret is at most {SECRET_BYTES_LIMIT} bytes long")
    return content


def _text(path: Path) -> str:
    try:
        return _content(path).decode()
    except UnicodeDecodeError:
        raise BadConfig(f"{path}: is no text") from None
