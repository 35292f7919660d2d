"""What a crash may leave of the files of one program that did one step after the other.

The contract that is judged (docs/semantics.md): the names are those after the first so many steps,
no fewer than were done when the last sync returned; a file has the bytes that its last sync made
sure, and of each later write any 512 bytes are there or not, each also cut where another edit
begins or ends; a file that took another's name was made sure by that. Everything here is pure.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.support.stripes import content

SECTOR_BYTES = 512
GROUP_BYTES = 16
SYNCS = ("fsync", "fsync_directory", "flush")
Tree = dict[str, bytes | None]  # path -> content; None: a directory


@dataclass(frozen=True)
class Step:
    """One call of a program. `place` is an offset or a size; times are nanoseconds, and `ended`
    is None when it never returned, or returned an error."""

    kind: str
    path: str
    other: str
    place: int
    length: int
    seed: int
    began: int
    ended: int | None

    @property
    def data(self) -> bytes:
        """What a write wrote."""
        return content(self.length, self.seed)


@dataclass
class History:
    """One file: what it was at the start, and every change of its bytes since, by step.
    `uncertain`: a change failed, so nobody knows what a later sync makes sure."""

    start: bytes = b""
    changes: list[tuple[int, Step]] = field(default_factory=list)
    synced: list[int] = field(default_factory=list)
    uncertain: bool = False

    def at(self, step: int) -> bytearray:
        """Its bytes after a step."""
        data = bytearray(self.start)
        for number, change in self.changes:
            if number <= step:
                _change(data, change)
        return data

    def fault(self, found: bytes, sure_at: int) -> str:
        """Why these cannot be its bytes after a crash, when step `sure_at` is the last that made
        it sure; or nothing."""
        sure = bytes(self.at(sure_at))
        later = [change for number, change in self.changes if number > sure_at]
        if not later:
            return "" if found == sure else f"not as it was made sure: {_difference(found, sure)}"
        sizes = list(_sizes(sure, later))
        if not any(low <= len(found) <= high for low, high in sizes):
            return f"size {len(found)}, not of {sizes}"
        zeros_from = min(low for low, _ in sizes)
        writes = [(step.place, step.data) for step in later if step.kind == "write"]
        edges = {0, len(sure), len(found), *(end for pair in sizes for end in pair)}
        # Marks and bytes are kept or lost by themselves: what an edit covers that began or ended
        # within it, or the last byte that a cut left, may be new where the rest is not.
        edges |= {edge for _, change in self.changes for edge in _ends(change)}
        # The groups of 16 bytes in which something begins or ends are written once more with it.
        cuts = edges | {edge & -GROUP_BYTES for edge in edges}
        cuts |= {(edge + step) & -GROUP_BYTES for edge in edges for step in (-1, GROUP_BYTES - 1)}
        cuts |= set(range(0, len(found), SECTOR_BYTES))
        for start, end in pairwise(sorted(cut for cut in cuts if 0 <= cut <= len(found))):
            part = found[start:end]
            allowed = [sure[start:end]] if start < len(sure) else []
            allowed += [
                data[start - at : end - at] for at, data in writes if _within(at, data, start)
            ]
            if part not in allowed and not (start >= zeros_from and part == bytes(len(part))):
                return f"bytes {start} to {end} were never written, step {sure_at} made it sure"
        return ""


def _difference(found: bytes, sure: bytes) -> str:
    if len(found) != len(sure):
        return f"{len(found)} bytes, not {len(sure)}"
    at = next(at for at, (one, other) in enumerate(zip(found, sure, strict=True)) if one != other)
    return f"byte {at} of {len(sure)} is {found[at]}, not {sure[at]}"


def _ends(change: Step) -> tuple[int, int]:
    """Where the local edit that a change makes begins and ends; of a cut that is its last byte."""
    if change.kind == "truncate":
        return max(0, change.place - 1), change.place
    return change.place, change.place + change.length


def _within(at: int, data: bytes, start: int) -> bool:
    return at <= start < at + len(data)


def _change(data: bytearray, step: Step) -> None:
    if step.kind == "truncate":
        del data[step.place :]
        data.extend(bytes(step.place - len(data)))
    else:
        data.extend(bytes(max(0, step.place - len(data))))
        data[step.place : step.place + step.length] = step.data


def _sizes(sure: bytes, later: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """What the size may be: a write that reaches beyond the end does so in pieces."""
    size = len(sure)
    yield size, size
    for step in later:
        before = size
        size = step.place if step.kind == "truncate" else max(size, step.place + step.length)
        yield (size, size) if step.kind == "truncate" else (before, size)


Names = dict[str, History | None]


class Oracle:
    """Knows every state that the folder of one program may be in."""

    def __init__(
        self, tree: Mapping[str, bytes | None] | None = None, links: Sequence[Sequence[str]] = ()
    ) -> None:
        """It is `tree` now, where the paths of one of `links` are one file."""
        self._names: Names = {
            path: None if data is None else History(data) for path, data in (tree or {}).items()
        }
        for paths in links:
            for path in paths:
                self._names[path] = self._names[paths[0]]
        self._states: list[tuple[int, Names]] = [(-1, dict(self._names))]
        self._replaced: list[tuple[int, History]] = []
        self._sure = -1
        self._count = 0

    def take(self, steps: Sequence[Step], until: float = float("inf")) -> None:
        """Learn what was done: of the steps that began before `until`, in ns, and were
        acknowledged before it."""
        for step in steps:
            if step.began >= until:
                return
            self._take(step, acknowledged=step.ended is not None and step.ended < until)

    def _take(self, step: Step, *, acknowledged: bool) -> None:
        number, self._count = self._count, self._count + 1
        if step.kind in SYNCS:
            if acknowledged:
                self._synced(number, step)
        elif step.kind in ("write", "truncate"):
            file = self._file(step.path)
            file.changes.append((number, step))
            file.uncertain |= not acknowledged
        else:
            self._rename(number, step)
            self._states.append((number, dict(self._names)))

    def _file(self, path: str) -> History:
        file = self._names[path]
        assert file is not None
        return file

    def _synced(self, number: int, step: Step) -> None:
        self._sure = number
        files = {"fsync": [step.path], "flush": list(self._names)}.get(step.kind, [])
        for path in files:
            file = self._names[path]
            if file is not None and not file.uncertain:
                file.synced.append(number)

    def _rename(self, number: int, step: Step) -> None:
        names = self._names
        match step.kind:
            case "create":
                names[step.path] = History()
            case "mkdir":
                names[step.path] = None
            case "link":
                names[step.other] = names[step.path]
            case "unlink" | "rmdir":
                del names[step.path]
            case "rename":
                moved = names[step.path]
                if moved is not None and step.other in names:
                    self._replaced.append((number, moved))
                for path in [path for path in names if _is_under(path, step.path)]:
                    names[step.other + path[len(step.path) :]] = names.pop(path)

    def fault(self, found: Mapping[str, bytes | None]) -> str:
        """Why this cannot be the folder after a crash, or nothing."""
        first = bisect_right([number for number, _ in self._states], self._sure) - 1
        faults = []
        for number, names in self._states[first:]:
            fault = self._fault_of_state(found, number, names)
            if not fault:
                return ""
            faults.append(f"after step {number}: {fault}")
        # A state with the right names is the nearest.
        nearest = sorted(faults, key=lambda fault: (" missing are " in fault, len(fault)))[:3]
        return f"of {self._count} steps {self._sure} made sure; nearest: " + "; ".join(nearest)

    def _fault_of_state(self, found: Mapping[str, bytes | None], step: int, names: Names) -> str:
        kinds = {path: data is None for path, data in found.items()}
        if kinds != {path: file is None for path, file in names.items()}:
            less, more = sorted(names.keys() - found.keys()), sorted(found.keys() - names.keys())
            return f"missing are {less}, too many are {more}"
        for path, file in names.items():
            data = found[path]
            if file is None or data is None:
                continue
            replaced = [number for number, moved in self._replaced if moved is file]
            sure_at = max([-1, *file.synced, *(number for number in replaced if number <= step)])
            fault = file.fault(data, sure_at)
            if fault:
                history = [
                    (number, step.kind, step.place, step.length) for number, step in file.changes
                ]
                return f"{path}: {fault}; {len(file.start)} bytes, {history}, synced {file.synced}"
        return ""


def _is_under(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def read_steps(text: str) -> list[Step]:
    """The steps that a program logged: see `tests.support.workload`."""
    steps: list[Step] = []
    for line in text.splitlines():
        word, time, *rest = line.split("\t")
        if word == "begin" and len(rest) == 6:
            kind, path, other, *numbers = rest
            steps.append(Step(kind, path, other, *map(int, numbers), int(time), None))  # type: ignore[arg-type]
        elif word == "done" and time:
            last = steps[-1]
            fields = (last.kind, last.path, last.other, last.place, last.length, last.seed)
            steps[-1] = Step(*fields, last.began, int(time))
    return steps
