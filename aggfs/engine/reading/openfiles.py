"""The inodes in use: one sparse file each, and which of them have content to send.

Table `edits`: inode 16 -> Edit, while a file has content that is in no outbox row yet. With the
dirty marks of the sparse files it is what finds edited files again after a stop.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import msgspec
import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.database import Database
from aggfs.cache.files import SparseFiles
from aggfs.cache.sparse import SparseFile
from aggfs.cache.unitfile import UnitCipher
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.target import Target
from aggfs.errors import AggfsError, NoEntry
from aggfs.model import BLOCK_BYTES, InodeRow
from aggfs.threads import in_thread

TABLES = ("edits",)
IDLE_LIMIT = 256
LOOKED_AT = 100
FOREVER_BLOCKS = 1 << 62


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """A file with unpublished content: of its base version, only `kept_bytes` are still in it."""

    number: int
    kept_bytes: int


@dataclass(slots=True)
class OpenFile:
    """An inode in use.

    `target.kept_bytes` is the smallest size since the version that the content map shows,
    `kept_since_freeze` that since the last freeze. `unsure`: edits may be missing that
    `OpenFiles.rests_on` names. `emptied`: its former content was given up, and what replaces it
    was not synced since. `writers` are at work in worker threads; `written` is set when one ends.
    `error` is for its programs to hear; `failures` of sending it out came one after the other,
    and nobody tries before `try_again_at`. While somebody truncates it, `reshaping` is set, and
    `shape` held: see `reshape`.
    """

    number: int
    target: Target
    kept_since_freeze: int
    edited: bool = False
    dirty_since: float = 0.0
    written_at: float = 0.0
    frozen: bool = False
    unsure: bool = False
    emptied: bool = False
    writers: int = 0
    error: AggfsError | None = None
    failures: int = 0
    try_again_at: float = 0.0
    reshaping: bool = False
    shape: trio.Lock = field(default_factory=trio.Lock)
    written: trio.Event = field(default_factory=trio.Event)

    @property
    def sparse(self) -> SparseFile:
        """Its bytes that are here."""
        return self.target.sparse

    @property
    def inode(self) -> bytes:
        """Its inode id."""
        return self.target.inode

    @asynccontextmanager
    async def reshape(self) -> AsyncIterator[None]:
        """Alone with the file: no other write begins, and those that had begun have ended."""
        async with self.shape:
            self.reshaping = True
            try:
                while self.writers:
                    await self.written.wait()
                yield
            finally:
                self.reshaping = False

    async def in_shape(self) -> None:
        """Return when nobody is alone with the file. (Who waits holds the lock for no time: that
        it is held does not tell.)"""
        while self.reshaping:
            async with self.shape:
                pass

    @property
    def busy(self) -> bool:
        """Whether its sparse file is needed, even if no program has it open."""
        return bool(self.edited or self.frozen or self.writers or self.target.under_way)


class OpenFiles:
    """All of them. On the loop only."""

    def __init__(
        self,
        database: Database,
        namespace: Namespace,
        blocks: Blocks,
        sparse_files: SparseFiles,
        filler: Filler,
        *,
        cipher_of: Callable[[bytes], UnitCipher | None],
    ) -> None:
        self._namespace = namespace
        self._blocks = blocks
        self._sparse_files = sparse_files
        self._filler = filler
        self._cipher_of = cipher_of
        self._edits = database.table("edits")
        # Programs' handles: a file that they neither read nor write has no sparse file open.
        self._handles: dict[int, int] = {}
        self._open: dict[int, OpenFile] = {}
        self._idle: OrderedDict[int, OpenFile] = OrderedDict()
        self._edited: dict[int, OpenFile] = {}
        self.work = trio.Event()
        self._resume_all()

    def _resume_all(self) -> None:
        """What was not flushed before the last stop: files with an edit, or with dirty marks
        that were set and whose edit was not committed. Marks of what is gone go as well."""
        for inode, value in self._edits.scan(b""):
            edit = msgspec.msgpack.decode(value, type=Edit)
            if self._is_known(edit.number):
                self._resume(edit)
            else:
                self._edits.delete(inode)
        for number, generation in self._sparse_files.dirty():
            if not self._is_known(number, generation):
                self._sparse_files.remove_unopened(number, generation, committed=True)
            elif number not in self._edited:
                self._resume(Edit(number, self.size(number)))

    def _is_known(self, number: int, generation: int | None = None) -> bool:
        """Whether somebody may still reach this inode, and this generation of its content."""
        row = self._row_of(number)
        if row is None or self._namespace.is_gone(row):
            return False
        return generation is None or row.generation == generation

    def _row_of(self, number: int) -> InodeRow | None:
        try:
            return self._namespace.by_number(number)
        except NoEntry:
            return None

    def _resume(self, edit: Edit) -> None:
        file = self.use(edit.number)
        file.target.kept_bytes = file.kept_since_freeze = edit.kept_bytes
        file.edited = file.unsure = True
        self._edited[file.number] = file
        self._put_edit(file)

    # --- finding ------------------------------------------------------------------------------

    def use(self, number: int) -> OpenFile:
        """The file of an inode, its sparse file open. Give it to `rest` afterwards."""
        file = self._open.get(number)
        if file is None:
            file = self._idle.pop(number, None)
            if file is None:
                row = self._namespace.by_number(number)
                sparse = self._open_sparse(row)
                target = Target(row.inode, sparse, row.size, lambda: self.size(number))
                file = OpenFile(number, target, row.size)
            self._open[number] = file
        return file

    def known(self, number: int) -> OpenFile | None:
        """The file, if its sparse file is open."""
        return self._open.get(number) or self._idle.get(number)

    def _open_sparse(self, row: InodeRow) -> SparseFile:
        return self._sparse_files.open(
            row.number, row.generation, size=row.size, cipher=self._cipher_of(row.inode)
        )

    def size(self, number: int) -> int:
        """The size of a file as it is seen here."""
        return self._namespace.by_number(number).size

    def rest(self, file: OpenFile) -> None:
        """Keep a file that nobody needs open for a while, then close it."""
        if file.busy or file.number in self._handles:
            return
        if self._open.get(file.number) is file:
            del self._open[file.number]
            self._idle[file.number] = file
            while len(self._idle) > IDLE_LIMIT:
                _, oldest = self._idle.popitem(last=False)
                self._sparse_files.close(oldest.sparse)

    def forget(self, row: InodeRow) -> None:
        """The inode is gone for good."""
        file = self._open.pop(row.number, None) or self._idle.pop(row.number, None)
        self._edited.pop(row.number, None)
        self._edits.delete(row.inode)
        self._blocks.clear(row.inode, 0, FOREVER_BLOCKS)
        if file is not None:
            file.edited = False
            self._sparse_files.remove(file.sparse)
        elif row.size or row.heads or row.generation:
            self._sparse_files.remove_unopened(row.number, row.generation)

    async def remove_unknown(self) -> None:
        """Once, some time after a start: remove the sparse files that no row knows. The last stop
        came before they were deleted."""
        stored = await in_thread(self._sparse_files.stored)
        for count, (number, generation) in enumerate(stored):
            if not self._is_known(number, generation):
                self._sparse_files.remove_unopened(number, generation)
            if count % LOOKED_AT == 0:
                await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close every sparse file: the volume stops. Edits are found again at the next start."""
        for file in [*self._open.values(), *self._idle.values()]:
            if not file.frozen:
                self._sparse_files.close(file.sparse)
        self._open.clear()
        self._idle.clear()

    # --- handles ------------------------------------------------------------------------------

    def opened(self, number: int) -> None:
        """One more program has it open."""
        self._handles[number] = self._handles.get(number, 0) + 1

    def released(self, number: int) -> None:
        """One less."""
        left = self._handles.pop(number) - 1
        if left:
            self._handles[number] = left
        file = self._open.get(number)
        if file is not None:
            if file.edited:
                self.work.set()
            self.rest(file)

    def has_handles(self, number: int) -> bool:
        """Whether a program has it open."""
        return number in self._handles

    # --- edits --------------------------------------------------------------------------------

    def begin_edit(self, file: OpenFile) -> None:
        """Before the content changes: from here to its capture the file counts as edited."""
        file.written_at = trio.current_time()
        if file.edited:
            return
        file.edited = True
        file.dirty_since = file.written_at
        self._edited[file.number] = file
        self._idle.pop(file.number, None)
        self._open[file.number] = file
        self._put_edit(file)
        file.unsure = True
        self._take_inline(file)
        file.unsure = False
        self.work.set()

    def _take_inline(self, file: OpenFile) -> None:
        """An inline content is edited as a whole: no later version can build on it by extents."""
        content = self._namespace.content_of(file.inode)
        if content is not None and content.inline and file.target.kept_bytes:
            length = min(len(content.inline), file.target.kept_bytes)
            self._filler.fill_inline(file.target, [(0, length)])
            file.sparse.edit_clean(0, length)

    def rests_on(self, file: OpenFile) -> list[tuple[int, int]]:
        """The bytes of the content map that must be local edits before the next version is made:
        an inline content, and the byte before a cut within a block. They were made so when the
        file was edited or cut, and a loss of power may have taken that back."""
        content, kept = self._namespace.content_of(file.inode), file.target.kept_bytes
        if content is None or not kept:
            return []
        if content.inline:
            return [(0, min(len(content.inline), kept))]
        if kept < content.size and kept % BLOCK_BYTES:
            return [(kept - 1, kept)]
        return []

    def _put_edit(self, file: OpenFile) -> None:
        kept = min(file.target.kept_bytes, file.kept_since_freeze)
        self._edits.put(file.inode, msgspec.msgpack.encode(Edit(file.number, kept)))

    def start_anew(self, file: OpenFile) -> None:
        """An empty sparse file of the next generation; the old one lives until that is
        committed, so that a crash finds the old bytes."""
        row = self._namespace.by_number(file.number)
        self._sparse_files.remove(file.sparse)
        row = self._namespace.touch_local(file.number, size=0, generation=row.generation + 1)
        file.target.sparse = self._open_sparse(row)
        file.emptied = True
        self.cut_map(file, 0)

    def adopt(self, file: OpenFile) -> None:
        """The file has another content now that was not written here, and no local edit: nothing
        of it is here yet. The old bytes live until that is committed."""
        row = self._namespace.by_number(file.number)
        self._sparse_files.remove(file.sparse)
        row = self._namespace.touch_local(file.number, generation=row.generation + 1)
        file.target.sparse = self._open_sparse(row)
        file.target.kept_bytes = file.kept_since_freeze = row.size

    def cut_map(self, file: OpenFile, size: int) -> None:
        """The content beyond `size` is cut off, of the version that is shown as well."""
        file.target.kept_bytes = min(file.target.kept_bytes, size)
        file.kept_since_freeze = min(file.kept_since_freeze, size)
        self._blocks.clear(file.inode, -(-size // BLOCK_BYTES), FOREVER_BLOCKS)
        self._put_edit(file)

    def captured(self, file: OpenFile, size: int, *, more: bool) -> None:
        """The frozen content of `size` bytes is a version now, and the content map shows it.
        `more`: the file was edited after the freeze."""
        file.target.kept_bytes = file.kept_since_freeze
        if more:
            if file.kept_since_freeze < size:
                first = -(-file.kept_since_freeze // BLOCK_BYTES)
                self._blocks.clear(file.inode, first, FOREVER_BLOCKS)
            file.dirty_since = trio.current_time()
            self._put_edit(file)
        else:
            file.edited = False
            self._edited.pop(file.number, None)
            self._edits.delete(file.inode)

    def edited(self) -> Iterable[OpenFile]:
        """The files that have content in no outbox row, and a name."""
        return [file for file in self._edited.values() if self._has_name(file.number)]

    def failing(self) -> list[OpenFile]:
        """The files that could not be sent out when it was tried last."""
        return [file for file in self.edited() if file.failures]

    def edited_file(self, number: int) -> OpenFile | None:
        """The file, if it has content in no outbox row."""
        return self._edited.get(number)

    def _has_name(self, number: int) -> bool:
        row = self._row_of(number)
        return row is not None and row.nlink > 0

    @property
    def edited_count(self) -> int:
        """How many files have content in no outbox row."""
        return len(self._edited)

    @property
    def dirty_bytes(self) -> int:
        """How many bytes are not staged yet."""
        return sum(file.sparse.dirty_bytes for file in self._edited.values())
