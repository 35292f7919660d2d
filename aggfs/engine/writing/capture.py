"""From edited files to versions: freezing at one instant, and capturing what was staged.

Between the two the flusher reads the frozen blocks and stages them. Whatever fails before the
capture leaves the file as dirty as it was.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import trio

from aggfs.cache.blocks import Blocks
from aggfs.cache.frozen import Frozen
from aggfs.engine.names.namespace import Namespace
from aggfs.engine.reading.fill import Filler
from aggfs.engine.reading.openfiles import OpenFile, OpenFiles
from aggfs.errors import AggfsError, Busy, NoEntry
from aggfs.model import BLOCK_BYTES, STRIPE_BYTES, Content, Extent, InodeRow
from aggfs.sync.holes import Ranges
from aggfs.threads import in_thread

QUIET_SECONDS = 5.0
CLOSED_SECONDS = 0.5
AGE_SECONDS = 60.0
CLOSED_FILES = 500
PAUSE_LIMIT_SECONDS = 60.0


@dataclass(slots=True)
class FrozenFile:
    """A file's content at one instant, on its way into stripes.

    `gaps` are those of `blocks` that the version it is built on has nothing for: zeros there need
    no extent. Elsewhere they do, or what they replaced would show through.
    """

    file: OpenFile
    frozen: Frozen
    version: bytes
    parent: bytes
    name: bytes
    size: int
    kept_bytes: int
    mtime_ns: int
    ctime_ns: int
    frozen_at: int
    blocks: tuple[int, ...]
    gaps: Ranges
    captured: bool = False

    @property
    def inode(self) -> bytes:
        """Whose content this is."""
        return self.file.inode


class Capture:
    """What the flusher asks of the files."""

    def __init__(
        self,
        open_files: OpenFiles,
        namespace: Namespace,
        blocks: Blocks,
        filler: Filler,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._open_files = open_files
        self._namespace = namespace
        self._blocks = blocks
        self._filler = filler
        self._random_bytes = random_bytes
        self._pressed = False

    # --- when ---------------------------------------------------------------------------------

    def due(self) -> list[int]:
        """The dirty files that should be sent out now.

        A file that is quiet or old takes all closed ones with it, and so do closed files that
        fill a stripe together, or are many: small files share stripes, and rounds are few. What
        failed is left alone for a while.
        """
        now = trio.current_time()
        pressed, self._pressed = self._pressed, False
        closed: list[OpenFile] = []
        due: list[OpenFile] = []
        for file in self._open_files.edited():
            quiet = now - file.written_at
            if file.frozen or now < file.try_again_at:
                continue
            if pressed or quiet >= QUIET_SECONDS or now - file.dirty_since >= AGE_SECONDS:
                due.append(file)
            elif quiet >= CLOSED_SECONDS and not self._open_files.has_handles(file.number):
                closed.append(file)
        waiting = sum(file.sparse.dirty_bytes for file in closed)
        if due or waiting >= STRIPE_BYTES or len(closed) >= CLOSED_FILES:
            due += closed
        return [file.number for file in due]

    def press(self) -> None:
        """Writers wait for room: everything dirty is due."""
        self._pressed = True
        self._open_files.work.set()

    async def wait_for_work(self, seconds: float) -> None:
        """Return when a file became dirty or was closed; while some are dirty, also after
        `seconds`."""
        if self._open_files.edited():
            with trio.move_on_after(seconds):
                await self._open_files.work.wait()
            await trio.sleep(seconds / 4)
        else:
            await self._open_files.work.wait()
        self._open_files.work = trio.Event()

    # --- freezing -----------------------------------------------------------------------------

    async def freeze(self, number: int) -> FrozenFile | None:
        """The content of a file at this instant; None if there is nothing to send, or if it was
        cut while it was completed: it is due again then.

        Blocks that are partly here are completed. Raises `TooFewFragments` when that cannot be
        done; the file is as before then.
        """
        file = self._open_files.edited_file(number)
        if file is None or file.frozen or file.shape.locked():
            return None
        await in_thread(file.sparse.prove_dirty)
        if file.unsure:
            await self._mend(file)
        if file.frozen or self._open_files.edited_file(number) is not file:
            return None
        if file.shape.locked() or file.unsure:  # it has a new size, and not yet its new edge
            return None
        row = self._namespace.by_number(number)
        if row.nlink == 0:
            return None
        frozen = self._frozen(file, row)
        file.frozen = True
        file.kept_since_freeze = row.size
        complete = False
        try:
            with contextlib.suppress(Busy):  # it was emptied or is gone, and takes nothing more
                complete = await self._complete(file, frozen)
        except BaseException:
            self.thaw(frozen)
            raise
        if not complete:
            self.thaw(frozen)
            return None
        return frozen

    async def _mend(self, file: OpenFile) -> None:
        """Make edits again that others rest on, of what lies under them. See `rests_on`. It stays
        unsure where that changed meanwhile."""
        wanted = self._open_files.rests_on(file)
        for start, end in wanted:
            for _ in range(2):  # what is here by the records may prove not to be, the first time
                missing = file.sparse.missing(start, end)
                if missing and not self._filler.fill_inline(file.target, missing):
                    await self._filler.fill(file.target, self._filler.sources(file.target, missing))
                file.sparse.edit_clean(start, end)
                file.sparse.settle()
        file.unsure = self._open_files.rests_on(file) != wanted

    def _frozen(self, file: OpenFile, row: InodeRow) -> FrozenFile:
        frozen = file.sparse.freeze(row.size)
        blocks = tuple(block for first, stop in frozen.blocks for block in range(first, stop))
        kept_bytes = min(file.target.kept_bytes, row.size)
        parent, name = self._namespace.place_of(file.number)
        return FrozenFile(
            file,
            frozen,
            self._random_bytes(16),
            parent,
            name,
            row.size,
            kept_bytes,
            row.mtime_ns,
            row.ctime_ns,
            self._namespace.next_outbox_sequence(),
            blocks,
            self._gaps(file.inode, frozen.blocks, kept_bytes),
        )

    def _gaps(self, inode: bytes, blocks: Iterable[tuple[int, int]], kept_bytes: int) -> Ranges:
        """Now, at the freeze: a cut that comes later takes away what this version replaces."""
        gaps = Ranges(blocks)
        for first, stop in blocks:
            for extent in self._blocks.extents(inode, first, stop):
                gaps.remove(extent.block, extent.block + extent.count)
        content = self._namespace.content_of(inode)
        if content is not None and content.inline and kept_bytes:
            gaps.remove(0, 1)
        return gaps

    async def _complete(self, file: OpenFile, frozen: FrozenFile) -> bool:
        """Fill what is missing of partly dirty blocks; gaps become zeros. False if the file was
        cut meanwhile: nobody can tell any more what was to be filled in."""
        sparse = file.sparse
        while file.sparse is sparse and file.kept_since_freeze == frozen.size:
            missing = frozen.frozen.missing()
            if not missing:
                return True
            sources = self._filler.sources(file.target, missing)
            if sources:
                await self._filler.fill(file.target, sources)
            elif not self._filler.fill_inline(file.target, missing):
                await in_thread(sparse.zero_ranges, missing)
            sparse.settle()
        return False

    def thaw(self, frozen: FrozenFile) -> None:
        """It could not be sent: everything is as dirty as before."""
        frozen.file.frozen = False
        frozen.frozen.thaw()
        file = frozen.file
        file.kept_since_freeze = min(file.kept_since_freeze, file.target.kept_bytes)
        self._open_files.rest(file)

    # --- capturing ----------------------------------------------------------------------------

    def capture(
        self, frozen: FrozenFile, extents: tuple[Extent, ...], *, inline: bytes = b""
    ) -> None:
        """All blocks are staged: the content becomes a version, an outbox row, and the content
        map of its inode, in one transaction. No await."""
        file = frozen.file
        frozen.captured = True
        file.frozen = False
        file.failures, file.try_again_at = 0, 0.0
        row = self._row_with_name(file.inode)
        if row is None:  # it would come back to life: nobody may hear of it any more
            frozen.frozen.thaw()
            self._open_files.rest(file)
            return
        frozen.frozen.release()
        more = (
            bool(file.writers)
            or file.sparse.is_dirty
            or file.kept_since_freeze < frozen.size
            or row.size != frozen.size
        )
        content = Content(
            inode=file.inode,
            version=frozen.version,
            bases=row.heads,
            size=frozen.size,
            kept_bytes=min(frozen.kept_bytes, frozen.size),
            extents=extents,
            inline=inline,
            # Of later edits the next version tells; times that were set since are this one's.
            mtime_ns=frozen.mtime_ns if more else row.mtime_ns,
            ctime_ns=frozen.ctime_ns if more else row.ctime_ns,
        )
        file.unsure = more and bool(inline)
        self._namespace.add_content(content, frozen_at=frozen.frozen_at, unflushed=more)
        self._blocks.apply(content)
        self._open_files.captured(file, frozen.size, more=more)
        self._open_files.rest(file)

    def _row_with_name(self, inode: bytes) -> InodeRow | None:
        try:
            row = self._namespace.by_inode(inode)
        except NoEntry:
            return None
        return row if row.nlink else None

    async def read_frozen(self, frozen: FrozenFile) -> bytes:
        """All of a small frozen file."""
        size = frozen.size
        out = bytearray(size)
        for first, stop in frozen.frozen.blocks:
            blocks = await in_thread(frozen.frozen.read_blocks, first, stop - first)
            for number, data in enumerate(blocks, first):
                out[number * BLOCK_BYTES : number * BLOCK_BYTES + len(data)] = data
        return bytes(out[:size])

    def failed(self, number: int, error: AggfsError) -> None:
        """This file could not be sent out: the next close tells its program, and it is due again
        later and later."""
        file = self._open_files.known(number)
        if file is None:
            return
        file.error = error
        now = trio.current_time()
        if now >= file.try_again_at:  # not the same round
            pause = min(QUIET_SECONDS * 2.0**file.failures, PAUSE_LIMIT_SECONDS)
            file.failures += 1
            file.try_again_at = now + pause
