"""Sparse files: the bytes of files that are here, encrypted at rest, edited in place.

Theory of operation. A file number and generation has one data file, and while it holds local
edits a sidecar of dirty marks. The order that makes crashes harmless: an edit is marked in the
sidecar, then written; `sync` makes first the marks and then the bytes survive a loss of power;
marks go only after the commit of the rows that make the bytes safe elsewhere. Clean bytes need
no order at all: their checksums (table `clean`) are proved when a unit is touched first.

Who may call what: methods marked "loop" touch the database and belong on the loop. The others
may run in a worker, one lock per file keeps them apart. Rows of units that workers changed are
collected, and put into the database by `settle`, on the loop.
"""

import contextlib
import threading
from collections.abc import Callable

from aggfs.cache.filesync import FileSync
from aggfs.cache.frozen import Frozen, FrozenBytes
from aggfs.cache.landing import Landings
from aggfs.cache.presence import FOR_EVER, Pairs, Presence
from aggfs.cache.ranges import NewRanges, RangeSet
from aggfs.cache.sidecar import Sidecar
from aggfs.cache.sums import CleanSums
from aggfs.cache.unitfile import UNIT_BYTES, Buffer, UnitFile, checksum, disk_refusal, group_of
from aggfs.errors import Busy, LocalDiskFailed
from aggfs.model import BLOCK_BYTES

SETTLED_UNITS = 64  # a stripe


