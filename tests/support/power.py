"""A disk that loses its power: what may be left of files, given every call that changed them.

Files. Until a sync of the file *returned* that was *entered* after a call had returned, that call
may be lost: of a write each 512 bytes by themselves, of changes of the size all from some point
on (they are journalled in their order; bytes that were lost read as zeros). A write through a
descriptor opened with O_DSYNC is durable when it returns.

Names. Durable when a sync of their directory returned that was entered after the change. Until
then `ordered` disks (ext4, xfs: one journal) keep all changes of names up to some point, `weak`
ones keep any of them. Nothing else makes a name durable here, not even a sync of the new file.

Calls that were entered and have not returned may have been done, half or whole.
"""

import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.tracing import Call, Moment

SECTOR_BYTES = 512
_SPLIT_CALLS = ("rename", "renameat", "renameat2", "link", "linkat")
_WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_UNKNOWN = ("symlink", "symlinkat", "copy_file_range", "sendfile", "sync_file_range", "syncfs")


@dataclass(frozen=True)
class Write:
    """Bytes that were written."""

    at: int
    offset: int
    data: bytes


@dataclass(frozen=True)
class Resize:
    """The file ends at `size` now; or, `grow` only, not before. Or `punch`: a hole up to there."""

    at: int
    size: int
    grow: bool = False
    punch: int | None = None


@dataclass(eq=False)
class File:
    """An inode: what is durable of it, and what was done since. `at` of a change is its moment."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Write | Resize] = field(default_factory=list)

    def sync(self, until: int) -> None:
        """What was done before a moment is durable."""
        done = [change for change in self.pending if change.at < until]
        self.pending = [change for change in self.pending if change.at >= until]
        for change in done:
            _apply(self.durable, change)

    def force(self, change: Write) -> None:
        """A write that was durable at once; nothing may wait beneath it."""
        end = change.offset + len(change.data)
        for other in self.pending:
            assert isinstance(other, Resize) or (
                other.offset >= end or other.offset + len(other.data) <= change.offset
            ), "a durable write over one that is not"
        _apply(self.durable, change)


@dataclass(eq=False)
class Directory:
    """It has no content but its names."""


Node = File | Directory


@dataclass(frozen=True)
class Renaming:
    """One change of names, done whole or not at all: each path's new node, or None."""

    at: int
    names: dict[str, Node | None]


def _apply(data: bytearray, change: Write | Resize) -> None:
    if isinstance(change, Write):
        end = change.offset + len(change.data)
        data.extend(bytes(max(0, end - len(data))))
        data[change.offset : end] = change.data
    elif change.punch is not None:
        end = min(change.punch, len(data))
        data[change.size : end] = bytes(max(0, end - change.size))
    else:
        if not change.grow:
            del data[change.size :]
        data.extend(bytes(max(0, change.size - len(data))))


