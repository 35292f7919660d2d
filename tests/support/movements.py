"""Movements of fragments on volumes without a mount: asked for, followed, judged."""

from collections import Counter
from pathlib import Path

import trio

from aggfs.engine.moves.move import Mover
from aggfs.engine.past.versions import Versions
from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, STRIPE_BLOCKS, InodeRow, StripeRow
from aggfs.sync.retention import Retention, Tier
from tests.support.running import Place, flush, new_file, write
from tests.support.stripes import content

NOTHING_OLD = Retention((Tier(0, 0),), 0)
KEPT = (0, 5, 6, 15)  # of each stripe's blocks
FILE_BYTES = 1_500_000
END_SECONDS = 60


async def fill(volume: Volume, files: int, *, first: int = 0) -> dict[bytes, bytes]:
    """So many files, each of a stripe of its own; their contents by name."""
    made = {}
    for number in range(first, first + files):
        name, data = b"file%d" % number, content(FILE_BYTES, number)
        await new_file(volume, 1, name, data)
        await flush(volume)
        made[name] = data
    return made


async def sparse_files(volume: Volume, files: int = 4) -> dict[bytes, bytes]:
    """Files of a stripe each, most blocks of which were written anew in a second one."""
    made = {}
    for number in range(files):
        name = b"file%d" % number
        data = bytearray(content(STRIPE_BLOCKS * BLOCK_BYTES, number))
        row = await new_file(volume, 1, name, bytes(data))
        await flush(volume)
        for block in set(range(STRIPE_BLOCKS)) - set(KEPT):
            new = content(BLOCK_BYTES, 1000 * number + block)
            data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = new
            await write(volume, row, block * BLOCK_BYTES, new)
        await flush(volume)
        made[name] = bytes(data)
    return made


async def forget_the_past(volume: Volume) -> None:
    """Only what is shown is kept."""
    await flush(volume)
    parts = volume.parts
    versions = Versions(parts.database, parts.tree, parts.blocks)
    await versions.trim(parts.wall_ns() // 1_000_000 + 10, NOTHING_OLD)
    await parts.database.durable()


async def read_all(volume: Volume, names: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The files as the accounts have them."""
    rows = {name: volume.namespace.lookup(1, name) for name in names}
    await volume.parts.local.evict([row.number for row in rows.values()])
    return {name: await _whole(volume, row) for name, row in rows.items()}


async def _whole(volume: Volume, row: InodeRow) -> bytes:
    parts = [
        bytes(await volume.files.read(row.number, offset, 1 << 20))
        for offset in range(0, row.size, 1 << 20)
    ]
    return b"".join(parts)


async def ask(volume: Volume, verb: str, **arguments: object) -> dict[str, object]:
    """A movement, to its end."""
    with trio.fail_after(END_SECONDS):
        return await volume.control(verb, {"wait": True, **arguments})


async def nothing_comes_late(volume: Volume) -> None:
    """The accounts are directories here: what a killed daemon began has ended with it, and copies
    that it left need not wait."""
    for account in volume.parts.accounts:
        account.arrivals.late_seconds = 0.0
    await Mover(volume.parts, volume.parts.readers).settle()


def lose(volume: Volume, place: Place, name: bytes) -> StripeRow:
    """Every fragment of the one stripe of this file is gone from the accounts."""
    (sid,) = volume.sids_of(volume.namespace.lookup(1, name))
    state = volume.parts.blocks.stripe(sid)
    assert state is not None
    for index, home in enumerate(state.row.places):
        key = volume.parts.keys.fragment_name(state.row.epoch, sid, index, home)
        account = next(one for one in place.config.accounts if one.id == home)
        (Path(account.path) / key).unlink()
    return state.row


async def complaint(volume: Volume) -> str:
    """What the movement that is under way says of what it could not do."""
    with trio.fail_after(END_SECONDS):
        while not (told := (await volume.control("movement", {}))["text"]):  # noqa: ASYNC110
            await trio.sleep(0.02)
    return str(told)


def lying(place: Place) -> dict[str, dict[str, int]]:
    """The size of every object, by account and key; what a killed writer left is none."""
    return {
        account.name: {
            str(path.relative_to(account.path)): path.stat().st_size
            for path in Path(account.path).rglob("*")
            if path.is_file() and path.suffix != ".part"
        }
        for account in place.config.accounts
    }


def named(volume: Volume) -> dict[str, set[str]]:
    """Every object that rows name, by account."""
    found: dict[str, set[str]] = {}
    for account in volume.parts.accounts:
        found[account.name] = {key for key, _ in volume.parts.accounts.ledger.objects(account.id)}
    for state in volume.parts.blocks.stripes():
        for index, place in enumerate(state.row.places):
            account_at = volume.parts.accounts.get(place)
            assert account_at is not None
            row = state.row
            key = volume.parts.keys.fragment_name(row.epoch, row.sid, index, place)
            found[account_at.name].add(key)
    return found


async def nothing_is_lost_or_left_over(volume: Volume, place: Place) -> None:
    """What lies in the accounts is what the rows name, to the byte of the ledger; all full, and
    `aggfs check` finds nothing."""
    found = await volume.control("check", {})
    assert found["findings"] == []
    scrubbed = found["scrub"]
    assert isinstance(scrubbed, dict)
    told = scrubbed["faults"], scrubbed["records"]
    assert told == ([], {}), told
    held = lying(place)
    for account in volume.parts.accounts:
        lying_there, should = set(held[account.name]), named(volume)[account.name]
        assert lying_there == should, (account.name, lying_there - should, should - lying_there)
        used = volume.parts.accounts.ledger.used_bytes(account.id)
        assert sum(held[account.name].values()) == used, account.name
    states = volume.parts.blocks.stripes()
    assert all(state.full and not state.moving and not state.attempts for state in states)
    for state in states:
        held_by = Counter(state.row.places)
        assert max(held_by.values()) <= volume.parts.policy.per_provider


def fragments_at(volume: Volume) -> Counter[str]:
    """How many fragments of data each account has."""
    found: Counter[str] = Counter()
    for state in volume.parts.blocks.stripes():
        for place in state.row.places:
            account = volume.parts.accounts.get(place)
            found[account.name if account else "?"] += 1
    return found