class SparseFile:
    """One generation of one file. `SparseFiles` opens and removes them.

    Where nothing is present and the content map has nothing either, the file has zeros: the
    caller knows, and this class does not. Offsets are offsets in the file; the file's size is
    the caller's business as well: nothing may be filled beyond it.
    """

    def __init__(
        self,
        number: int,
        generation: int,
        raw: UnitFile,
        sidecar: Sidecar,
        rows: CleanSums,
        *,
        directory: str,
        new_ranges: NewRanges,
        after_commit: Callable[[Callable[[], None]], None],
        sync_names: Callable[[], None],
    ) -> None:
        self.number = number
        self.generation = generation
        self._raw = raw
        self._sidecar = sidecar
        self._rows = rows
        self._directory = directory
        self._new_ranges = new_ranges
        self._after_commit = after_commit
        self._lock = threading.Lock()
        self.syncing = FileSync(raw, sidecar, self._lock, sync_names)
        self._presence = Presence(new_ranges, raw.granule)
        self._loaded = new_ranges()
        self._frozen: FrozenBytes | None = None
        self._version = 0
        self._removals = 0
        self._retired = False
        self._unmarking = 0
        self.landings = Landings(raw, self._presence, self._lock, self._may_land, new_ranges)

    def _may_land(self, removals: int) -> bool:
        return not self._retired and self._frozen is None and removals == self._removals

    def recover(self, size: int, *, trusted: bool, zeros_may_be_holes: bool) -> None:
        """Loop, once, when just opened: take in what the records say of a file of `size` bytes.
        `trusted`: this process wrote them, and closed the file."""
        presence, marked = self._presence, self._sidecar.marked
        if not self._raw.encrypted and not trusted and not zeros_may_be_holes:
            lost = [gap for pair in marked for gap in self._raw.unwritten(*pair)]
            self._sidecar.unmark(lost)
        presence.admit_dirty(marked, proven=trusted or not self._raw.encrypted)
        recorded_end = self._rows.end()
        presence.recorded = recorded_end > 0
        if max(recorded_end, marked.end) > size or self._raw.is_longer_than(size):
            self.cut(size)

    # --- what is here -------------------------------------------------------------------------

    @property
    def is_dirty(self) -> bool:
        """Whether it holds local edits."""
        return bool(self._presence.dirty)

    @property
    def dirty_bytes(self) -> int:
        """How many bytes of local edits it holds."""
        return self._presence.dirty.total

    @property
    def frozen(self) -> bool:
        """Whether it is being sent out."""
        return self._frozen is not None

    @property
    def settling(self) -> bool:
        """Whether marks of a released freeze wait for a commit to go."""
        return self._unmarking > 0

    def dirty_ranges(self) -> RangeSet:
        """A snapshot of the local edits."""
        with self._lock:
            return self._presence.dirty.copy()

    def load(self, start: int, end: int) -> None:
        """Loop: learn which bytes of the range are recorded clean. Cheap when known; `missing`
        does it by itself. Without it a read may miss clean bytes, and an edit forget them."""
        if not self._presence.recorded:
            return
        first, stop = start // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        if self._loaded.contains(first, stop):
            return
        with self._lock:
            for low, high in self._loaded.missing(first, stop):
                for block, units in self._rows.known(low, high):
                    self._presence.admit_clean(block, units)
            self._loaded.add(first, stop)

    def missing(self, start: int, end: int) -> Pairs:
        """Loop: the holes of [start, end), in order. Bytes that turn out to be wrong when they
        are read become holes then."""
        self.load(start, end)
        with self._lock:
            return self._presence.holes(start, end)

    # --- reading ------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> tuple[Buffer, Pairs]:
        """The bytes, zeros where they are not here, and the holes. Raises Damaged."""
        end = offset + length
        with self._lock:
            version = self._version
            certain = self._presence.certain(offset, end)
        if certain:
            data = self._raw.read(offset, end)
            if version == self._version:  # else an edit came between: groups may be torn
                return data, []
        return self._read_slowly(offset, end)

    def read_cached(self, offset: int, length: int) -> Buffer | None:
        """Loop: as `read`, never waiting: None when that is not possible just now."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            version = self._version
            certain = self._presence.certain(offset, offset + length)
        finally:
            self._lock.release()
        if not certain:
            return None
        data = self.landings.read_cached(offset, offset + length)
        return data if version == self._version else None

    def _read_slowly(self, offset: int, end: int) -> tuple[Buffer, Pairs]:
        """Look at whole units, prove what is suspect, and leave out what is not there."""
        with self._lock:
            version = self._version
            absent = self._presence.holes(offset, end)
            if absent == [(offset, end)]:
                return bytearray(end - offset), absent
        wide_start, wide_end = group_of(offset, end, UNIT_BYTES)
        raw = self._raw.raw(wide_start, wide_end)
        with self._lock:
            if version != self._version:
                raw, absent = self._raw.raw(wide_start, wide_end), []
            self._judge(wide_start, raw)
            holes = self._new_ranges()  # `raw` lacks what was filled meanwhile
            holes.add_all([*absent, *self._presence.holes(offset, end)])
        out = bytearray(self._raw.decrypt(wide_start, raw, offset, end))
        for start, stop in holes:
            out[start - offset : stop - offset] = bytes(stop - start)
        return out, list(holes)

    def _prove(self, start: int, end: int) -> None:
        """Look at the suspect units of the range, lock held."""
        suspect = self._presence.suspect
        if not suspect or not suspect.overlaps(start, end):
            return
        for low, high in suspect.intersect(*group_of(start, end, UNIT_BYTES)):
            for at in range(low, high, BLOCK_BYTES):
                self._judge(at, self._raw.raw(at, min(at + BLOCK_BYTES, high)))

    def _judge(self, start: int, raw: memoryview) -> None:
        """Lock held. Who took for there what is lost now, and read the disk, has to read again."""
        if self._presence.suspect:
            clean, dirty = self._presence.judge(start, raw)
            self._version += bool(clean or dirty)
            if dirty:
                self._sidecar.unmark(dirty)

    # --- changing -----------------------------------------------------------------------------

    def encrypted(self, offset: int, data: Buffer, memory: memoryview) -> memoryview | None:
        """Loop: what `write` would compute, in `memory`; None where that cannot be known."""
        return self._raw.raw_ahead(offset, data, memory)

    def write(self, offset: int, data: Buffer, raw: memoryview | None = None) -> None:
        """A local edit; `raw` is what `encrypted` gave for it. Raises NoSpace, LocalDiskFailed:
        bytes of the range may have changed then, as on any disk."""
        end = offset + len(data)
        if end == offset:
            return
        with self._lock:
            self._assert_open()
            if self.landings.overlap(offset, end):
                raise Busy("bytes from the accounts are landing here")
            try:
                if self._frozen is not None:
                    self._frozen.spare(offset, end)
                self._prove(offset, end)
                self._sidecar.mark(offset, end)
                self._version += 1
                self.syncing.needed = True
                self._put(offset, data, raw)
            except OSError as error:
                self._presence.spoilt(offset, end)
                raise disk_refusal(error) from error
            self._presence.written(offset, end)
            if self._frozen is not None:
                self._frozen.newer.add(offset, end)

    def edit_clean(self, start: int, end: int) -> None:
        """What is clean of the range is a local edit from now on, its bytes as they are: nobody
        else will have them. Raises NoSpace, LocalDiskFailed."""
        self.load(start, end)
        with self._lock:
            self._assert_open()
            try:
                self._prove(start, end)
                for part in self._presence.clean.intersect(start, end):
                    self._sidecar.mark(*part)
                    self.syncing.needed = True
                    self._presence.written(*part)
                    if self._frozen is not None:
                        self._frozen.newer.add(*part)
            except OSError as error:
                raise disk_refusal(error) from error

    def _put(self, offset: int, data: Buffer, raw: memoryview | None = None) -> memoryview:
        """Write, keeping what is there in the first and last group; the raw bytes."""
        end = offset + len(data)
        wide_start, wide_end = group_of(offset, end, self._raw.granule)
        keep_head = wide_start != offset and self._presence.any(wide_start, offset)
        keep_tail = wide_end != end and self._presence.any(end, wide_end)
        if keep_head or keep_tail:
            self._version += 1
        self.landings.forget(offset, end)
        return self._raw.write(offset, data, keep_head=keep_head, keep_tail=keep_tail, raw=raw)

    @property
    def removals(self) -> int:
        """How often bytes of the file were cut off or evicted."""
        return self._removals

    def fill(self, offset: int, data: Buffer, *, removals: int | None = None) -> None:
        """Clean bytes for what is still a hole of the range; the rest is left alone. They must
        not reach beyond the file's size: `removals` is what that was when the size was looked at,
        and after a later one nothing is filled. Raises NoSpace, LocalDiskFailed."""
        view = memoryview(data).cast("B")
        end = offset + len(view)
        with self._lock:
            self._assert_open()
            if removals is not None and removals != self._removals:
                return
            try:
                self._prove(offset, end)
                for start, stop in self.landings.outside(self._presence.holes(offset, end)):
                    self._fill_hole(start, view[start - offset : stop - offset])
                if self._frozen is not None:
                    self._frozen.fill(offset, view)
            except OSError as error:
                raise disk_refusal(error) from error

    def _fill_hole(self, start: int, data: memoryview) -> None:
        end = start + len(data)
        raw = self._put(start, data)
        self._presence.clean.add(start, end)
        raw_start = start - start % self._raw.granule
        edges = []
        for unit in range(start // UNIT_BYTES, -(-end // UNIT_BYTES)):
            at, valid = unit * UNIT_BYTES, self._presence.valid(unit)
            wide = group_of(0, valid, self._raw.granule)[1]
            if valid and raw_start <= at and at + wide <= raw_start + len(raw):
                part = raw[at - raw_start : at - raw_start + wide]
                self._presence.changed[unit] = valid, checksum(part)
            else:
                edges.append((unit, valid, wide))
        for unit, valid, wide in edges:
            at = unit * UNIT_BYTES
            total = checksum(self._raw.raw(at, at + wide)) if valid else 0
            self._presence.changed[unit] = valid, total

    def zero_ranges(self, ranges: Pairs) -> None:
        """Fill holes with zeros: gaps, in a block that is to be sealed whole."""
        for start, end in ranges:
            for at in range(start, end, BLOCK_BYTES):
                self.fill(at, bytes(min(BLOCK_BYTES, end - at)))

    def cut(self, size: int) -> None:
        """Loop: nothing is here from `size` on. The smaller size must be *durable* already: a
        crash in between must find the old bytes. (For O_TRUNC start a new generation.)"""
        self.load(size, size + 1)
        with self._lock:
            self._assert_open()
            self._removals += 1
            try:
                if self._frozen is not None and size < self._frozen.size:
                    self._frozen.spare(size, self._frozen.size)
                    self._frozen.newer.add(size, FOR_EVER)
                self._prove(size, size + 1)
                self._version += 1
                self.syncing.needed = self.syncing.cut = True
                self._sidecar.unmark(self._sidecar.marked.intersect(size, FOR_EVER))
                self._raw.cut(size)
            except OSError as error:
                raise disk_refusal(error) from error
            self._presence.cut(size)
            if self._presence.recorded:
                self._rows.cut(size)

    def evict(self, start: int, end: int) -> Pairs:
        """Loop: make holes of the clean bytes of the range, also of those just released; returns
        what to hand to `punch`. Nothing while the file is frozen."""
        if self._frozen is not None:
            return []
        self.load(start, end)
        with self._lock:
            self._version += 1
            self._removals += 1
            gone = self._presence.forget(start, end)
        self.settle(FOR_EVER)
        return gone

    def punch(self, ranges: Pairs) -> int:
        """Give the pages of evicted ranges back to the disk, as far as they are holes still; how
        many bytes at most. Nothing once it was closed: another object may have filled them by
        then. Raises LocalDiskFailed."""
        self.sync()  # marks that went must not come back for bytes that are no more
        freed = 0
        for start, end in ranges:
            with self._lock:
                if self._retired:
                    break
                for hole in self.landings.outside(self._presence.holes(start, end)):
                    for part in self._sidecar.marked.missing(*hole):
                        freed += self._raw.punch(*part)
        return freed

    def settle(self, limit: int = SETTLED_UNITS) -> bool:
        """Loop: put the rows of at most so many changed units into the database; whether there
        are more. When that is forgotten, or it takes nothing any more, it costs fetches."""
        with self._lock:
            changed = {} if self._retired else self._presence.take_changed(limit)
        with contextlib.suppress(LocalDiskFailed):
            self._rows.put_all(changed)
        return bool(changed and self._presence.changed)

    # --- sending out --------------------------------------------------------------------------

    def prove_dirty(self) -> None:
        """In a worker, after a restart: look at the local edits that were found. `freeze` does
        it too, but on the loop."""
        for start, end in self.dirty_ranges():
            for at in range(start, end, BLOCK_BYTES):
                with self._lock:
                    self._prove(at, min(at + BLOCK_BYTES, end))

    def freeze(self, size: int) -> Frozen:
        """Take the local edits as they are now, with the file's size now. Raises Busy when the
        last freeze has not ended."""
        with self._lock:
            self._assert_open()
            if self._frozen is not None:
                raise Busy("this file is being sent out already")
            if self._presence.suspect:
                for pair in list(self._presence.dirty):
                    self._prove(*pair)
            self._frozen = FrozenBytes(
                self._raw, self._presence, self._directory, size, self._new_ranges
            )
            return Frozen(
                self._frozen,
                self._raw,
                self._presence,
                self._lock,
                load=self.load,
                prove=self._prove,
                end=self._end_freeze,
                new_ranges=self._new_ranges,
            )

    def _end_freeze(self, done: RangeSet | None) -> None:
        """Blocks `done` are clean now, except for newer edits; None: nothing is."""
        with self._lock:
            frozen, self._frozen = self._frozen, None
            if frozen is None:
                return
            frozen.close()
            if self._retired:
                return
            cleaned = frozen.clean(done) if done else self._new_ranges()
        self.settle()
        if cleaned:
            self._unmarking += 1
            self._after_commit(lambda: self._unmark(cleaned))

    def _unmark(self, cleaned: RangeSet) -> None:
        """Those ranges are safe elsewhere, and that is committed."""
        with self._lock:
            self._unmarking -= 1
            if self._retired:
                return
            cleaned.remove_all(self._presence.dirty)
            self.syncing.needed = True
            # A mark that stays for want of disk space makes an edit be sent twice, no worse.
            with contextlib.suppress(OSError):
                self._sidecar.unmark(cleaned)

    # --- the disk -----------------------------------------------------------------------------

    def sync(self) -> None:
        """In a worker: all edits until now survive a loss of power, once the database says so
        too. Raises LocalDiskFailed, then for ever."""
        self.syncing.sync()

    def _assert_open(self) -> None:
        if self._retired:
            raise Busy("this file was given up")

    def retire(self) -> None:
        """Loop: take no change any more. What workers and a freeze have begun goes on: the
        descriptors live as long as this object is known to anyone."""
        with self._lock:
            self._retired = True
            self._sidecar.close()

    def close(self) -> None:
        """Loop: as `retire`, of a file that is not frozen and will be opened again."""
        self.settle(FOR_EVER)
        self.retire()
