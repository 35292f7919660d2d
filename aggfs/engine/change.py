"""Changing what a volume is made of: its accounts, and the ways into it.

A change of the ways in is a new generation of the header. It is put on the accounts first, then
kept here, then the older generations are deleted: whenever this is cut short, every account has a
header that opens. An account that is away keeps its older header until it is back (see
`aggfs.engine.journal.attend`), and the answer names it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

import trio

from aggfs.coding.slots import OpenedHeader, Secret, new_slot
from aggfs.engine.accounts import Account
from aggfs.engine.care.audit import audit_complete_copies
from aggfs.engine.journal.attend import HeaderRows, forget_older_headers
from aggfs.engine.journal.headers import put_header, replace_headers
from aggfs.engine.volume import Volume
from aggfs.errors import BadConfig, NoEntry, Unreachable
from aggfs.formats.header import SlotKind
from aggfs.model import AccountEntry, AccountId, spare
from aggfs.threads import in_thread

Answer = dict[str, object]
Arguments = Mapping[str, object]
RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a change needs of the world: how settings become an account, where this device keeps
    its copy of the header, and the secret of this device's own slot."""

    open_account: Callable[[Mapping[str, object]], Account]
    keep_header: Callable[[OpenedHeader], None]
    random_bytes: RandomBytes


