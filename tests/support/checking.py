"""Every test of a volume ends with this: its local state must be in order, whatever was done."""

from pathlib import Path

from aggfs.assemble import inspecting
from aggfs.engine.recovery.identity import HEADER_NAME


async def findings_in(state: Path) -> list[str]:
    """What `aggfs check` finds in a state directory that nobody has open; it is left as it is."""
    if not (state / HEADER_NAME).exists():
        return []
    _, found = await inspecting.check_state(str(state))
    return [f"{one.room}: {one.text}" for one in found]


async def assert_sound(state: Path) -> None:
    """Nothing is wrong there."""
    found = await findings_in(state)
    assert not found, "\n".join(found[:20])
