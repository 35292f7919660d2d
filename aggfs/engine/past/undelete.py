"""Bringing back what is in the trash: a name again for what has lost its last one.

A directory comes back with all that is in the trash from it. Directories above it that were
removed as well come back too, without what else was in them.
"""

from collections.abc import Iterable, Mapping
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISDIR, S_ISREG

from aggfs.engine.names.pending import PLACEMENTS_LIMIT
from aggfs.engine.past.history import History
from aggfs.engine.past.trash import Removed, Trash
from aggfs.engine.volume import Parts, Volume
from aggfs.errors import Exists, NoEntry
from aggfs.model import ROOT, InodeRow, LinkRow, Placement
from aggfs.sync.moments import format_moment
from aggfs.sync.names import find
from aggfs.threads import list_in_slices

KINDS = {S_IFREG: "file", S_IFDIR: "directory", S_IFLNK: "link"}

Answer = dict[str, object]
Arguments = Mapping[str, object]


class Undelete:
    """The verb, and what it needs. On the loop."""

    def __init__(self, parts: Parts, trash: Trash, history: History) -> None:
        self._parts = parts
        self._tree = parts.tree
        self._namespace = parts.namespace
        self._trash = trash
        self._history = history

    async def undelete(self, volume: Volume, arguments: Arguments) -> Answer:
        """`undelete`: bring back what was removed last from `path`, or what has this `id`; to
        where it was, or `to` another free name. Raises `NoEntry`, `Exists`."""
        everything = await list_in_slices(self._trash.entries())
        found = self._meant(everything, arguments)
        if "to" in arguments:
            parent, name = self._history.place_meant(str(arguments["to"]))
            above: list[LinkRow] = []
        else:
            above = self._lost_directories(found.link)
            parent, name = self._directory(found.link.was_parent), found.link.name
        if find(self._tree, parent.inode, name) is not None:
            raise Exists("there is something of that name: say with --to how it is to be called")
        inside = self._inside(everything, found.row.inode) if S_ISDIR(found.row.mode) else []
        count = self._bring([(found, parent.inode, name), *inside], above)
        await self._parts.database.durable()
        top = above[0] if above else None
        place = self._namespace.by_inode(parent.inode if top is None else top.was_parent)
        await volume.tell_name(place.number, name if top is None else top.name)
        path = self._namespace.path_of(found.row.number)
        return {"path": path.decode(errors="surrogateescape"), "brought_back": count}

    # --- finding ------------------------------------------------------------------------------

    def _meant(self, everything: Iterable[Removed], arguments: Arguments) -> Removed:
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
        found = None if newest is None else self._trash.still(newest)
        if found is None:
            raise NoEntry("nothing of that name is in the trash: `aggfs trash` lists it")
        return found

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

    def _bring(self, everything: list[tuple[Removed, bytes, bytes]], above: list[LinkRow]) -> int:
        """Place each in its directory by its name, the directories above first; how many came
        back. No await: a crash leaves all of it or nothing of it."""
        maps = {
            one.row.inode: self._history.versions.extents_of_head(one.row)
            for one, _, _ in everything
            if one.row.heads
        }
        placements = [Placement(one.link, one.inode, one.was_parent, one.name) for one in above]
        for one, place, its_name in everything:
            self._trash.taken_out(one)
            placements.append(Placement(one.link.link, one.row.inode, place, its_name))
        gone = {one.row.inode for one, _, _ in everything if not self._was_open(one.row)}
        for at in range(0, len(placements), PLACEMENTS_LIMIT):
            self._namespace.bring_back(placements[at : at + PLACEMENTS_LIMIT])
        for inode in gone & maps.keys():
            content, extents = maps[inode]
            self._namespace.show_content(content)
            self._parts.blocks.lay(inode, extents)
        return len(everything)

    def _was_open(self, row: InodeRow) -> bool:
        return self._namespace.is_open(row.inode)

    def _inside(
        self, everything: Iterable[Removed], directory: bytes
    ) -> list[tuple[Removed, bytes, bytes]]:
        """All that is in the trash from a directory, each directory before what was in it; of
        several of one name the one that was removed last."""
        by_place: dict[bytes, dict[bytes, Removed]] = {}
        for one in everything:
            by_place.setdefault(one.link.was_parent, {})[one.link.name] = one
        found: list[tuple[Removed, bytes, bytes]] = []
        places = [directory]
        while places:
            place = places.pop()
            for name, one in by_place.pop(place, {}).items():
                now = self._trash.still(one)
                if now is not None:
                    found.append((now, place, name))
                    if S_ISDIR(now.row.mode):
                        places.append(now.row.inode)
        return found


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