class Changes:
    """The verbs that change a volume. One change at a time."""

    def __init__(self, opened: OpenedHeader, surroundings: Surroundings) -> None:
        self._opened = opened
        self._around = surroundings
        self._lock = trio.Lock()

    @property
    def header(self) -> OpenedHeader:
        """The newest generation that this device knows."""
        return self._opened

    def verbs(self) -> Mapping[str, Callable[[Volume, Arguments], Awaitable[Answer]]]:
        """By the names under which commands ask for them."""
        return {
            "account-add": self.add_account,
            "audit-no-complete-copy": self.audit,
            "class-set": self.set_class,
            "key-add": self.add_key,
            "key-list": self.list_keys,
            "key-remove": self.remove_key,
        }

    # --- accounts -----------------------------------------------------------------------------

    async def add_account(self, volume: Volume, arguments: Arguments) -> Answer:
        """Take a new account in: it gets the header, and the other devices hear of it.

        Raises `StoreError` when the account does not take the header, `BadConfig` where there is
        such an account; nothing is changed then.
        """
        settings = arguments.get("account")
        if not isinstance(settings, dict):
            raise BadConfig("account-add: the argument `account` holds the settings")
        parts = volume.parts
        async with self._lock:
            account = self._around.open_account(settings)
            if any(account.id == one.id or account.name == one.name for one in parts.accounts):
                raise BadConfig(f"there is an account {account.name!r} already")
            key, size = await put_header(
                account.store, self._opened, account.id, self._around.random_bytes
            )
            parts.accounts.add(account)
            parts.accounts.ledger.put_object(account.id, key, size)
            HeaderRows(parts.database).put(account.id, self._opened.generation)
            parts.namespace.add_control(
                AccountEntry(
                    account.id, account.name, account.provider, account.quota_bytes, removed=False
                )
            )
            await parts.database.durable()
        await parts.accounts.ask_space()
        return {}

    async def set_class(self, volume: Volume, arguments: Arguments) -> Answer:
        """New stripes, and what the journal puts, are `k` of `n` from now on: the header says so,
        whatever the configuration of a device does. The caller has judged them. Raises
        `Unreachable` when too few accounts take the change."""
        policy = replace(
            self._opened.policy, k=int(str(arguments.get("k"))), n=int(str(arguments.get("n")))
        )
        failed: list[str] = []
        async with self._lock:
            if policy != self._opened.policy:
                opened = replace(
                    self._opened, generation=self._opened.generation + 1, policy=policy
                )
                failed = await self._replace(volume, opened)
            volume.parts.policy.use(policy.k, policy.n, policy.layout)
        return {"failed": failed}

    async def audit(self, volume: Volume, arguments: Arguments) -> Answer:
        """What each provider holds, and what it could rebuild by itself: `engine.care.audit`."""
        del arguments
        pairs = [(one.provider, one.store) for one in volume.parts.accounts]
        holdings = await audit_complete_copies(pairs, volume.parts.keys)
        return {
            "providers": [
                {
                    "provider": one.provider,
                    "objects": one.objects,
                    "stripes": one.stripes,
                    "heads": one.heads,
                    "headers": one.headers,
                    "foreign": one.foreign,
                    "most_fragments": one.most_fragments,
                }
                for one in holdings
            ],
            "complete": [f"{one.provider}: {text}" for one in holdings for text in one.complete],
        }

    # --- ways in ------------------------------------------------------------------------------

    async def list_keys(self, volume: Volume, arguments: Arguments) -> Answer:
        """The slots; a device's bears the device's name."""
        del volume, arguments
        names = {member.slot_key: member.name for member in self._opened.members}
        return {
            "slots": [
                {
                    "id": slot.slot.hex(),
                    "kind": slot.kind.name.lower(),
                    "label": names.get(slot.public_key, ""),
                }
                for slot in self._opened.slots
            ]
        }

    async def add_key(self, volume: Volume, arguments: Arguments) -> Answer:
        """A slot for a secret that the user has. Raises `BadConfig`, `Unreachable`."""
        secret = _secret_of(arguments)
        # Stretching a passphrase takes a second and a quarter of a gigabyte.
        slot = await in_thread(lambda: new_slot(secret, random_bytes=self._around.random_bytes))
        async with self._lock:
            failed = await self._replace(volume, self._opened.with_slot(slot))
        return {"id": slot.slot.hex(), "failed": failed}

    async def remove_key(self, volume: Volume, arguments: Arguments) -> Answer:
        """Take a way in away. Raises `NoEntry` where there is none, `BadConfig` for a device's
        (it goes with the device), `Unreachable` when too few accounts take the change."""
        wanted = str(arguments.get("id"))
        devices = {member.slot_key for member in self._opened.members}
        async with self._lock:
            found = [slot for slot in self._opened.slots if slot.slot.hex() == wanted]
            if not found:
                raise NoEntry(f"there is no slot {wanted!r}")
            if found[0].public_key in devices:
                raise BadConfig(f"slot {wanted} is a device's: its mounts would not start again")
            failed = await self._replace(volume, self._opened.without_slot(found[0].slot))
        return {"failed": failed}

    async def _replace(self, volume: Volume, opened: OpenedHeader) -> list[str]:
        """Make this generation the current one; the names of accounts that did not take it.

        Raises `Unreachable` when too few did: then it lies nowhere, and nothing is changed.
        """
        parts = volume.parts
        stores = {one.id: one.store for one in parts.accounts}
        ledger = parts.accounts.ledger

        async def intend(account: bytes, key: str, size_bytes: int) -> None:
            ledger.put_object(AccountId(account), key, size_bytes)
            await parts.database.durable()

        placed, failed = await replace_headers(
            ((bytes(account), store) for account, store in stores.items()),
            opened,
            self._around.random_bytes,
            intend,
        )
        needed = min(len(stores), spare(opened.policy, range(opened.policy.n)) + 1)
        if len(placed) < needed:
            for account, (key, _) in placed.items():
                await stores[AccountId(account)].delete(key)
                ledger.drop_object(AccountId(account), key)
            raise Unreachable(
                f"{len(placed)} of {needed} accounts took the change: {next(iter(failed.values()))}"
            )
        await in_thread(self._around.keep_header, opened)
        self._opened = opened
        for account, error in failed.items():
            known = parts.accounts.get(account)
            if known is not None:
                known.failed(error)
        rows = HeaderRows(parts.database)
        for one in parts.accounts:
            if bytes(one.id) in placed:
                await forget_older_headers(one, ledger, placed[bytes(one.id)][0])
                rows.put(one.id, opened.generation)  # last: until then the attendant looks again
        await parts.database.durable()
        return [one.name for one in parts.accounts if bytes(one.id) in failed]


def _secret_of(arguments: Arguments) -> Secret:
    try:
        kind = SlotKind[str(arguments.get("kind")).upper()]
        value = bytes.fromhex(str(arguments.get("secret")))
    except (KeyError, ValueError):
        raise BadConfig("key-add: `kind` names a kind of slot, `secret` is hexadecimal") from None
    if kind is SlotKind.DEVICE:
        raise BadConfig("a device's slot is made when it joins")
    return Secret(kind, value)
