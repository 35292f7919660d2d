"""What a volume must show: while it lives exactly what was done, after a crash what may be left.

Of each file the oracle knows what was made sure last and what was written since: after a crash
each byte is the one that was made sure, or one that was written there later. Of the names it knows
every state since the last one that was made sure: after a crash they are as in one of these.
"""

from dataclasses import dataclass, field

import trio
import xxhash

from tests.simulation.clouds import Wrong
from tests.support.known import Known

Names = dict[tuple[str, bytes], bytes]  # (directory, name) -> inode


@dataclass
class File:
    """One inode. `versions`: digest of each content that it ever had -> when it had it last, in
    steps; `stored_at`: the step since when the accounts have, for sure, what it was then."""

    inode: bytes
    number: int
    known: Known = field(default_factory=Known)
    versions: dict[bytes, int] = field(default_factory=dict)
    stored_at: int = 0
    replaced_at: tuple[int, Known] | None = None

    def candidates(self) -> list[Known]:
        """The knowledge that what comes has to be told."""
        return [self.known] if self.replaced_at is None else [self.known, self.replaced_at[1]]


def digest(content: bytes) -> bytes:
    return xxhash.xxh3_128_digest(content)


class Oracle:
    """All files and names of a volume."""

    def __init__(self) -> None:
        self.files: dict[bytes, File] = {}  # also those that are gone
        self.names: Names = {}
        self.step = 0
        self.synced = trio.Event()  # set by the next fsync
        self._states: list[Names] = [{}]
        self._first = 0  # number of the first of these

    # --- names --------------------------------------------------------------------------------

    @property
    def state_number(self) -> int:
        """The number of the state of names of now."""
        return self._first + len(self._states) - 1

    def names_changed(self) -> None:
        """`names` was changed by one operation."""
        self.step += 1
        self._states.append(dict(self.names))

    def names_are_sure(self, number: int) -> None:
        """The state of this number would survive a loss of power."""
        if number > self._first:
            del self._states[: number - self._first]
            self._first = number

    def find_names(self, found: Names) -> int:
        """The number of the earliest state that has these names. Raises `Wrong`."""
        for number, state in enumerate(self._states, self._first):
            if state == found:
                return number
        now = self._states[-1]
        missing = {key: inode.hex()[:6] for key, inode in now.items() if found.get(key) != inode}
        other = {key: inode.hex()[:6] for key, inode in found.items() if now.get(key) != inode}
        raise Wrong(f"names that never were: {missing} are missing, {other} are there")

    # --- contents -----------------------------------------------------------------------------

    def created(self, inode: bytes, number: int) -> File:
        file = self.files[inode] = File(inode, number)
        self.note_content(file, b"")
        return file

    def note_content(self, file: File, content: bytes) -> None:
        """It has, or is about to have, this content."""
        self.step += 1
        file.versions[digest(content)] = self.step

    def may_write(self, file: File, offset: int, data: bytes) -> bytes:
        """A write begins; what will be there."""
        now = file.known.now.ljust(offset, b"\0")
        after = now[:offset] + data + now[offset + len(data) :]
        for known in file.candidates():
            known.may_write(offset, data)
        self.note_content(file, after)
        return after

    def may_truncate(self, file: File, size: int) -> bytes:
        """A truncation begins; what will be there."""
        after = file.known.now[:size].ljust(size, b"\0")
        for known in file.candidates():
            known.may_truncate(size)
        self.note_content(file, after)
        return after

    def is_now(self, file: File, content: bytes) -> None:
        """What was begun is done."""
        for known in file.candidates():
            known.is_now(content)

    def is_stored(self, file: File) -> None:
        """The accounts have the content of now."""
        file.stored_at = file.versions[digest(file.known.now)]

    def is_sure(self, file: File) -> None:
        """The content of now would survive a loss of power."""
        self.synced.set()
        self.synced = trio.Event()
        file.known.make_sure()
        file.replaced_at = None

    def replaces(self, file: File) -> None:
        """Its name has just replaced another: where that is seen, its content of now is."""
        sure = file.known.copy()
        sure.make_sure()
        file.replaced_at = (self.state_number, sure)

    # --- crashes ------------------------------------------------------------------------------

    def adopt(self, names: Names, contents: dict[bytes, bytes], *, durable: bool) -> None:
        """What is there after a crash, names and contents by inode: it must be possible, and is
        what there is from now on. `durable`: a loss of power would leave it as it is."""
        number = self.find_names(names)
        for inode, found in contents.items():
            file = self.files[inode]
            known = file.known
            if file.replaced_at is not None and file.replaced_at[0] <= number:
                known = file.replaced_at[1]
            fault = known.fault(found)
            if fault:
                name = next(key for key, value in names.items() if value == inode)
                raise Wrong(f"{name} ({inode.hex()[:6]}) after a crash: {fault}")
            file.known, file.replaced_at = known, None
            self.note_content(file, found)
            known.is_now(found)
            if durable:
                known.make_sure()
        self.names = dict(names)
        self._first, self._states = self.state_number + 1, [dict(names)]

    # --- from the accounts alone --------------------------------------------------------------

    def check_published(self, names: Names, contents: dict[bytes, bytes]) -> None:
        """What a new device finds in the accounts: of each file one of its contents, whole, and
        none older than was promised; no file is missing whose content was promised."""
        for inode, found in contents.items():
            file = self.files.get(inode)
            name = next(key for key, value in names.items() if value == inode)
            if file is None:
                raise Wrong(f"a file that never was is published: {name}")
            step = file.versions.get(digest(found))
            if step is None:
                raise Wrong(f"published content that {name} never had: {len(found)} bytes")
            if step < file.stored_at:
                raise Wrong(f"published content of {name} is older than what was promised")
        for place, inode in self.names.items():
            if self.files[inode].stored_at and inode not in contents:
                raise Wrong(f"{place} was promised to be in the accounts, and is not")

    def check_same(self, names: Names, contents: dict[bytes, bytes]) -> None:
        """Everything is as it is here."""
        if names != self.names:
            raise Wrong(f"names differ: {sorted(names)} are not {sorted(self.names)}")
        for place, inode in names.items():
            if contents[inode] != self.files[inode].known.now:
                raise Wrong(f"contents differ: {place}")
