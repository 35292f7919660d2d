"""What commands ask a running volume: status, counters, where, why, holes."""

import os
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, chain

from aggfs.cache.blocks import StripeState
from aggfs.engine.accounts import Account
from aggfs.engine.volume import Volume
from aggfs.errors import IsADirectory
from aggfs.model import BLOCK_BYTES, Extent, InodeRow, StripeRow, spare
from aggfs.placement.plan import unfillable
from aggfs.stores.retrying import RetryingStore
from aggfs.sync.clock import milliseconds
from aggfs.threads import in_thread, list_in_slices

Answer = dict[str, object]
Arguments = Mapping[str, object]
Held = Mapping[str, Sequence[int]]
STRIPES_AT_ONCE = 1000


def _stripes(volume: Volume) -> "list[StripeState]":
    found: list[StripeState] = []
    after: bytes | None = None
    while page := volume.parts.blocks.stripes(after, limit=STRIPES_AT_ONCE):
        found += page
        after = page[-1].row.sid
    return found


async def status(volume: Volume, arguments: Arguments) -> Answer:
    """Accounts, levels, health, and what is not in the accounts yet."""
    del arguments
    parts = volume.parts
    total, free, files = volume.statfs()
    used_class, policy = parts.policy.storage_class, parts.policy
    state = parts.publisher.state
    now_ms = parts.wall_ns() // 1_000_000
    first = parts.outbox.first()
    counts = await _stripe_counts(volume)
    return {
        "pid": os.getpid(),
        "name": parts.name,
        "read_only": parts.database.failure is not None,
        "k": used_class.k,
        "n": used_class.n,
        "code": "copies" if used_class.layout.in_copies else "parity",
        "fragments_per_provider": policy.per_provider,
        "total_bytes": total,
        "free_bytes": free,
        "used_bytes": max(0, total - free),
        "files": files,
        "stored_bytes": sum(parts.accounts.ledger.used_bytes(one.id) for one in parts.accounts),
        "stripes": counts,
        "under_replicated": counts["staged"] + counts["stored"],
        "staged_bytes": parts.staging.size_bytes,
        "dirty_bytes": volume.parts.open_files.dirty_bytes,
        "outbox_entries": len(parts.outbox),
        "outbox_age_seconds": _age(now_ms, milliseconds(first[1].stamp.clock)) if first else None,
        "segments_pending": len(parts.publisher.pending()),
        "segment_age_seconds": _age(now_ms, state.published_at_ns // 1_000_000)
        if state.published_at_ns
        else None,
        "accounts": _accounts(volume),
        "warnings": _warnings(volume),
        **volume.figures(),
    }


def _age(now_ms: int, then_ms: int) -> float:
    return max(0, now_ms - then_ms) / 1000


async def _stripe_counts(volume: Volume) -> dict[str, int]:
    """Stripes by how far they are. Only those that are not full are looked at."""
    blocks, stripes = volume.parts.blocks, volume.parts.stripes
    unfinished = blocks.unfinished()
    stored = sum(await list_in_slices(map(stripes.is_stored, unfinished)))
    return {
        "full": blocks.stripe_count - len(unfinished),
        "stored": stored,
        "staged": len(unfinished) - stored,
    }


def _accounts(volume: Volume) -> list[Answer]:
    states = {state.account: state for state in volume.parts.accounts.states()}
    return [
        {
            "id": account.id.hex(),
            "name": account.name,
            "provider": account.provider,
            "driver": account.driver,
            "place": account.store.place,
            "used_bytes": volume.parts.accounts.ledger.used_bytes(account.id),
            "foreign_bytes": account.foreign_bytes,
            "capacity_bytes": states[account.id].capacity_bytes,
            "level": states[account.id].level_with(0),
            "healthy": account.healthy,
            "error": account.last_error,
            "full": account.full,
            "leaving": account.leaving,
            "requests": account.requests(),
            "requests_by_verb": {v: f.requests for v, f in account.meter().items()},
            "sent_bytes": sum(f.sent_bytes for f in account.meter().values()),
            "received_bytes": sum(f.received_bytes for f in account.meter().values()),
        }
        for account in volume.parts.accounts
    ]


def _warnings(volume: Volume) -> list[str]:
    parts = volume.parts
    used = parts.policy.storage_class
    states = parts.accounts.states()
    found = []
    if parts.allow_complete_copy:
        found.append("a provider may hold a complete copy: --allow-complete-copy was given")
    pools: dict[str, list[str]] = {}
    for state in states:
        if state.pool:
            pools.setdefault(state.pool, []).append(state.name)
    found += [
        f"{', '.join(names)} share one disk: they fail together, whatever their providers say"
        for names in pools.values()
        if len(names) > 1
    ]
    found += [
        f"account {state.name} cannot be filled: it is more than its share of the whole"
        for state in unfillable(states, n=used.n, k=used.k, q=parts.policy.per_provider)
        if not state.pool
    ]
    found += volume.jobs.troubles.values()
    failing = parts.open_files.failing()
    if failing:
        text = f"{len(failing)} files" if len(failing) > 1 else "1 file"
        found.append(f"{text} cannot be sent out: {failing[0].error or 'as told to its program'}")
    if parts.stripes.troubles:
        text = next(iter(parts.stripes.troubles.values()))
        found.append(f"{len(parts.stripes.troubles)} stripes cannot be sent: {text}")
    if parts.database.failure is not None:
        found.append(f"read-only: {parts.database.failure}")
    return found + volume.warnings()


async def counters(volume: Volume, arguments: Arguments) -> Answer:
    """What each account was asked, and what waits: cheap enough for every second. With `cache`
    also how much the local copies take, for which all of them are looked at."""
    parts = volume.parts
    first = parts.outbox.first()
    answer: Answer = {
        "fetched_bytes": sum(
            account.meter()["get_range"].received_bytes for account in parts.accounts
        ),
        "accounts": [_counted(account) for account in parts.accounts],
        "queue": {
            "dirty_bytes": parts.open_files.dirty_bytes,
            "staged_bytes": parts.staging.size_bytes,
            "staging_limit_bytes": parts.limits.staging_bytes,
            "stripes": await _stripe_counts(volume),
            "puts_in_flight": sum(account.meter()["put"].in_flight for account in parts.accounts),
            "outbox_entries": len(parts.outbox),
            "outbox_age_seconds": _age(
                parts.wall_ns() // 1_000_000, milliseconds(first[1].stamp.clock)
            )
            if first
            else None,
        },
        "cache_limit_bytes": parts.limits.cache_bytes,
    }
    if arguments.get("cache"):
        usage = await in_thread(parts.sparse_files.usage)
        answer["cache_bytes"] = sum(size for _, _, size in usage)
    return answer


def _counted(account: Account) -> Answer:
    figures = account.meter()
    store = account.store
    return {
        "name": account.name,
        "provider": account.provider,
        "healthy": account.healthy,
        "error": account.last_error,
        "full": account.full,
        "leaving": account.leaving,
        "paused_seconds": store.pause_seconds if isinstance(store, RetryingStore) else 0.0,
        "in_flight": sum(one.in_flight for one in figures.values()),
        "requests": sum(one.requests for one in figures.values()),
        "answered": sum(one.answered for one in figures.values()),
        "answered_seconds": sum(one.answered_seconds for one in figures.values()),
        "failed": sum(one.failed for one in figures.values()),
        "cancelled": sum(one.cancelled for one in figures.values()),
        "sent_bytes": sum(one.sent_bytes for one in figures.values()),
        "received_bytes": sum(one.received_bytes for one in figures.values()),
    }


async def where(volume: Volume, arguments: Arguments) -> Answer:
    """Block, version, stripe, fragment, account of a file."""
    row = volume.row_at(arguments)
    extents = volume.parts.blocks.extents(row.inode, 0, -(-row.size // BLOCK_BYTES))
    return {
        "path": str(arguments.get("path")),
        "size": row.size,
        "version": row.heads[0].hex() if row.heads else "",
        "state": volume.state_of(row),
        "blocks": [_run(volume, extent) for extent in extents],
    }


def _run(volume: Volume, extent: Extent) -> Answer:
    state = volume.parts.blocks.stripe(extent.sid)
    fragments = [] if state is None else [_fragment(volume, state, i) for i in _indices(state)]
    if state is None:
        word = "lost"
    elif state.full:
        word = "full"
    else:
        word = "stored" if volume.parts.stripes.is_stored(extent.sid) else "staged"
    return {
        "block": extent.block,
        "count": extent.count,
        "sid": extent.sid.hex(),
        "index": extent.index,
        "state": word,
        "fragments": fragments,
    }


def _indices(state: StripeState) -> range:
    return range(len(state.row.places))


def _fragment(volume: Volume, state: StripeState, index: int) -> Answer:
    row, place = state.row, state.row.places[index]
    account = volume.parts.accounts.get(place)
    key = volume.parts.keys.fragment_name(row.epoch, row.sid, index, place) if place else ""
    there = bool(state.confirmed >> index & 1)
    return {
        "index": index,
        "account": account.name if account and there else "",
        "key": key if there else "",
    }


async def why(volume: Volume, arguments: Arguments) -> Answer:
    """Which providers may fail before a file, or anything, is lost."""
    if "path" in arguments:
        row = volume.row_at(arguments)
        known = [volume.parts.blocks.stripe(sid) for sid in volume.sids_of(row)]
        states = [state for state in known if state is not None]
    else:
        states = _stripes(volume)
    held = [_by_provider(volume, state) for state in states]
    left = [_left(state.row, by) for state, by in zip(states, held, strict=True)]
    providers = sorted({account.provider for account in volume.parts.accounts})
    return {
        "stripes": len(states),
        "at_risk": sum(one == 0 for one in left),
        "lost": sum(one < 0 for one in left),
        "any": min((_any_may_fail(by, one) for by, one in zip(held, left, strict=True)), default=0),
        "providers": [
            {
                "provider": provider,
                "stripes": sum(provider in by for by in held),
                "may_fail": all(
                    _left(state.row, by, {provider}) >= 0
                    for state, by in zip(states, held, strict=True)
                ),
            }
            for provider in providers
        ],
    }


def _by_provider(volume: Volume, state: StripeState) -> Held:
    """Which good fragments of a stripe each provider has."""
    found: dict[str, list[int]] = {}
    for index in state.in_place:
        account = volume.parts.accounts.get(state.row.places[index])
        if account is not None:
            found.setdefault(account.provider, []).append(index)
    return found


def _left(row: StripeRow, held: Held, failed: Collection[str] = ()) -> int:
    """How many fragments are to spare when these providers have failed."""
    kept = (indices for provider, indices in held.items() if provider not in failed)
    return spare(row, chain.from_iterable(kept))


def _any_may_fail(held: Held, left: int) -> int:
    """How many providers, the fullest ones, may fail with so many fragments to spare, whichever
    they are."""
    fullest = sorted(map(len, held.values()), reverse=True)
    return sum(fragments <= left for fragments in accumulate(fullest))


async def holes(volume: Volume, arguments: Arguments) -> Answer:
    """What of a file is not here, what is nowhere, and what is a local edit."""
    row = volume.row_at(arguments)
    _assert_file(row)
    found, gaps = volume.parts.local.holes(row.number)
    return {
        "size": row.size,
        "holes": found,
        "gaps": gaps,
        "dirty": volume.parts.local.dirty_ranges(row.number),
    }


def _assert_file(row: InodeRow) -> None:
    if row.mode & 0o170000 != 0o100000:
        raise IsADirectory("only regular files have holes")


async def checkpoint(volume: Volume, arguments: Arguments) -> Answer:
    """Make a checkpoint of the journal now."""
    del arguments
    return {"parts": await volume.parts.checkpointer.make()}


VERBS = {
    "status": status,
    "counters": counters,
    "where": where,
    "why": why,
    "holes": holes,
    "checkpoint": checkpoint,
}
