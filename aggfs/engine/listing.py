"""Everything of ours that lies in one account, by a complete listing, in little memory.

28 bytes an object: a million fragments fit where a dictionary of them would not.
"""

from array import array
from bisect import bisect_left

import trio

from aggfs.coding.keys import is_header_name, is_object_name
from aggfs.errors import Unreachable
from aggfs.stores.base import ObjectInfo, Store

PAGE_SECONDS = 120.0
_NAME_BYTES = 20


class Listing:
    """Names and sizes of the objects that have the form of ours. `headers` may be headers."""

    def __init__(self) -> None:
        self._names = bytearray()
        self._sizes = array("Q")
        self._last = ""
        self.headers: list[ObjectInfo] = []

    @classmethod
    async def read(cls, store: Store) -> "Listing":
        """A complete listing. Raises `StoreError` where it cannot be had complete."""
        listing = cls()
        after: str | None = ""
        while after is not None:
            try:
                with trio.fail_after(PAGE_SECONDS):
                    page = await store.list_page("", after)
            except trio.TooSlowError:
                raise Unreachable("the account does not answer to a listing") from None
            for known in page.objects:
                listing.add(known)
            after = page.next_after
        return listing

    def add(self, known: ObjectInfo) -> None:
        """The next object, in the order of keys; what is foreign is left out. Raises `Unreachable`
        where they are out of order: nothing of such a listing may be believed."""
        if known.key <= self._last:
            raise Unreachable("an account lists its objects out of order")
        self._last = known.key
        if is_object_name(known.key):
            self._names += _name(known.key)
            self._sizes.append(known.size_bytes)
            if is_header_name(known.key):
                self.headers.append(known)

    def size_of(self, key: str) -> int | None:
        """The size of an object, None if it was not there."""
        at = self.find(key)
        return None if at is None else self._sizes[at]

    def find(self, key: str) -> int | None:
        """The place of an object in the listing, None if it was not there."""
        name = _name(key)
        at = bisect_left(range(len(self)), name, key=self._name_at)
        return at if self._name_at(at) == name else None

    def at(self, place: int) -> ObjectInfo:
        """The object at a place of the listing."""
        name = self._name_at(place).hex()
        return ObjectInfo(f"{name[:2]}/{name[2:]}", self._sizes[place])

    def _name_at(self, at: int) -> bytes:
        return bytes(self._names[at * _NAME_BYTES : (at + 1) * _NAME_BYTES])

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self._sizes)


def _name(key: str) -> bytes:
    return bytes.fromhex(key[:2] + key[3:])
