"""Attributes as registers: of two entries that set one, the one with the higher stamp holds.

An inode's seven stamps lie in one bytes value (`InodeRow.registers`); while all are equal, as
after `Create`, only one is kept. Everything here is a function of rows and entries: applying a
set of entries gives the same row in any order, and applying one twice changes nothing.
"""

from stat import S_IFMT, S_IMODE
from typing import Any

from msgspec.structs import replace

from aggfs.model import NEVER, Create, InodeRow, SetAttributes

CREATED, MODE, UID, GID, ATIME, MTIME, CTIME = range(7)
_FIELDS = ("created", "mode", "uid", "gid", "atime_ns", "mtime_ns", "ctime_ns")
_COUNT = 7
_WIDTH = 16
_AT_MTIME = MTIME * _WIDTH
_AT_CTIME = CTIME * _WIDTH

FIRST_NUMBER = 2  # FUSE inode number 1 is the root


def ghost(inode: bytes, number: int) -> InodeRow:
    """An inode that was mentioned, and whose `Create` has not come."""
    return InodeRow(inode, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, b"", 0, 0, 0, (), NEVER, 0)


def stamps(registers: bytes) -> list[bytes]:
    """The seven stamps."""
    if len(registers) == _WIDTH:
        return [registers] * _COUNT
    return [registers[at : at + _WIDTH] for at in range(0, _COUNT * _WIDTH, _WIDTH)]


def _joined(parts: list[bytes]) -> bytes:
    first = parts[0]
    return first if parts.count(first) == _COUNT else b"".join(parts)


def touched(row: InodeRow, when: bytes, time_ns: int, **changes: Any) -> InodeRow:
    """The row of a directory after one of its names changed: mtime and ctime, and `changes`."""
    registers = row.registers
    if len(registers) == _WIDTH:
        registers *= _COUNT
    if when > registers[_AT_MTIME:_AT_CTIME] and when > registers[_AT_CTIME:]:
        registers = registers[:_AT_MTIME] + when + when  # the hot path of every name's change
        return replace(row, mtime_ns=time_ns, ctime_ns=time_ns, registers=registers, **changes)
    row = _assigned(row, when, {MTIME: time_ns, CTIME: time_ns})
    return replace(row, **changes) if changes else row


def changed(row: InodeRow, when: bytes, time_ns: int) -> InodeRow:
    """The row of an inode whose links moved: its ctime."""
    return _assigned(row, when, {CTIME: time_ns})


def written(row: InodeRow, when: bytes, mtime_ns: int, ctime_ns: int) -> InodeRow:
    """The row of a file that got content: mtime and ctime, unless what is not published yet
    says otherwise here; the stamps count all the same."""
    after = _assigned(row, when, {MTIME: mtime_ns, CTIME: ctime_ns})
    if row.unflushed:
        return replace(after, mtime_ns=row.mtime_ns, ctime_ns=row.ctime_ns)
    return after


def created(row: InodeRow, when: bytes, entry: Create) -> InodeRow:
    """The row with what `Create` says. Only its registers: no link is counted here."""
    newest = when > stamps(row.registers)[CREATED]
    if newest:
        row = replace(
            row,
            mode=(entry.mode & ~0o7777) | S_IMODE(row.mode),
            rdev=entry.rdev,
            target=entry.target,
            btime_ns=entry.time_ns,
        )
    values = {
        CREATED: 0,
        MODE: S_IMODE(entry.mode),
        UID: entry.uid,
        GID: entry.gid,
        ATIME: entry.time_ns,
        MTIME: entry.time_ns,
        CTIME: entry.time_ns,
    }
    return _assigned(row, when, values)


def fresh(when: bytes, entry: Create, number: int, **changes: Any) -> InodeRow:
    """The row of an inode that nothing mentioned before its `Create`."""
    time_ns = entry.time_ns
    return InodeRow(
        entry.inode,
        number,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.rdev,
        time_ns,
        time_ns,
        time_ns,
        time_ns,
        0,
        entry.target,
        1,
        0,
        0,
        (),
        when,
        0,
        placed=1,
        **changes,
    )


def set_attributes(row: InodeRow, when: bytes, entry: SetAttributes) -> InodeRow:
    """The row with the registers that `entry` names, where it is the newest."""
    given = (None, entry.mode, entry.uid, entry.gid, entry.atime_ns, entry.mtime_ns, entry.ctime_ns)
    return _assigned(row, when, {at: value for at, value in enumerate(given) if value is not None})


def _assigned(row: InodeRow, when: bytes, values: dict[int, int]) -> InodeRow:
    parts = stamps(row.registers)
    changes: dict[str, Any] = {}
    for at, value in values.items():
        if when > parts[at]:
            parts[at] = when
            changes[_FIELDS[at]] = value
    if not changes:
        return row
    changes.pop("created", None)
    if "mode" in changes:
        changes["mode"] = S_IFMT(row.mode) | S_IMODE(changes["mode"])
    return replace(row, registers=_joined(parts), **changes)


def is_created(row: InodeRow) -> bool:
    """Whether the inode's `Create` has come (the root needs none)."""
    return S_IFMT(row.mode) != 0
