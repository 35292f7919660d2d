"""The local state of a volume that nobody has open, looked at as it lies there."""

from collections.abc import Sequence
from pathlib import Path

from aggfs.assemble.opening import TABLES
from aggfs.cache.database import Database
from aggfs.cache.staging import Staging
from aggfs.coding.keys import VolumeKeys
from aggfs.engine.care.consistency import Finding, State, consistency_steps
from aggfs.engine.care.setright import set_right
from aggfs.engine.recovery.identity import Identity, load_header
from aggfs.threads import in_slices


async def check_state(
    state_directory: str, *, repair: bool = False
) -> tuple[Sequence[Finding], Sequence[Finding]]:
    """What is wrong in a state directory; (what was made right, what is left). Asks no account.

    Raises `Busy` while somebody has it open, `Damaged` where it cannot be opened at all.
    """
    state = Path(state_directory)
    opened = load_header(state, Identity.load(state))
    keys = VolumeKeys(opened.keyring, suite=opened.policy.suite)
    database = Database.open(str(state / "database"), tables=TABLES)
    try:
        staging = Staging(state / "staging")
        found = await _findings(database, staging, keys)
        if not repair or not found:
            return (), found
        set_right(database, found)
        await database.durable()
        left = await _findings(database, staging, keys)
        texts = {finding.text for finding in left}
        return [one for one in found if one.text not in texts], left
    finally:
        await database.close()


async def _findings(database: Database, staging: Staging, keys: VolumeKeys) -> list[Finding]:
    with database.snapshot() as snapshot:
        known = State(snapshot, frozenset(staging.names()), staging.read, keys)
        return await in_slices(consistency_steps(known))
