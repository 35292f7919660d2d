"""Bringing a volume back on a machine that has nothing of it but a key and a list of accounts.

Three steps, of which only the last writes to any account: find the volume (`find_volume`), fill
the local database (`engine.recovery.refill`), join as a new device: a slot of its own, a line among
the members, and with both a new generation of the header on every account that answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import trio

from aggfs.cache.database import Database
from aggfs.cache.outbox import Outbox
from aggfs.coding.slots import OpenedHeader, Secret
from aggfs.config import AccountConfig, Config, Size
from aggfs.engine.accounts import Ledger
from aggfs.engine.journal.attend import HeaderRows
from aggfs.engine.journal.headers import replace_headers
from aggfs.engine.members import note_tips
from aggfs.engine.recovery.identity import Identity
from aggfs.engine.recovery.refill import Refill
from aggfs.engine.recovery.sources import Report, Source, identify, open_newest, survey
from aggfs.errors import AggfsError, BadConfig, StoreError, Unreachable
from aggfs.formats.header import MEMBERS_LIMIT, SLOTS_LIMIT
from aggfs.model import NO_ACCOUNT, AccountEntry, AccountId, VolumeId, spare
from aggfs.placement.policy import StorageClass
from aggfs.stores.base import Store
from aggfs.sync.clock import HybridClock
from aggfs.sync.merge import apply
from aggfs.threads import in_thread

UNDO_SECONDS = 30.0

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Found:
    """A volume in some accounts, and what a secret opened of it."""

    sources: Sequence[Source]
    opened: OpenedHeader


async def find_volume(stores: Sequence[tuple[str, Store]], secret: Secret, report: Report) -> Found:
    """Find the volume that the secret opens in these accounts, (name, store). Writes nothing.

    Raises `WrongKey`; `Unreachable` when too few accounts answer, or none has a header;
    `BadConfig` when two accounts have one name, or are one place.
    """
    if len({name for name, _ in stores}) < len(stores):
        raise BadConfig("two accounts have the same name")
    with _one_error():
        sources = await survey(stores, report)
        if not sources:
            raise Unreachable("none of these accounts answers")
        opened = await in_thread(open_newest, sources, secret)
        identify(sources, opened.keyring)
        known = sum(source.id != NO_ACCOUNT for source in sources)
        needed = -(-opened.policy.k // opened.policy.per_provider)
        if known < needed:
            raise Unreachable(f"{known} of at least {needed} accounts of the volume answer")
        return Found(sources, opened)


class Recovery:
    """A volume on its way into an empty database."""

    def __init__(
        self, found: Found, accounts: Sequence[AccountConfig], database: Database, report: Report
    ) -> None:
        """`accounts` are what the user gave, by the names that the sources have."""
        self._sources = found.sources
        self._opened = found.opened
        self._accounts = accounts
        self._database = database
        self._report = report
        self._refill = Refill(found.sources, found.opened, database, report)
        self._ids: dict[str, AccountId] = {}

    async def fill(self) -> None:
        """Fill the database. Writes to no account. Raises what `Refill.run` does."""
        with _one_error():
            await self._refill.run()
        found = {source.name: source.id for source in self._sources if source.id != NO_ACCOUNT}
        self._ids = found | match_accounts(self._accounts, found, self._refill.accounts())
        for source in self._sources:
            if source.id == NO_ACCOUNT and source.name in self._ids:
                source.id = self._ids[source.name]
                source.complaints.add("it has lost everything that lay there")
        self._tell()

    def _tell(self) -> None:
        census, stripes = self._refill.census, self._refill.census.stripes
        self._report(
            f"{census.files} files ({census.size_bytes} bytes), {census.directories} directories,"
            f" {census.others} others"
        )
        if stripes.degraded:
            self._report(f"{stripes.degraded} stripes miss fragments, or their accounts are away")
        if stripes.lost:
            self._report(f"{stripes.lost} stripes are lost: too few of their fragments are left")
        if census.incomplete:
            self._report(
                f"{len(census.incomplete)} files rest on content that was not found: reading what"
                " is missing of them fails"
            )
        for source in self._sources:
            if source.id == NO_ACCOUNT:
                self._report(f"account {source.name} is left out: it holds nothing of this volume")
            for complaint in sorted(source.complaints):
                self._report(f"account {source.name}: {complaint}")
        self._tell_currency()

    def _tell_currency(self) -> None:
        """A head lies on more accounts than may fail; if more are away, it may be an old one."""
        accounts = len(self._refill.accounts())
        away = accounts - sum(source.id != NO_ACCOUNT for source in self._sources)
        policy = self._opened.policy
        if away >= min(accounts, spare(policy, range(policy.n)) + 1):
            self._report(f"{away} accounts are left out: the latest changes may be missing")

    def tell_devices(self) -> None:
        """Who is waited for from now on. A lost machine should not be."""
        members = self._refill.tree.members().values()
        names = sorted(one.name for one in members if one.lapsed_after is None)
        if names:
            self._report(
                f"still members: {', '.join(names)}; take out each that is lost for good, once the"
                " volume is mounted: aggfs device lapse NAME"
            )

    # --- joining ------------------------------------------------------------------------------

    def join(
        self,
        identity: Identity,
        device_name: str,
        *,
        random_bytes: RandomBytes,
        wall_ns: Callable[[], int],
    ) -> OpenedHeader:
        """Make the identity a member: in the header that is returned, and in the outbox. Raises
        `BadConfig` when the header is full. `wall_ns`: nanoseconds since 1970."""
        opened = self._opened
        if len(opened.slots) >= SLOTS_LIMIT or len(opened.members) >= MEMBERS_LIMIT:
            raise BadConfig("the volume's header is full: remove a key or a device first")
        slot = identity.new_slot(random_bytes)
        member = identity.member(device_name, slot)
        clock = HybridClock(identity.device, self._refill.clock)
        stamp = clock.tick(wall_ns())
        apply(self._refill.tree, stamp, member)
        Outbox(self._database).append(stamp, member)
        # What `publish.last_clock` reads: nothing this device does sorts before what it has seen.
        self._database.table("journal").put(b"clock", clock.last.to_bytes(8))
        note_tips(self._database, self._refill.heads)
        return replace(opened.with_slot(slot), members=(*opened.members, member))

    async def put_header(self, opened: OpenedHeader, random_bytes: RandomBytes) -> None:
        """Put the new generation on every account, then delete older ones where it arrived.

        Raises `Unreachable` when so few take it that it could be missed; it lies nowhere then.
        """
        sources = {bytes(one.id): one for one in self._sources if one.id != NO_ACCOUNT}
        stores = [(account, source.store) for account, source in sources.items()]
        placed, failed = await replace_headers(stores, opened, random_bytes)
        for account, error in failed.items():
            self._report(f"account {sources[account].name} did not take the new header: {error}")
        for name in sorted(self._ids.keys() - {one.name for one in self._sources}):
            self._report(f"account {name} keeps an older header, which does not know this device")
        policy = opened.policy
        needed = min(len(sources), spare(policy, range(policy.n)) + 1)
        if len(placed) < needed:
            with trio.move_on_after(UNDO_SECONDS, shield=True):
                for account, (key, _) in placed.items():
                    await _delete(sources[account].store, key)
            raise Unreachable(f"{len(placed)} of {needed} accounts took the new header")
        ledger = Ledger(self._database)
        for account, (key, size) in placed.items():
            ledger.put_object(AccountId(account), key, size)
            HeaderRows(self._database).put(account, opened.generation)
            await self._forget_older(sources[account], opened, ledger)
        await self._database.durable()

    async def _forget_older(self, source: Source, opened: OpenedHeader, ledger: Ledger) -> None:
        for found in source.headers_of(opened.keyring.volume):
            gone = found.header.generation < opened.generation and await _delete(
                source.store, found.key
            )
            if not gone:
                ledger.put_object(source.id, found.key, found.size_bytes)

    # --- what the mount needs -----------------------------------------------------------------

    def config(
        self,
        name: str,
        identity: Identity,
        device_name: str,
        default_provider: Callable[[AccountConfig], str],
    ) -> Config:
        """The configuration of this device: the accounts as the user gave them, with ids and
        whatever else was left open filled in. One that cannot be told is left out."""
        policy = self._opened.policy
        entries = self._refill.accounts()
        known = []
        for account in self._accounts:
            identity_of = self._ids.get(account.name)
            if identity_of is None:
                self._report(f"account {account.name} is not in the configuration: add it later")
                continue
            entry = entries.get(identity_of)
            known.append(_completed(account, identity_of, entry, default_provider))
        for missing in sorted(entries.keys() - self._ids.values()):
            self._report(f"account {entries[missing].name} of the volume was not given")
        return Config(
            name=name,
            volume=VolumeId(self._opened.keyring.volume),
            device=identity.device,
            device_name=device_name,
            classes=(StorageClass(0, "default", policy.k, policy.n, policy.layout),),
            accounts=tuple(known),
            fragments_per_provider=policy.per_provider,
            allow_complete_copy=policy.allow_complete_copy,
        )


def match_accounts(
    accounts: Iterable[AccountConfig],
    found: Mapping[str, AccountId],
    entries: Mapping[AccountId, AccountEntry],
) -> dict[str, AccountId]:
    """Which of the volume's accounts those are that told nothing, by name, as far as it shows.

    `found` are the ids of those that did tell, by name. Another one is known by its name, or its
    provider, or because it is the only one left on both sides.
    """
    silent = {account.name: account for account in accounts if account.name not in found}
    free = {account: entry for account, entry in entries.items() if account not in found.values()}
    matched: dict[str, AccountId] = {}

    def match(same: Callable[[AccountConfig, AccountEntry], bool]) -> None:
        for name, account in list(silent.items()):
            fitting = [one for one, entry in free.items() if same(account, entry)]
            if len(fitting) == 1:
                matched[name] = fitting[0]
                del silent[name], free[fitting[0]]

    match(lambda account, entry: account.name == entry.name)
    match(lambda account, entry: account.provider == entry.provider)
    match(lambda account, entry: len(silent) == len(free) == 1)
    return matched


def _completed(
    account: AccountConfig,
    identity: AccountId,
    entry: AccountEntry | None,
    default_provider: Callable[[AccountConfig], str],
) -> AccountConfig:
    provider = account.provider or (entry.provider if entry else "")
    quota = account.quota_bytes or Size(entry.quota_bytes if entry else 0)
    return replace(
        account,
        id=identity,
        provider=provider or default_provider(account),
        quota_bytes=quota,
    )


async def _delete(store: Store, key: str) -> bool:
    """Whether the object is gone."""
    try:
        await store.delete(key)
    except StoreError:
        return False
    return True


@contextmanager
def _one_error() -> Iterator[None]:
    """Of errors that tasks raised together, let the first out."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = next(
                (one for one in error.exceptions if not isinstance(one, AggfsError)),
                error.exceptions[0],
            )
        raise error from group