class Disk:
    """The files in some `parts` of the directory `root`, durable as they are, and what happens to
    them. Paths are relative to `root`.

    `forgotten`: syncs of paths that match are taken for not done (to see that this is noticed).
    """

    def __init__(self, root: Path, parts: Sequence[str], forgotten: str = r"(?!)") -> None:
        self._root = os.path.realpath(root)
        self._parts = parts
        self._forgotten = re.compile(forgotten)
        self._names: dict[str, Node] = {part: Directory() for part in parts}
        self._gone: dict[str, Node] = {}
        self._direct: set[str] = set()  # descriptors, by their numbers
        self._positions: dict[str, int] = {}
        self._now = 0
        self._under_way: dict[Call, int] = {}
        for part in parts:
            for path in Path(self._root, part).rglob("*"):
                data = None if path.is_dir() else bytearray(path.read_bytes())
                node = Directory() if data is None else File(data)
                self._names[self._relative(str(path))] = node
        self._durable = dict(self._names)
        self._renamings: list[Renaming] = []

    def _relative(self, path: str) -> str:
        return path[len(self._root) + 1 :]

    def _ours(self, path: str) -> bool:
        inside = path.startswith(self._root + "/")
        return inside and self._relative(path).partition("/")[0] in self._parts

    # --- what happens -------------------------------------------------------------------------

    def see(self, moment: Moment) -> None:
        """The next moment of the trace."""
        self._now += 1
        call = moment.call
        if moment.entered:
            self._under_way[call] = self._now
        if moment.returned:
            since = self._under_way.pop(call)
            if call.result is not None and call.result >= 0:
                self._do(call, since)

    def _do(self, call: Call, since: int) -> None:
        if call.name in ("open", "openat", "creat"):
            self._open(call)
        elif call.name in ("fsync", "fdatasync"):
            self._sync(call.files[0][1], call.files[0][2], since)
        elif call.name == "lseek":
            self._positions[call.files[0][0]] = call.result or 0
        else:
            for file, change in self._changes(call):
                if isinstance(change, Write) and call.files[0][0] in self._direct:
                    file.force(change)
                else:
                    file.pending.append(change)
                if call.name in ("write", "writev") and isinstance(change, Write):
                    self._positions[call.files[0][0]] = change.offset + len(change.data)
            self._rename(call)

    def _open(self, call: Call) -> None:
        if not call.texts or "O_TMPFILE" in call.arguments or call.result is None:
            return
        path = self._path(call, 0)
        number = str(call.result)
        self._direct.discard(number)
        self._positions[number] = 0
        if not self._ours(path):
            return
        name = self._relative(path)
        if "O_DSYNC" in call.arguments:
            self._direct.add(number)
        node = self._names.get(name)
        if node is None:
            assert "O_CREAT" in call.arguments, name
            node = File()
            self._change_names({name: node})
        elif isinstance(node, File) and "O_TRUNC" in call.arguments:
            node.pending.append(Resize(self._now, 0))

    def _path(self, call: Call, index: int) -> str:
        path = os.fsdecode(call.texts[index])
        return path if path.startswith("/") else os.path.join(call.files[index][1], path)

    def _sync(self, path: str, gone: bool, since: int) -> None:
        if self._forgotten.search(path):
            return
        node = self._node(path, gone)
        if isinstance(node, File):
            node.sync(since)
        elif isinstance(node, Directory) or path == self._root:
            left = []
            for change in self._renamings:
                inside = all(
                    os.path.join(self._root, name).rpartition("/")[0] == path
                    for name in change.names
                )
                if inside and change.at < since:
                    _set_names(self._durable, change.names)
                else:
                    left.append(change)
            self._renamings = left

    def _node(self, path: str, gone: bool) -> Node | None:
        if not self._ours(path):
            return None
        name = self._relative(path)
        if not gone:
            return self._names[name]
        return self._gone.get(name)

    def _changes(self, call: Call) -> Iterator[tuple[File, Write | Resize]]:
        """What a call does to the content of files of ours."""
        if call.name in (*_WRITES, "ftruncate", "fallocate"):
            node = self._node(call.files[0][1], call.files[0][2])
            if isinstance(node, File):
                yield node, self._change(node, call)
        elif call.name == "truncate":
            node = self._node(self._path(call, 0), gone=False)
            if isinstance(node, File):
                yield node, Resize(self._now, call.numbers[-1])
        else:
            assert call.name not in _UNKNOWN or not any(self._ours(f[1]) for f in call.files)

    def _change(self, node: File, call: Call) -> Write | Resize:
        if call.name == "ftruncate":
            return Resize(self._now, call.numbers[-1])
        if call.name == "fallocate":
            start, length = call.numbers[-2:]
            if "PUNCH_HOLE" in call.arguments:
                return Resize(self._now, start, punch=start + length)
            return Resize(self._now, start + length, grow=True)
        data = b"".join(call.texts)
        if call.result is not None:
            data = data[: call.result]
        match call.name:
            case "pwrite64" | "pwritev":
                offset = call.numbers[-1]
            case "pwritev2":
                offset = call.numbers[-2]
            case _:
                offset = self._positions[call.files[0][0]]
        return Write(self._now, offset, data)

    # --- names --------------------------------------------------------------------------------

    def _rename(self, call: Call) -> None:
        changes = self._new_names(call)
        if changes:
            self._change_names(changes)

    def _new_names(self, call: Call) -> dict[str, Node | None]:
        """The names that a call makes, changes or takes away."""
        if call.name in _SPLIT_CALLS:
            old, new = self._path(call, 0), self._path(call, 1)
            if not self._ours(old):
                return {}
            node = self._names[self._relative(old)]
            moved: dict[str, Node | None] = {self._relative(new): node}
            if "link" not in call.name:
                assert isinstance(node, File), "nobody renames directories here"
                moved[self._relative(old)] = None
            return moved
        if call.name in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"):
            path = self._path(call, 0)
            if self._ours(path):
                return {self._relative(path): Directory() if "mkdir" in call.name else None}
        return {}

    def _change_names(self, names: dict[str, Node | None]) -> None:
        for name in names:
            if name in self._names:
                self._gone[name] = self._names[name]
        _set_names(self._names, names)
        self._renamings.append(Renaming(self._now, names))

    # --- the power goes -----------------------------------------------------------------------

    def write_image(
        self, target: Path, chance: random.Random, remote: Callable[[str], bool]
    ) -> str:
        """Make the files that may be there if the power went now, below `target`; `remote`
        paths lie on another machine, which keeps its power. Says how it was drawn."""
        loss = Loss.drawn(chance)
        names, files = dict(self._durable), self._under_way_files(chance)
        if loss.ordered:
            kept = self._renamings[: chance.randint(0, len(self._renamings))]
        else:
            kept = [change for change in self._renamings if loss.keeps(chance)]
        for change in self._renamings:
            far = {name: node for name, node in change.names.items() if remote(name)}
            _set_names(names, change.names if change in kept else far)
        written: dict[File, Path] = {}
        for name, node in sorted(names.items()):
            if not _has_parents(name, names):
                continue
            path = target / name
            if isinstance(node, Directory):
                path.mkdir()
            elif node in written:
                os.link(written[node], path)
            else:
                written[node] = path
                pending = [*node.pending, *files.get(node, [])]
                data = _all(node, pending) if remote(name) else loss.content(node, pending, chance)
                _write_sparse(path, data)
        return str(loss)

    def _under_way_files(self, chance: random.Random) -> dict[File, list[Write | Resize]]:
        """What calls that have not returned may have done."""
        found: dict[File, list[Write | Resize]] = {}
        for call in self._under_way:
            if chance.random() < 0.5:
                for file, change in self._changes(call):
                    found.setdefault(file, []).append(change)
        return found


