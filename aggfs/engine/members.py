"""The devices of a volume: who they are, and taking out one that will not come back.

A member that says nothing any more holds back what needs the word of all: the cut under which the
past is summed up, and collection. `lapse` takes it out by an entry that names the last sequence
of its control chain that was seen; what it wrote until then stays.
"""

from collections.abc import Mapping

import msgspec

from aggfs.cache.database import Database
from aggfs.engine.volume import Feature, Volume
from aggfs.errors import NoEntry, Refused
from aggfs.formats.journal import Head

_TIP = b"d"
Answer = dict[str, object]


def note_tips(database: Database, heads: Mapping[bytes, Head]) -> None:
    """Remember how far the journals of other devices went when they were read."""
    table = database.table("journal")
    for device, head in heads.items():
        table.put(_TIP + device, head.control.sequence.to_bytes(8))


def members(volume: Volume) -> Feature:
    """The verbs `device-list` and `device-lapse`."""
    del volume
    return Feature({"device-list": _list, "device-lapse": _lapse})


async def _list(volume: Volume, arguments: Mapping[str, object]) -> Answer:
    del arguments
    own = volume.parts.checkpointer.device
    return {
        "devices": [
            {
                "id": device.hex(),
                "name": member.name,
                "this": device == own,
                "lapsed": member.lapsed_after is not None,
            }
            for device, member in sorted(volume.parts.tree.members().items())
        ]
    }


async def _lapse(volume: Volume, arguments: Mapping[str, object]) -> Answer:
    """Raises `NoEntry` where no such device is, `Refused` for this one and for two of a name."""
    wanted = str(arguments.get("device"))
    known = volume.parts.tree.members()
    found = [d for d, member in known.items() if wanted in (member.name, d.hex())]
    if not found:
        raise NoEntry(f"no device is called {wanted}; see aggfs device list")
    if len(found) > 1:
        raise Refused(f"{len(found)} devices are called {wanted}: give the id, see device list")
    (device,) = found
    member = known[device]
    if device == volume.parts.checkpointer.device:
        raise Refused("this is the device that you are at; only others can be taken out")
    if member.lapsed_after is None:
        tip = volume.parts.database.table("journal").get(_TIP + device)
        sequence = int.from_bytes(tip or b"")
        volume.namespace.add_control(msgspec.structs.replace(member, lapsed_after=sequence))
        await volume.parts.database.durable()
    return {"id": device.hex(), "name": member.name}
