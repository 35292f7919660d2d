"""Simulated devices that change a volume apart from each other and exchange entries."""

from dataclasses import dataclass, field
from stat import S_IFDIR, S_IFREG

from aggfs.model import (
    NOWHERE,
    ROOT,
    AccountEntry,
    Content,
    Create,
    DeviceId,
    Extent,
    Place,
    Placement,
    Relocate,
    SetAttributes,
    SetXattr,
    Stamp,
)
from aggfs.sync.clock import HybridClock
from aggfs.sync.merge import apply, apply_batch
from aggfs.sync.tree import DictTree, Tree

NAMES = (b"a", b"b", b"docs", b"x.txt")
SECOND = 1_000_000_000


@dataclass
class Device:
    """One device: its tree, its clock (which may be wrong by hours), what it has written."""

    index: int
    skew_ns: int
    tree: Tree = field(default_factory=DictTree)
    written: list = field(default_factory=list)
    seen: dict[int, int] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        self.clock = HybridClock(DeviceId(bytes([self.index + 1]) * 8))

    def _draw(self) -> bytes:
        self.made += 1
        return (self.made * 7919 % 65521).to_bytes(7) + bytes([self.index]) + bytes(8)

    def write(self, now_ns: int, entry) -> None:
        stamp = self.clock.tick(now_ns + self.skew_ns)
        self.written.append((stamp, entry))
        apply(self.tree, stamp, entry)

    def hear(self, other: "Device", count: int) -> None:
        """Take in up to `count` entries of another device, in its order."""
        start = self.seen.get(other.index, 0)
        batch = other.written[start : start + count]
        self.seen[other.index] = start + len(batch)
        for stamp, _ in batch:
            self.clock.observe(stamp)
        apply_batch(self.tree, batch)

    # --- what a user does, on what this device shows ----------------------------------------

    def _directories(self) -> list[bytes]:
        shown = [row.link for row in self.tree.all_links() if row.shown and row.is_directory]
        return [ROOT, *shown]

    def _links(self) -> list:
        return [row for row in self.tree.all_links() if row.shown]

    def create(self, now: int, a: int, b: int) -> None:
        directories = self._directories()
        inode = self._draw()
        is_directory = b % 2 == 0
        mode = S_IFDIR | 0o755 if is_directory else S_IFREG | 0o644
        link = inode if is_directory else self._draw()
        parent = directories[a % len(directories)]
        placement = Placement(link, inode, parent, NAMES[b // 2 % len(NAMES)])
        self.write(now, Create(inode, mode, a % 3, 0, 0, b"", now, placement))

    def rename(self, now: int, a: int, b: int) -> None:
        links, directories = self._links(), self._directories()
        if links:
            row = links[a % len(links)]
            parent = directories[b % len(directories)]
            placement = Placement(row.link, row.inode, parent, NAMES[b % len(NAMES)])
            self.write(now, Place((placement,), now, (row.was_parent, parent)))

    def replace(self, now: int, a: int, b: int) -> None:
        links = self._links()
        if len(links) > 1:
            row, target = links[a % len(links)], links[b % len(links)]
            observed = self.tree.inode(target.inode).heads
            moved = Placement(row.link, row.inode, target.was_parent, target.name)
            gone = Placement(target.link, target.inode, NOWHERE, target.name)
            self.write(now, Place((moved, gone), now, (row.was_parent,), observed))

    def exchange(self, now: int, a: int, b: int) -> None:
        links = self._links()
        if len(links) > 1:
            one, two = links[a % len(links)], links[b % len(links)]
            there = Placement(one.link, one.inode, two.was_parent, two.name)
            back = Placement(two.link, two.inode, one.was_parent, one.name)
            self.write(now, Place((there, back), now, (one.was_parent, two.was_parent)))

    def link(self, now: int, a: int, b: int) -> None:
        files = [row for row in self._links() if not row.is_directory]
        directories = self._directories()
        if files:
            inode = files[a % len(files)].inode
            parent = directories[b % len(directories)]
            placement = Placement(self._draw(), inode, parent, NAMES[b % len(NAMES)])
            self.write(now, Place((placement,), now, (parent,)))

    def remove(self, now: int, a: int, b: int) -> None:
        links = self._links()
        if links:
            row = links[a % len(links)]
            observed = self.tree.inode(row.inode).heads
            gone = Placement(row.link, row.inode, NOWHERE, row.name)
            self.write(now, Place((gone,), now, (row.was_parent,), observed))

    def edit(self, now: int, a: int, b: int) -> None:
        files = [row for row in self._links() if not row.is_directory]
        if files:
            inode = files[a % len(files)].inode
            heads = self.tree.inode(inode).heads
            bases = heads if b % 2 else heads[:1]
            extents = (Extent(b % 5, bytes(23) + bytes([b % 7]), 0, 1),)
            self.write(now, Content(inode, self._draw(), bases, b, 0, extents, b"", now, now))

    def attributes(self, now: int, a: int, b: int) -> None:
        rows = list(self.tree.all_inodes())
        inode = rows[a % len(rows)].inode
        values = [b % 512 if b >> bit & 1 else None for bit in range(6)]
        self.write(now, SetAttributes(inode, *values))
        self.write(now, SetXattr(inode, NAMES[b % len(NAMES)], b"v" if b % 3 else None, now))

    def others(self, now: int, a: int, b: int) -> None:
        sid = bytes(23) + bytes([a % 3])
        self.write(now, Relocate(sid, b % 3, 2, bytes(23) + bytes([b % 5 + 3]), a % 4))
        self.write(now, AccountEntry(bytes([a % 2]) * 8, str(b), "p", b, removed=False))


ACTIONS = (
    Device.create,
    Device.create,
    Device.rename,
    Device.rename,
    Device.remove,
    Device.replace,
    Device.exchange,
    Device.link,
    Device.edit,
    Device.attributes,
    Device.others,
)


def simulate(steps: list[tuple[int, int, int, int]], skews: tuple[int, ...]) -> list[Device]:
    """Let devices act and hear of each other; each step is (device, action, two numbers)."""
    devices = [Device(index, skew * 3600 * SECOND) for index, skew in enumerate(skews)]
    for at, (who, action, a, b) in enumerate(steps):
        device = devices[who % len(devices)]
        now = (1_800_000_000 + at) * SECOND
        if action < len(ACTIONS):
            ACTIONS[action](device, now, a, b)
        else:
            device.hear(devices[a % len(devices)], b % 4 + 1) if a % len(devices) != who else None
    return devices


def all_entries(devices: list[Device]) -> list[tuple[Stamp, object]]:
    """What all devices have written."""
    return [pair for device in devices for pair in device.written]
