"""Bringing back what is in the trash: a name again for what has lost its last one.

A directory comes back with all that is in the trash from it. Directories above it that were
removed as well come back too, without what else was in them.

What is many files is built under a name of its own beside its place, some at a time, and renamed
into it at the end: it is there whole or not at all. What a stop leaves half built is noted in the
table `undeletes`, and goes on at the next start: the rest of it is in the trash still.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISREG

import msgspec
import trio
from msgspec.structs import replace

from aggfs.engine.names.pending import PLACEMENTS_LIMIT
from aggfs.engine.past.history import History
from aggfs.engine.past.trash import Removed, Trash
from aggfs.engine.volume import Volume
from aggfs.errors import Exists, NoEntry
from aggfs.model import ROOT, InodeRow, LinkRow, Placement
from aggfs.sync.moments import format_moment
from aggfs.sync.names import conflict_name, find
from aggfs.threads import in_slices, list_in_slices

TABLES = ("undeletes",)
FILES_AT_ONCE = 16
CHILDREN_AT_ONCE = 512
BUILT_PREFIX = b".aggfs-undelete-"
KINDS = {S_IFREG: "file", S_IFDIR: "directory", S_IFLNK: "link"}

Answer = dict[str, object]
Arguments = Mapping[str, object]
Comes = tuple[Removed, bytes, bytes]  # what comes back, into which directory, as what


class UndeleteRow(msgspec.Struct, frozen=True, array_like=True):
    """A directory that is being built: how it is to be called, and whose inside still comes."""

    name: bytes
    directory: bytes


class Undelete:
    """The verb, and what it needs. On the loop; one at a time."""

    def __init__(self, volume: Volume, trash: Trash, history: History) -> None:
        self._volume = volume
        self._parts = parts = volume.parts
        self._table = parts.database.table("undeletes")
        self._alone = trio.Lock()
        self._given_up = trio.Event()  # by who was to build: the job goes on
        self._tree = parts.tree
        self._namespace = parts.namespace
        self._trash = trash
        self._history = history

    async def undelete(self, volume: Volume, arguments: Arguments) -> Answer:
        """`undelete`: bring back what was removed last from `path`, or what has this `id`; to
        where it was, or `to` another free name. Raises `NoEntry`, `Exists`. Cancelled while much
        comes back, the rest comes all the same."""
        del volume
        async with self._alone:
            found, inside = await self._find(arguments)
            place, name, above = self._place_for(found, arguments)
            if len(inside) < FILES_AT_ONCE:
                count = self._bring(self._still([(found, place, name), *inside], above), above)
                await self._parts.database.durable()
                top = above[0] if above else None
                await self._tell(*((place, name) if top is None else (top.was_parent, top.name)))
            else:
                count = 1 + await self._build(found, place, name, above, inside)
        path = self._namespace.path_of(found.row.number)
        return {"path": path.decode(errors="surrogateescape"), "brought_back": count}

    async def run(self) -> None:
        """The job: what was half built at the last stop, or is given up now, goes on."""
        while True:
            async with self._alone:
                self._given_up = trio.Event()
                for top, value in self._table.scan(b""):
                    everything = await list_in_slices(self._trash.entries())
                    directory = msgspec.msgpack.decode(value, type=UndeleteRow).directory
                    await self._fill(
                        top, await in_slices(self._inside_steps(everything, directory))
                    )
            await self._given_up.wait()

    # --- finding ------------------------------------------------------------------------------

    async def _find(self, arguments: Arguments) -> tuple[Removed, list[Comes]]:
        """What is meant, and all that is in the trash from it. Raises `NoEntry`, `Damaged`."""
        everything = await list_in_slices(self._trash.entries())
        newest = await in_slices(self._meant_steps(everything, arguments))
        inside: list[Comes] = []
        if newest is not None:
            if S_ISDIR(newest.row.mode):
                inside = await in_slices(self._inside_steps(everything, newest.row.inode))
            await in_slices(self._check_steps([newest, *(one for one, _, _ in inside)]))
        found = None if newest is None else self._trash.still(newest)
        if found is None:
            raise NoEntry("nothing of that name is in the trash: `aggfs trash` lists it")
        return found, inside

    def _meant_steps(
        self, everything: Iterable[Removed], arguments: Arguments
    ) -> Generator[None, None, Removed | None]:
        wanted = str(arguments.get("id") or "")
        path = str(arguments.get("path") or "").encode(errors="surrogateescape")
        newest: Removed | None = None
        for one in everything:
            if wanted:
                fits = one.link.link.hex().startswith(wanted)
            else:
                fits = path.endswith(b"/" + one.link.name) and self._trash.path_of(one.link) == path
            if fits:
                newest = one
            yield
        return newest

    def _inside_steps(
        self, everything: Iterable[Removed], directory: bytes
    ) -> Generator[None, None, list[Comes]]:
        """All that is in the trash from a directory, each directory before what was in it; of
        several of one name the one that was removed last. The directory may be half built."""
        by_place: dict[bytes, dict[bytes, Removed]] = {}
        for one in everything:
            by_place.setdefault(one.link.was_parent, {})[one.link.name] = one
            yield
        found: list[Comes] = []
        places = [directory]
        while places:
            place = places.pop()
            places += yield from self._subdirectories_steps(place)
            for name, one in by_place.pop(place, {}).items():
                now = self._trash.still(one)
                if now is not None:
                    found.append((now, place, name))
                    if S_ISDIR(now.row.mode):
                        places.append(now.row.inode)
                yield
        return found

    def _subdirectories_steps(self, place: bytes) -> Generator[None, None, list[bytes]]:
        found: list[bytes] = []
        after = 0
        while children := self._tree.children(place, after, CHILDREN_AT_ONCE):
            after = children[-1].cookie
            found += [child.inode for child in children if child.link == child.inode]
            yield
        return found

    def _check_steps(self, everything: Iterable[Removed]) -> Generator[None, None, None]:
        """Raise `Damaged` for what is no more, before anything is changed."""
        for one in everything:
            if one.row.heads:
                self._history.versions.extents_of_head(one.row)
            yield

    def _place_for(
        self, found: Removed, arguments: Arguments
    ) -> tuple[bytes, bytes, list[LinkRow]]:
        """Directory and name for it, and the directories above that come back for that."""
        above: list[LinkRow] = []
        if "to" in arguments:
            parent, name = self._history.place_meant(str(arguments["to"]))
        else:
            above = self._lost_directories(found.link)
            parent, name = self._directory(found.link.was_parent), found.link.name
        if find(self._tree, parent.inode, name) is not None:
            raise Exists("there is something of that name: say with --to how it is to be called")
        return parent.inode, name, above

    def _lost_directories(self, link: LinkRow) -> list[LinkRow]:
        """The directories above it that were removed as well, the uppermost first."""
        lost: list[LinkRow] = []
        at = link.was_parent
        while at != ROOT:
            row = self._directory(at)
            if row.nlink:
                break
            above = self._tree.link(at)
            if above is None:
                raise NoEntry("its directory is gone for good: say with --to where it is to be")
            lost.insert(0, above)
            at = above.was_parent
        if lost and find(self._tree, lost[0].was_parent, lost[0].name) is not None:
            raise Exists("its directory was replaced: say with --to where it is to be")
        return lost

    def _directory(self, inode: bytes) -> InodeRow:
        row = self._tree.inode(inode)
        if row is None:
            raise NoEntry("its directory is gone for good: say with --to where it is to be")
        return row

    # --- bringing -----------------------------------------------------------------------------

    def _bring(self, some: Sequence[Comes], above: Sequence[LinkRow]) -> int:
        """Place each in its directory by its name, the directories above first; how many came
        back. No await: a crash leaves all of it or nothing of it."""
        maps = {
            one.row.inode: self._history.versions.extents_of_head(one.row)
            for one, _, _ in some
            if one.row.heads
        }
        placements = [Placement(one.link, one.inode, one.was_parent, one.name) for one in above]
        for one, place, its_name in some:
            self._trash.taken_out(one)
            placements.append(Placement(one.link.link, one.row.inode, place, its_name))
        gone = {one.row.inode for one, _, _ in some if not self._was_open(one.row)}
        for at in range(0, len(placements), PLACEMENTS_LIMIT):
            self._namespace.bring_back(placements[at : at + PLACEMENTS_LIMIT])
        for inode in gone & maps.keys():
            content, extents = maps[inode]
            self._namespace.show_content(content)
            self._parts.blocks.lay(inode, extents)
        return len(some)

    def _still(self, some: Iterable[Comes], above: Iterable[LinkRow]) -> list[Comes]:
        """Those that are in the trash still, and whose place is there, or comes with them, and
        free: all may have changed since they were found."""
        found: list[Comes] = []
        coming = {one.inode for one in above}
        for one, place, name in some:
            now, directory = self._trash.still(one), self._tree.inode(place)
            there = place in coming or (directory is not None and directory.nlink)
            if now is not None and there and find(self._tree, place, name) is None:
                found.append((now, place, name))
                coming.add(now.row.inode)
        return found

    def _was_open(self, row: InodeRow) -> bool:
        return self._namespace.is_open(row.inode)

    # --- building -----------------------------------------------------------------------------

    async def _build(
        self,
        found: Removed,
        place: bytes,
        name: bytes,
        above: list[LinkRow],
        inside: Sequence[Comes],
    ) -> int:
        """Bring much back; how many came from the inside."""
        built = BUILT_PREFIX + self._parts.random_bytes(8).hex().encode()
        if above:
            top, at_last = above[0].inode, above[0].name
            above = [replace(above[0], name=built), *above[1:]]
        else:
            top, at_last, name = found.row.inode, name, built
        row = UndeleteRow(at_last, found.row.inode)
        self._table.put(top, msgspec.msgpack.encode(row))
        self._bring([(found, place, name)], above)
        try:
            return await self._fill(top, inside)
        except BaseException:
            self._given_up.set()
            raise

    async def _fill(self, top: bytes, inside: Sequence[Comes]) -> int:
        """Bring some of these at a time, and let all of it be seen in the end; how many came."""
        count = 0
        for at in range(0, len(inside), FILES_AT_ONCE):
            await self._parts.database.throttle()
            await trio.lowlevel.checkpoint()
            count += self._bring(self._still(inside[at : at + FILES_AT_ONCE], ()), ())
        await self._show(top)
        return count

    async def _show(self, top: bytes) -> None:
        """Its own name for what was built; another one where that was given away meanwhile."""
        value, inode = self._table.get(top), self._tree.inode(top)
        assert value is not None
        row = msgspec.msgpack.decode(value, type=UndeleteRow)
        self._table.delete(top)
        if inode is None or not inode.nlink:  # somebody has removed it
            return
        place, built = self._namespace.place_of(inode.number)
        names = (row.name, conflict_name(row.name, top.hex()[:8]))
        name = next((one for one in names if one and not find(self._tree, place, one)), built)
        if built.startswith(BUILT_PREFIX) and name != built:
            parent = self._namespace.by_inode(place).number
            self._namespace.rename_noreplace(parent, built, parent, name)
        await self._parts.database.durable()
        await self._tell(place, built)
        await self._tell(place, name)

    async def _tell(self, place: bytes, name: bytes) -> None:
        await self._volume.tell_name(self._namespace.by_inode(place).number, name)


def told(one: Removed, trash: Trash) -> Answer:
    """An entry of the trash as `aggfs trash --json` has it."""
    return {
        "id": one.link.link.hex(),
        "path": trash.path_of(one.link).decode(errors="surrogateescape"),
        "removed": format_moment(one.time_ms),
        "removed_ms": one.time_ms,
        "size": one.row.size if S_ISREG(one.row.mode) else 0,
        "type": KINDS.get(S_IFMT(one.row.mode), "other"),
    }
