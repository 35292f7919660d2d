"""Collection: what nothing refers to any more is deleted from the accounts.

Theory of operation. A round finds the stripes to which nothing refers (`engine.care.roots`): in a
snapshot, and still in a second one, taken when every writer of the first moment has ended
(`engine.works`). For each of ours, one after the other and each durable before the next:

1. its intent entry, `DropStripe`, is put in the outbox, and a row in `dying`;
2. enough accounts know the entry: the grace begins;
3. the grace is over, all other members have acknowledged, and still nothing refers to it: its row
   goes, with every "is stored" mark; what is or may be there of it is now in the dying row;
4. the objects are deleted, at all accounts that have or may have one, and each that is confirmed
   to be gone leaves ledger and row; an account that is away keeps its part of both.

A reference that comes before step 3 takes everything back. Whatever is cut short goes on from its
row. While there are other members nothing is deleted: there is no entry yet by which they could
acknowledge.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import trio

from aggfs.coding.codec import fragment_bytes
from aggfs.engine.care.dying import Dying
from aggfs.engine.care.roots import unreferenced_steps
from aggfs.engine.care.upkeep import Upkeep
from aggfs.engine.pool import some_at_once
from aggfs.engine.volume import Parts
from aggfs.errors import Busy
from aggfs.model import AccountEntry, AccountId, DropStripe, PutStripe, StripeRow
from aggfs.sync.collection import DyingRow, Phase, Step, active, next_step, owner_of
from aggfs.threads import in_slices, list_in_slices

PATIENCE_SECONDS = 60.0
STRIPES_AT_ONCE = 8
ROWS_AT_ONCE = 100


@dataclass(slots=True)
class Round:
    """What a round did. `notes` say what keeps it from doing more."""

    found_stripes: int = 0
    found_bytes: int = 0
    revived_stripes: int = 0
    deleted_objects: int = 0
    deleted_bytes: int = 0
    notes: tuple[str, ...] = ()


class Collector:
    """Collects the stripes of one volume. On the loop."""

    def __init__(self, parts: Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._upkeep = upkeep
        self._dying = Dying(parts.database)
        self._lock = trio.Lock()

    # --- rounds -------------------------------------------------------------------------------

    async def collect(self) -> Round:
        """One round. Raises `Busy` where writers do not end, `Unreachable` where too few accounts
        take the intents: both are tried again. May be cancelled at any point."""
        async with self._lock:
            found = Round()
            free = await self._unreferenced()
            mine = {sid for sid in free if self._is_mine(sid)}
            found.revived_stripes = await self._revive(free)
            told = [sid for sid in sorted(mine) if not self._dying.get(sid)]
            for count, sid in enumerate(told):
                found.found_stripes += 1
                found.found_bytes += self._size_of(sid)
                self._tell(sid)
                await self._give_turns(count)
            if await self._with_phase(Phase.TOLD):
                await self._parts.publisher.publish()
            await self._begin_grace()
            await self._unmark_all(free)
            await self._delete_all(found)
            found.notes = tuple(self._notes())
            return found

    async def advance(self) -> None:
        """Go on with what needs no look at references: begin graces, delete."""
        async with self._lock:
            await self._begin_grace()
            await self._delete_all(Round())

    async def look(self) -> Round:
        """What a round would find. Changes nothing. Raises `Busy`."""
        free = await self._unreferenced()
        new = [sid for sid in free if self._is_mine(sid) and not self._dying.get(sid)]
        sizes = sum(map(self._size_of, new))
        return Round(len(new), sizes, notes=tuple(self._notes()))

    async def _unreferenced(self) -> set[bytes]:
        """Stripes to which nothing refers, nor will.

        Those of the first look have rows; who made one of them and had yet to name it was a
        writer under way at that moment. When all of these have ended, what they put, and all
        that was put before, is in the second look.
        """
        free = await self._look()
        if free:
            with trio.move_on_after(PATIENCE_SECONDS) as scope:
                await self._parts.writers.settled()
            if scope.cancelled_caught:
                raise Busy("files are being sent out, and wait for accounts: collection must wait")
            free &= await self._look()
        return free.difference(self._parts.staging.names())

    async def _look(self) -> set[bytes]:
        await self._parts.database.durable()
        with self._parts.database.snapshot() as snapshot:
            return await in_slices(unreferenced_steps(snapshot))

    # --- steps --------------------------------------------------------------------------------

    def _tell(self, sid: bytes) -> None:
        """The intent: an entry, and the row that goes on from it."""
        self._parts.namespace.add_control(DropStripe(sid))
        self._dying.put(sid, DyingRow(Phase.TOLD, self._upkeep.seconds()))

    async def _rows(self) -> list[tuple[bytes, DyingRow]]:
        """Who frees much has many of them."""
        return await list_in_slices(self._dying.rows())

    async def _give_turns(self, count: int) -> None:
        """After some rows: let others have their turn, and the disk take what was put."""
        if count % ROWS_AT_ONCE == 0:
            await trio.lowlevel.checkpoint()
            await self._parts.database.throttle()

    async def _with_phase(self, phase: Phase) -> list[bytes]:
        return [sid for sid, row in await self._rows() if row.phase == phase]

    def _next_step(self, row: DyingRow, *, referenced: bool, published: bool) -> Step:
        return next_step(
            row,
            now=self._upkeep.seconds(),
            grace_seconds=self._parts.collect_after_seconds,
            referenced=referenced,
            published=published,
            silent=self._silent(),
        )

    async def _revive(self, free: Collection[bytes]) -> int:
        """Take the intent back where something refers to the stripe after all; how often."""
        count = 0
        for number, (sid, row) in enumerate(await self._rows()):
            await self._give_turns(number)
            if self._next_step(row, referenced=sid not in free, published=False) is Step.REVIVE:
                state = self._parts.blocks.stripe(sid)
                if state is not None:
                    self._parts.namespace.add_control(PutStripe(state.row))
                self._dying.drop(sid)
                count += 1
        return count

    async def _begin_grace(self) -> None:
        told = await self._with_phase(Phase.TOLD)
        if not told:
            return
        state = self._parts.publisher.state
        if state.published != (state.control.sequence, state.namespace.sequence):
            return
        rows = self._parts.outbox.rows()
        waiting = {row.entry.sid for _, row in rows if isinstance(row.entry, DropStripe)}
        for count, sid in enumerate(told):
            await self._give_turns(count)
            row = self._dying.get(sid)
            if row is None:
                continue
            step = self._next_step(row, referenced=False, published=sid not in waiting)
            if step is Step.BEGIN_GRACE:
                self._dying.put(sid, DyingRow(Phase.WAITING, self._upkeep.seconds()))

    async def _unmark_all(self, free: set[bytes]) -> None:
        """Take the rows of those whose grace is over, before any of their objects goes."""
        for count, (sid, row) in enumerate(await self._rows()):
            step = self._next_step(row, referenced=sid not in free, published=False)
            if step is Step.UNMARK:
                await self._unmark(sid)
            await self._give_turns(count)
        await self._parts.database.durable()

    async def _unmark(self, sid: bytes) -> None:
        """The stripe is not stored any more; one transaction. Waits for who moves or repairs it."""
        async with self._parts.repairs.holds.hold(sid):
            state = self._parts.blocks.stripe(sid)
            if state is None or sid in self._parts.staging:
                return
            left = tuple((index, bytes(account)) for index, account in sorted(state.copies()))
            self._parts.blocks.drop_stripe(sid)
            self._dying.put(sid, DyingRow(Phase.DELETING, self._upkeep.seconds(), state.row, left))

    # --- deleting -----------------------------------------------------------------------------

    async def _delete_all(self, found: Round) -> None:
        """Delete what can be deleted now of all whose marks are gone, on the disk."""
        doomed = await self._with_phase(Phase.DELETING)
        await some_at_once(lambda sid: self._delete(sid, found), doomed, STRIPES_AT_ONCE)

    async def _delete(self, sid: bytes, found: Round) -> None:
        row = self._dying.get(sid)
        if row is None or row.row is None:
            return
        size = fragment_bytes(row.row.sealed_bytes, row.row.k)
        left = list(row.left)
        for index, place in row.left:
            if await self._is_gone(row.row, index, place):
                left.remove((index, place))
                self._parts.accounts.ledger.add(AccountId(place), -size)
                self._dying.put(sid, DyingRow(row.phase, row.since, row.row, tuple(left)))
                found.deleted_objects += 1
                found.deleted_bytes += size
        if not left:
            self._dying.drop(sid)

    async def _is_gone(self, row: StripeRow, index: int, place: bytes) -> bool:
        """Whether the object is deleted now, or its account is none of the volume's any more."""
        account = self._parts.accounts.get(place)
        if account is None:
            known = self._parts.tree.control(b"a" + place)
            return (
                known is not None and isinstance(known.entry, AccountEntry) and known.entry.removed
            )
        if not account.healthy:
            return False
        name = self._parts.keys.fragment_name(row.epoch, row.sid, index, account.id)
        return await account.delete_for_good(name)

    # --- whose, and how much ------------------------------------------------------------------

    def _is_mine(self, sid: bytes) -> bool:
        return owner_of(sid, self._parts.tree.members()) == self._device

    def _silent(self) -> list[bytes]:
        """The other members that have not lapsed: none can acknowledge anything yet."""
        return [device for device in active(self._parts.tree.members()) if device != self._device]

    @property
    def _device(self) -> bytes:
        return self._parts.checkpointer.device

    def _size_of(self, sid: bytes) -> int:
        """What the objects of a stripe take, all together."""
        state = self._parts.blocks.stripe(sid)
        if state is None:
            return 0
        return len(state.copies()) * fragment_bytes(state.row.sealed_bytes, state.row.k)

    def _notes(self) -> Iterable[str]:
        members = self._parts.tree.members()
        for device in self._silent():
            name = members[device].name
            yield f"device {name} is a member too: nothing is deleted until it has lapsed"

    def figures(self) -> dict[str, int]:
        """How many stripes are on their way out, and what waits to be deleted."""
        rows = [row for _, row in self._dying.rows()]
        deleting = [row for row in rows if row.phase == Phase.DELETING and row.row is not None]
        sizes = (
            len(row.left) * fragment_bytes(row.row.sealed_bytes, row.row.k)
            for row in deleting
            if row.row is not None
        )
        return {
            "waiting_stripes": len(rows) - len(deleting),
            "deleting_stripes": len(deleting),
            "deleting_objects": sum(len(row.left) for row in deleting),
            "deleting_bytes": sum(sizes),
        }
