"""Credentials that systemd hands to a service (LoadCredential=): one file each, for it alone."""

from collections.abc import Iterable, MutableMapping
from pathlib import Path

from aggfs.config import AccountConfig
from aggfs.errors import BadConfig

DIRECTORY_VARIABLE = "CREDENTIALS_DIRECTORY"
CREDENTIAL_BYTES_LIMIT = 64 * 1024


def lend(accounts: Iterable[AccountConfig], environment: MutableMapping[str, str]) -> None:
    """Set the variables that accounts name and nobody has set, from credentials of those names.

    A credential that is not there is no fault here: the account will say what it lacks. Raises
    `BadConfig` for one that cannot be a key.
    """
    directory = environment.get(DIRECTORY_VARIABLE)
    if not directory:
        return
    for account in accounts:
        for variable in (account.access_key_env, account.secret_key_env):
            path = Path(directory) / variable
            if variable and "/" not in variable and variable not in environment and path.is_file():
                environment[variable] = _content(path)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(CREDENTIAL_BYTES_LIMIT)
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text:
        raise BadConfig(f"the credential {path.name} is empty, or no text")
    return text
