"""What keeps a volume clean and whole, as a feature: `gc`, `scrub`, `check`, and their jobs.

What nothing refers to is looked for twice an hour, what lies astray once a day; what has begun
goes on in between. Once a day all accounts are listed, and a thirtieth of all stripes is read.
An account that went back in time is listed at once.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict

import trio

from aggfs.engine.care.collect import Collector
from aggfs.engine.care.consistency import State, consistency_steps
from aggfs.engine.care.mend import Mended, Mender
from aggfs.engine.care.scrub import Findings, Scrubber
from aggfs.engine.care.strays import Strays
from aggfs.engine.care.upkeep import DAY_SECONDS, Upkeep
from aggfs.engine.care.verify import Verifier
from aggfs.engine.progress import tell
from aggfs.engine.volume import Feature, Parts, Volume
from aggfs.errors import Busy, StoreError
from aggfs.threads import in_slices

COLLECTION, STRAYS, SCRUB = "collection", "looking for strays", "scrub"
SAMPLE_PARTS = 30
SCRUB_PAUSE_SECONDS = 600.0
GONE_BACK_PAUSE_SECONDS = 60.0
FAULTS_TOLD = 1000
ADVANCE_SECONDS = 30.0
ADVANCES = 60
logger = logging.getLogger(__name__)

Answer = dict[str, object]


class Keeper:
    """Keeps one volume clean. On the loop."""

    def __init__(self, parts: Parts, upkeep: Upkeep) -> None:
        self._parts = parts
        self._upkeep = upkeep
        self.collector = Collector(parts, upkeep)
        self._strays = Strays(parts, upkeep)
        self._scrubber = Scrubber(parts, upkeep)
        self._mender = Mender(parts)
        self._verifier = Verifier(parts, self._mender)
        self._brought: dict[str, str] = {}  # account that went back in time -> what was done
        upkeep.expect(COLLECTION, DAY_SECONDS)
        upkeep.expect(SCRUB, 3 * DAY_SECONDS)
        upkeep.expect(STRAYS, 3 * DAY_SECONDS)

    async def run(self) -> None:
        """Collect, for ever."""
        self._upkeep.begin()
        while True:
            for _ in range(ADVANCES):
                await trio.sleep(ADVANCE_SECONDS)
                await self.collector.advance()
            try:
                await self.collector.collect()
                self._upkeep.done(COLLECTION)
                if (self._upkeep.age_seconds(STRAYS) or 0.0) >= DAY_SECONDS:
                    await self._collect_strays()
            except (Busy, StoreError) as error:
                logger.info("collection must wait: %s", error)

    async def _collect_strays(self) -> list[Answer]:
        # An old copy of this state would take for astray what its successor put: it is found out
        # when it publishes.
        await self._parts.publisher.publish()
        found = await self._strays.collect()
        if not any(one.failure for one in found.values()):
            self._upkeep.done(STRAYS)
        return [{"name": name, **asdict(one)} for name, one in found.items()]

    async def gc(self, volume: Volume, arguments: Mapping[str, object]) -> Answer:
        """Collect now, or tell what there is to collect; `strays` False: do not list accounts."""
        del volume
        if arguments.get("dry_run"):
            found = await self.collector.look()
            strays = await self._strays.look()
            accounts: list[Answer] = [{"name": name, **asdict(one)} for name, one in strays.items()]
        else:
            found = await self.collector.collect()
            self._upkeep.done(COLLECTION)
            accounts = await self._collect_strays() if arguments.get("strays", True) else []
            await self._parts.database.durable()
        return {**asdict(found), **self.collector.figures(), "accounts": accounts}

    # --- scrub --------------------------------------------------------------------------------

    async def scrub_for_ever(self) -> None:
        """Once a day, list all and read some; what is found is repaired."""
        while True:
            await trio.sleep(SCRUB_PAUSE_SECONDS)
            if (self._upkeep.age_seconds(SCRUB) or 0.0) < DAY_SECONDS:
                continue
            listed = await self._scrubber.by_listing(repair=True)
            await self._mend(listed)
            read = await self._scrubber.sample(SAMPLE_PARTS)
            for fault in (*listed.faults, *read.faults):
                logger.warning(
                    "fragment %d of stripe %s was %s at account %s",
                    *(fault.index, fault.sid.hex(), fault.what, fault.account),
                )
            if not listed.left_out:
                self._upkeep.done(SCRUB)

    async def bring_up_to_date(self) -> None:
        """Put again, for ever, what accounts lack that went back in time."""
        taken = self._parts.publisher.taken
        while True:
            await taken.wait_gone_back()
            for account_id in taken.gone_back():
                await self._bring_up_to_date(account_id)
            if taken.gone_back():
                await trio.sleep(GONE_BACK_PAUSE_SECONDS)

    async def _bring_up_to_date(self, account_id: bytes) -> None:
        parts = self._parts
        account = parts.accounts.get(account_id)
        if account is None or not account.healthy:
            return
        try:
            await parts.publisher.publish()  # its head
            found = await self._scrubber.by_listing(repair=True, accounts=[account])
            mended = await self._mend(found)
        except StoreError as error:
            logger.info("account %s is to be brought up to date: %s", account.name, error)
            return
        if not (found.left_out or mended.left):
            parts.publisher.taken.made_whole(account_id)
            count = f"{len(found.faults)} fragments and {mended.objects} objects of the journal"
            self._brought[account.name] = f"what it lacked was put again, {count}"
            logger.info("account %s is up to date again: %s", account.name, count)

    def warnings(self) -> list[str]:
        """What is overdue, and which accounts went back in time. It stays here for as long as
        the volume is open: whose provider does that once, does it again."""
        went = dict(self._brought)
        for account in map(self._parts.accounts.get, self._parts.publisher.taken.gone_back()):
            if account is not None:
                went[account.name] = "what it lacks is put again"
        back = [f"account {name} has gone back in time: {done}" for name, done in went.items()]
        return [*self._upkeep.overdue(), *back]

    async def _mend(self, found: Findings) -> Mended:
        if not found.records:
            return Mended()
        tell("the journal is made whole")
        return await self._mender.mend(found.records)

    async def scrub(self, volume: Volume, arguments: Mapping[str, object]) -> Answer:
        """Look for what should lie in the accounts, by listing or (`full`) by reading all of it;
        with `repair`, make again what does not."""
        repair = bool(arguments.get("repair"))
        found = await self._scrubber.by_listing(repair=repair)
        read = Findings()
        if arguments.get("full"):
            read = await self._scrubber.by_reading(repair=repair)
            for name, keys in (await self._verifier.damaged()).items():
                known = found.records.setdefault(name, [])
                known += [key for key in keys if key not in known]
        mended = await self._mend(found) if repair else Mended()
        if mended.objects:
            await volume.control("look", {})
        if not (found.left_out or read.left_out):
            self._upkeep.done(SCRUB)
        await self._parts.database.durable()
        # What was repaired after the listing is found good by the reading.
        faults = list(dict.fromkeys((*found.faults, *read.faults)))
        return {
            "stripes": found.stripes,
            "fragments": max(found.fragments, read.fragments),
            "read_bytes": read.read_bytes,
            "went_on": read.went_on,
            "faults": [
                {
                    "stripe": fault.sid.hex(),
                    "fragment": fault.index,
                    "account": fault.account,
                    "what": fault.what,
                }
                for fault in faults[:FAULTS_TOLD]
            ],
            "fault_count": len(faults),
            "records": {name: len(keys) for name, keys in found.records.items()},
            "left_out": {**found.left_out, **read.left_out},
            "repaired_fragments": found.repaired_fragments + read.repaired_fragments,
            "repaired_records": mended.objects,
            "repaired_bytes": found.repaired_bytes + read.repaired_bytes + mended.sent_bytes,
            "left_records": mended.left,
        }

    # --- check --------------------------------------------------------------------------------

    async def check(self, volume: Volume, arguments: Mapping[str, object]) -> Answer:
        """Compare the local state with itself, and the accounts by complete listings with it. With
        `repair`, what is missing there is made again; the local state is repaired by a command
        only, when nobody has it open."""
        await self._parts.database.durable()
        staging = self._parts.staging
        with self._parts.database.snapshot() as snapshot:
            state = State(snapshot, frozenset(staging.names()), staging.read)
            found = await in_slices(consistency_steps(state))
        scrubbed = await self.scrub(volume, {"repair": bool(arguments.get("repair"))})
        return {
            "findings": [{"room": one.room, "text": one.text} for one in found],
            "scrub": scrubbed,
        }


def keeping(volume: Volume) -> Feature:
    """The feature of one volume."""
    upkeep = Upkeep(volume.parts.database, volume.parts.wall_ns)
    keeper = Keeper(volume.parts, upkeep)
    return Feature(
        verbs={"gc": keeper.gc, "scrub": keeper.scrub, "check": keeper.check},
        jobs={
            "collecting": keeper.run,
            "scrubbing": keeper.scrub_for_ever,
            "bringing accounts up to date": keeper.bring_up_to_date,
        },
        figures={"collection": keeper.collector.figures, "upkeep": upkeep.ages},
        warnings=keeper.warnings,
    )
