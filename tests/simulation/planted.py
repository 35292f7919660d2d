"""Bugs, planted: each is found within some seeds, or the simulation is no good.

A mutant is production code with one thing wrong. This is the only place where something of ours
is patched; production has no switch for it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import msgspec

from aggfs.cache.blocks import StripeState
from aggfs.cache.unitfile import UnitFile
from aggfs.coding import decode
from aggfs.engine.accounts import Accounts
from aggfs.engine.care import collect
from aggfs.engine.care.collect import Collector
from aggfs.engine.recovery import journals
from aggfs.engine.writing import flush
from aggfs.engine.writing.stripes import Stripes
from aggfs.formats.sizes import cell_bytes
from aggfs.model import Sid

COPIES_COUNTED = "k that are copies of each other are stored"  # is none where none are copies
Bug = Callable[[], AbstractContextManager[object]]


def _unchecked(keys: Any, row: Any, index: int, block: int, cell_with_mac: Any) -> memoryview:
    return memoryview(cell_with_mac)[: cell_bytes(row.sealed_bytes[block], row.k)]


def _one_too_few(stripes: Stripes, state: StripeState) -> bool:
    return state.spare >= -1


def _copies_counted(stripes: Stripes, state: StripeState) -> bool:
    return state.confirmed_count >= state.row.k


def _used_twice() -> Callable[[bytes], Sid]:
    used: list[bytes] = []

    def sid(drawn: bytes) -> Sid:
        used.append(drawn)
        return Sid(used[-2] if len(used) % 8 == 0 else drawn)

    return sid


def _forgetful() -> Callable[[Stripes, bytes, set[int]], bool]:
    place_again = Stripes._place_again

    def without_attempts(stripes: Stripes, sid: bytes, left: set[int]) -> bool:
        changed = place_again(stripes, sid, left)
        state = stripes._state(sid)
        stripes._blocks.put_stripe(msgspec.structs.replace(state, attempts=()))
        return changed

    return without_attempts


def _deleting_first() -> Callable[[Collector, bytes], Any]:
    unmark = Collector._unmark

    async def delete_and_unmark(collector: Collector, sid: bytes) -> None:
        state = collector._parts.blocks.stripe(sid)
        for index, account in sorted(state.copies()) if state is not None else ():
            await collector._is_gone(state.row, index, account)
        await unmark(collector, sid)

    return delete_and_unmark


def _half_of_the_roots() -> Callable[..., Any]:
    unreferenced = collect.unreferenced_steps

    def with_some_that_are_referenced(*arguments: Any, **options: Any) -> Any:
        found = yield from unreferenced(*arguments, **options)
        stripes = arguments[0]
        return found | set(_some_sids(stripes))

    return with_some_that_are_referenced


def _some_sids(snapshot: Any) -> list[bytes]:
    return [sid for sid, _ in snapshot.table("stripes").scan(b"", limit=3)]


def _each_its_own_provider() -> Callable[..., Any]:
    state_of = Accounts._state

    def state(accounts: Accounts, account: Any, *arguments: Any, **options: Any) -> Any:
        return replace(state_of(accounts, account, *arguments, **options), provider=account.name)

    return state


def _in_place_of(target: object, name: str, make: Callable[[], object]) -> Bug:
    return lambda: mock.patch.object(target, name, make())


BUGS: Mapping[str, Bug] = {
    "none": nullcontext,
    "an fsync is skipped": _in_place_of(UnitFile, "sync", lambda: lambda file: None),
    "a MAC is not checked": _in_place_of(decode, "check_cell", lambda: _unchecked),
    "acknowledged at k - 1": _in_place_of(Stripes, "_reached_quorum", lambda: _one_too_few),
    COPIES_COUNTED: _in_place_of(Stripes, "_reached_quorum", lambda: _copies_counted),
    "a stripe id is used twice": _in_place_of(flush, "Sid", _used_twice),
    "deleted before it is unmarked": _in_place_of(Collector, "_unmark", _deleting_first),
    "collected with a part of the roots": _in_place_of(
        collect, "unreferenced_steps", _half_of_the_roots
    ),
    "published before it is stored": _in_place_of(
        Stripes, "is_stored", lambda: lambda stripes, sid: True
    ),
    "an intent row is forgotten": _in_place_of(Stripes, "_place_again", _forgetful),
    "an older head is believed": _in_place_of(journals, "_rank", lambda: lambda head: (0, 0, 0)),
    "a provider is counted twice": _in_place_of(Accounts, "_state", _each_its_own_provider),
}
