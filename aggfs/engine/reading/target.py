"""What is filled: a file with holes, blocks under way to it, and the place where they go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import trio

from aggfs.cache.sparse import SparseFile
from aggfs.engine.reading.ahead import ReadAhead
from aggfs.engine.reading.around import Around
from aggfs.errors import AggfsError
from aggfs.formats.record import Buffer
from aggfs.model import BLOCK_BYTES


@dataclass(slots=True)
class Arrival:
    """Blocks under way to `place`: `done` when they are here, or will not come; `wanted` when
    somebody waits for them. `error` says why not; none and no blocks: whoever fetched them was
    cancelled, or the file was cut. Those that are `patient` let readers go first."""

    place: "Place"
    done: trio.Event = field(default_factory=trio.Event)
    wanted: trio.Event = field(default_factory=trio.Event)
    error: AggfsError | None = None
    patient: bool = False
    began: float = field(default_factory=trio.current_time)


@dataclass(slots=True)
class Target:
    """A file whose holes are filled. `kept_bytes`: content of the map beyond it was cut off;
    `size()` is the file's size now."""

    inode: bytes
    sparse: SparseFile
    kept_bytes: int
    size: Callable[[], int]
    under_way: dict[int, Arrival] = field(default_factory=dict)
    ahead: ReadAhead = field(default_factory=ReadAhead)
    around: Around = field(default_factory=Around)


@dataclass(frozen=True, slots=True)
class Place:
    """Where fetched blocks go: a sparse file as it was when the content map said which these are.
    One that has another content by then takes nothing of them."""

    sparse: SparseFile
    removals: int
    size: int
    kept_bytes: int

    @classmethod
    def in_target(cls, target: Target) -> Self:
        """As it is now."""
        sparse = target.sparse
        return cls(sparse, sparse.removals, target.size(), target.kept_bytes)

    def cut_to_size(self, first: int, blocks: Sequence[Buffer]) -> list[Buffer]:
        """What of these blocks belongs into the file. A block that was sealed shorter, or cut
        since, goes on with zeros."""
        found: list[Buffer] = []
        for number, data in enumerate(blocks, first):
            start = number * BLOCK_BYTES
            length = min(BLOCK_BYTES, self.size - start)
            valid = min(len(data), length, max(0, self.kept_bytes - start))
            if length <= 0:
                break
            whole = data[:length] if valid == length else bytes(data[:valid]).ljust(length, b"\0")
            found.append(whole)
        return found