def _set_names(names: dict[str, Node], changes: dict[str, Node | None]) -> None:
    for name, node in changes.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _has_parents(name: str, names: dict[str, Node]) -> bool:
    parent = os.path.dirname(name)
    return not parent or (isinstance(names.get(parent), Directory) and _has_parents(parent, names))


def _all(file: File, pending: list[Write | Resize]) -> bytearray:
    data = bytearray(file.durable)
    for change in pending:
        _apply(data, change)
    return data


def _write_sparse(path: Path, data: bytearray) -> None:
    with path.open("wb") as file:
        file.write(data.rstrip(b"\0"))
        file.truncate(len(data))


@dataclass(frozen=True)
class Loss:
    """How a disk forgets: which share of what it may forget it keeps, whether of a write it keeps
    all or nothing, and whether its names are journalled in their order."""

    kept: float
    whole: bool
    ordered: bool

    @classmethod
    def drawn(cls, chance: random.Random) -> "Loss":
        """One of all kinds."""
        kept = chance.choice([0.0, 1.0, 0.5, chance.random()])
        return cls(kept, chance.random() < 0.5, chance.random() < 0.5)

    def __str__(self) -> str:
        how = "whole writes" if self.whole else "sectors"
        return f"{self.kept:.0%} of {how} kept, {'ordered' if self.ordered else 'weak'} names"

    def keeps(self, chance: random.Random) -> bool:
        """Whether one thing is kept."""
        return chance.random() < self.kept

    def content(
        self, file: File, pending: list[Write | Resize], chance: random.Random
    ) -> bytearray:
        """What is left of a file."""
        data = bytearray(file.durable)
        journalled = chance.choice([0, len(pending), chance.randint(0, len(pending))])
        for number, change in enumerate(pending):
            if isinstance(change, Resize):
                if number < journalled:
                    _apply(data, change)
                continue
            end = change.offset + len(change.data)
            if number < journalled:
                data.extend(bytes(max(0, end - len(data))))
            for start, stop in self._kept_parts(change, chance):
                stop = min(stop, len(data))
                if start < stop:
                    part = change.data[start - change.offset : stop - change.offset]
                    data[start:stop] = part
        return data

    def _kept_parts(self, change: Write, chance: random.Random) -> Iterator[tuple[int, int]]:
        start, end = change.offset, change.offset + len(change.data)
        if self.whole or self.kept in (0.0, 1.0):
            if self.keeps(chance):
                yield start, end
            return
        while start < end:
            stop = min(end, start - start % SECTOR_BYTES + SECTOR_BYTES)
            if self.keeps(chance):
                yield start, stop
            start = stop
