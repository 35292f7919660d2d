"""The smallest blocking driver that obeys the contract: what docs/adding-a-store.md begins with."""

import threading

from aggfs.errors import AlreadyThere, NotFound
from aggfs.stores.base import Capabilities, ObjectInfo, Page


class DictionaryDriver:
    """Objects in a dictionary. It could be any library that blocks."""

    capabilities = Capabilities(create_only=True, reports_space=False)
    place = "dictionary://"

    def __init__(self, page_objects=5):
        self._page_objects = page_objects
        self._objects = {}
        self._lock = threading.Lock()

    def put(self, key, data):
        self._objects[key] = bytes(data)

    def create(self, key, data):
        with self._lock:
            if key in self._objects:
                raise AlreadyThere(key)
            self._objects[key] = bytes(data)

    def get(self, key):
        try:
            return self._objects[key]
        except KeyError:
            raise NotFound(key) from None

    def get_range(self, key, start, length):
        return self.get(key)[start : start + length]

    def head(self, key):
        return ObjectInfo(key, len(self.get(key)))

    def list_page(self, prefix, after):
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        shown = tuple(
            ObjectInfo(key, len(self._objects[key])) for key in keys[: self._page_objects]
        )
        return Page(shown, shown[-1].key if len(keys) > self._page_objects else None)

    def delete(self, key):
        self._objects.pop(key, None)

    def space(self):
        return None

    def prepare(self):
        pass

    def close(self):
        pass
