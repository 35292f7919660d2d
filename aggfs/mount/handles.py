"""What the kernel holds of ours: lookup counts and open files.

The kernel names inodes by number for as long as it knows them. Every reply that carries an entry
adds one to the inode's lookup count, `forget` takes some away. An inode that has no name left is
kept while the count or the number of open files is above zero, so that an unlinked file lives on
for those who have it open; then it is dropped.

A file handle is the inode's number: the kernel checks access modes and does O_APPEND, so an open
file has no state of its own here. `forget` and `release` may come in either order.
"""

from collections.abc import Callable


class KnownInodes:
    """Counts per inode number. `drop` is called once for an unlinked inode nobody holds."""

    def __init__(self, drop: Callable[[int], None]) -> None:
        self._drop = drop
        self._lookups: dict[int, int] = {}
        self._opened: dict[int, int] = {}
        self._unlinked: set[int] = set()

    @property
    def lookup_count(self) -> int:
        """All lookups that the kernel has not given back."""
        return sum(self._lookups.values())

    @property
    def open_count(self) -> int:
        """All open files."""
        return sum(self._opened.values())

    def looked_up(self, number: int) -> None:
        """An entry for this inode is on its way to the kernel."""
        lookups = self._lookups
        lookups[number] = lookups.get(number, 0) + 1

    def forgotten(self, number: int, count: int) -> None:
        """The kernel gave back `count` lookups."""
        left = self._lookups.get(number, 0) - count
        if left > 0:
            self._lookups[number] = left
            return
        self._lookups.pop(number, None)
        if number in self._unlinked:
            self._drop_if_free(number)

    def opened(self, number: int) -> None:
        """One more open file on this inode."""
        self._opened[number] = self._opened.get(number, 0) + 1

    def released(self, number: int) -> None:
        """One open file less."""
        left = self._opened.get(number, 0) - 1
        if left > 0:
            self._opened[number] = left
            return
        self._opened.pop(number, None)
        if number in self._unlinked:
            self._drop_if_free(number)

    def unlinked(self, number: int) -> None:
        """The inode lost its last name."""
        self._unlinked.add(number)
        self._drop_if_free(number)

    def linked(self, number: int) -> None:
        """The inode has a name (again)."""
        self._unlinked.discard(number)

    def drop_all(self) -> None:
        """The file system is unmounted: nobody holds anything.

        Where there is no time for this, the next start drops what has no name.
        """
        self._lookups.clear()
        self._opened.clear()
        for number in tuple(self._unlinked):
            self._drop_if_free(number)

    def _drop_if_free(self, number: int) -> None:
        if number not in self._lookups and number not in self._opened:
            self._unlinked.discard(number)
            self._drop(number)
