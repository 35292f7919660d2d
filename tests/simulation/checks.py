"""What must hold at any time, looked up in the clouds themselves and in the rows of the volume."""

from collections.abc import Iterable, Mapping, Sequence

from aggfs.cache.blocks import StripeState
from aggfs.engine.care.dying import Dying
from aggfs.engine.volume import Volume
from aggfs.model import BLOCK_BYTES, AccountId, StripeRow
from tests.simulation.clouds import Cloud, Wrong

PAGE = 1000


class Ground:
    """The clouds of a volume, by the ids of their accounts."""

    def __init__(self, clouds: Mapping[AccountId, Cloud]) -> None:
        self.clouds = clouds
        self._fragments: dict[tuple[bytes, int, bytes], str] = {}
        self.fragments: set[str] = set()  # the keys of all that are known
        self._sids: dict[str, bytes] = {}  # whose they are

    def name(self, volume: Volume, state: StripeState, index: int, account: bytes) -> str:
        """The key of a fragment in an account."""
        row = state.row
        known = self._fragments.get((row.sid, index, account))
        if known is None:
            keys = volume.parts.keys
            known = keys.fragment_name(row.epoch, row.sid, index, AccountId(account))
            self._fragments[row.sid, index, account] = known
            self.fragments.add(known)
            self._sids[known] = row.sid
        return known

    @staticmethod
    def stripes(volume: Volume) -> Iterable[StripeState]:
        """All rows."""
        after: bytes | None = None
        while page := volume.parts.blocks.stripes(after, limit=PAGE):
            yield from page
            after = page[-1].row.sid

    # --- what can be read ---------------------------------------------------------------------

    def can_be_read(self, volume: Volume, inode: bytes, *, since: float) -> bool:
        """Whether k fragments of all that a file needs lie where nothing went wrong since then."""
        row = volume.namespace.by_inode(inode)
        extents = volume.parts.blocks.extents(inode, 0, -(-row.size // BLOCK_BYTES))
        for sid in {extent.sid: None for extent in extents}:
            state = volume.parts.blocks.stripe(sid)
            if state is None:
                raise Wrong(f"a file's stripe {sid.hex()} has no row")
            if sid not in volume.parts.staging:
                good = self._good(volume, state, self._calm(since))
                if len(different(state.row, good)) < state.row.k:
                    return False
        return True

    def _calm(self, since: float) -> list[AccountId]:
        return [account for account, cloud in self.clouds.items() if cloud.is_calm(since)]

    def _good(self, volume: Volume, state: StripeState, accounts: Sequence[bytes]) -> set[int]:
        """Which fragments are in place in these accounts."""
        return {
            index
            for index, place in enumerate(state.row.places)
            if place in accounts
            and self.name(volume, state, index, place) in self.clouds[AccountId(place)].objects
        }

    # --- invariants ---------------------------------------------------------------------------

    def check(self, volume: Volume) -> None:
        """All of them. Raises `Wrong`. No await: nothing is under way meanwhile."""
        for cloud in self.clouds.values():
            if cloud.wrong:
                raise Wrong(cloud.wrong[0])
        self._check_health(volume)
        known: dict[AccountId, set[str]] = {account: set() for account in self.clouds}
        for state in self.stripes(volume):
            self._check_stripe(volume, state, known)
        for _, dying in Dying(volume.parts.database).rows():
            for index, place in dying.left if dying.row is not None else ():
                name = self.name(volume, StripeState(dying.row, 0), index, place)
                known[AccountId(place)].add(name)
        self._check_published(volume)
        for account, cloud in self.clouds.items():
            ours = known[account] | {k for k, _ in volume.parts.accounts.ledger.objects(account)}
            for key in cloud.objects.keys("", "", 1 << 30):
                if key not in ours and not self._is_astray(volume, cloud, key):
                    raise Wrong(f"{cloud.name} has an object that no row knows: {key}")

    def _is_astray(self, volume: Volume, cloud: Cloud, key: str) -> bool:
        """Whether an object is there through no fault of the volume: it is one for the strays.
        What arrives when its stripe was collected can be known to no row."""
        sid = self._sids.get(key)
        collected = sid is not None and volume.parts.blocks.stripe(sid) is None
        return key in cloud.undead or (collected and key in cloud.arrived_late)

    @staticmethod
    def _check_health(volume: Volume) -> None:
        if volume.parts.database.failure is not None:
            raise Wrong(volume.parts.database.failure)
        for trouble in volume.jobs.troubles.values():
            if "unexpected" in trouble:
                raise Wrong(trouble)

    def _check_stripe(
        self, volume: Volume, state: StripeState, known: Mapping[AccountId, set[str]]
    ) -> None:
        row, there = state.row, set[int]()
        held: dict[str, set[int]] = {}
        places = [(index, place) for index, place in enumerate(row.places) if place]
        for index, place in dict.fromkeys((*places, *state.attempts, *state.moving)):
            cloud = self.clouds[AccountId(place)]
            name = self.name(volume, state, index, place)
            known[AccountId(place)].add(name)
            if name in cloud.objects:
                held.setdefault(cloud.provider, set()).add(index)
            if cloud.holds(name):
                there.add(index)
            elif (index, place) in places and state.confirmed >> index & 1:
                raise Wrong(f"fragment {index} of {row.sid.hex()} is confirmed, and is not there")
        for provider, indices in held.items():
            if len(different(row, indices)) >= row.k:
                raise Wrong(f"{provider} holds a complete copy of {self._told(volume, state)}")
        if state.announced and len(different(row, there)) < row.k:
            raise Wrong(f"stripe {row.sid.hex()} is announced with {len(there)} fragments")

    def _told(self, volume: Volume, state: StripeState) -> str:
        """A stripe in words: who has what, and what was given up."""
        places = [self.clouds[AccountId(p)].name if p else "-" for p in state.row.places]
        given_up = [(index, self.clouds[AccountId(p)].name) for index, p in state.attempts]
        names = [
            self.name(volume, state, index, account)
            for index in range(len(places))
            for account, cloud in self.clouds.items()
            if self.name(volume, state, index, account) in cloud.objects
        ]
        return f"stripe {state.row.sid.hex()}: {places}, given up {given_up}, there {names}"

    @staticmethod
    def _check_published(volume: Volume) -> None:
        """What no outbox row holds back is in the accounts."""
        for number in volume.namespace.numbers_under(1):
            row = volume.namespace.by_number(number)
            if volume.namespace.is_waiting(row.inode):
                continue
            for sid in volume.sids_of(row):
                state = volume.parts.blocks.stripe(sid)
                if state is None or not state.announced:
                    raise Wrong(f"content of {number} is published, its stripe is not stored")


def different(row: StripeRow, indices: Iterable[int]) -> set[int]:
    """Of these fragments those that are no copies of each other. Counted here, and not by what is
    judged."""
    return {index % row.k for index in indices} if row.layout >= 2 else set(indices)
