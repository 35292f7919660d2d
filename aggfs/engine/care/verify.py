"""Reading all that an account has of the journal, and of the volume's header: is it what it was?

Objects of one record are read together: k good ones tell how long its blocks are, and then every
cell of every one of them is checked. What is missing is the business of listings.
"""

from collections.abc import Mapping

from aggfs.coding.codec import cell_range, fragment_bytes
from aggfs.coding.decode import check_cell
from aggfs.coding.headers import open_header_of_fragment
from aggfs.coding.records import open_record
from aggfs.engine.care.mend import Mender, Place
from aggfs.engine.progress import tell
from aggfs.engine.volume import Parts
from aggfs.errors import Damaged, TooFewFragments
from aggfs.formats.fragment import Kind
from aggfs.formats.header import decode_header
from aggfs.threads import in_slices, in_thread

TOLD_RECORDS = 100


class Verifier:
    """Reads the records of one volume. On the loop."""

    def __init__(self, parts: Parts, mender: Mender) -> None:
        self._parts = parts
        self._mender = mender

    async def damaged(self) -> dict[str, list[str]]:
        """The objects that are not what they were: keys by account. May be cancelled."""
        found: dict[str, list[str]] = {}
        groups = await in_slices(self._mender.groups_steps())
        for count, (kind, places) in enumerate(groups):
            for account_id, key in await self._judged(kind, places):
                account = self._parts.accounts.get(account_id)
                if account is not None:
                    found.setdefault(account.name, []).append(key)
            if count % TOLD_RECORDS == 0:
                tell(f"{count} of {len(groups)} records of the journal read")
        return found

    async def _judged(self, kind: Kind | None, places: list[Place]) -> list[Place]:
        held = {place: data for place in places if (data := await self._mender.get(*place))}
        if kind is None:
            return [place for place, data in held.items() if not _is_header(data)]
        if kind is Kind.HEAD:
            return [place for place, data in held.items() if self._bad(kind, {place: data})]
        return await in_thread(self._bad, kind, held)

    def _bad(self, kind: Kind, held: Mapping[Place, bytes]) -> list[Place]:
        """In a worker: which of the objects of one record are not what they were."""
        keys = self._parts.keys
        try:
            row = open_record(keys, kind, held.values()).row
        except (TooFewFragments, Damaged):
            return list(held)
        bad = []
        for place, data in held.items():
            try:
                header = open_header_of_fragment(keys, data)
                if header.sid != row.sid or len(data) != fragment_bytes(row.sealed_bytes, row.k):
                    raise Damaged("another record, or a part of this")
                for block in range(len(row.sealed_bytes)):
                    start, length = cell_range(row.sealed_bytes, row.k, block)
                    cell = memoryview(data)[start : start + length]
                    check_cell(keys, row, header.index, block, cell)
            except Damaged:
                bad.append(place)
        return bad


def _is_header(data: bytes) -> bool:
    try:
        decode_header(data)
    except Damaged:
        return False
    return True
