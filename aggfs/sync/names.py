"""What is shown where several links claim one name: one keeps it, the others get a suffix.

Directories of one name are one directory (see `aggfs.sync.view`) and keep the name. Of the other
links the one that was placed first keeps it, if no directory does; each of the rest is shown as
`stem (conflict 1a2b3c4d).extension`, the digits being the first of its link id. Everything is a
function of the claims, so each device shows the same, and whoever looks a shown name up finds
the link again without a table of such names.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from aggfs.model import NAME_BYTES, LinkRow
from aggfs.sync.tree import Tree

CLAIM_BYTES = 32  # link id, inode id
_LINK_BYTES = 16
_SHORT_DIGITS = 8
_EXTENSION_BYTES = 16
_PATTERN = re.compile(
    rb"(?P<stem>.*) \(conflict (?P<token>[0-9a-f]{8}|[0-9a-f]{32})(?:-[0-9]+)?\)"
    rb"(?P<extension>\.[^.]{1,15})?",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A link and the name under which it is seen."""

    link: bytes
    inode: bytes
    name: bytes


def split_claims(claims: bytes) -> list[tuple[bytes, bytes]]:
    """The (link, inode) pairs of a claims value."""
    return [
        (claims[at : at + _LINK_BYTES], claims[at + _LINK_BYTES : at + CLAIM_BYTES])
        for at in range(0, len(claims), CLAIM_BYTES)
    ]


def shown_names(tree: Tree, place: bytes, name: bytes, claims: bytes) -> list[Shown]:
    """What is seen in directory `place` of the links that claim `name`, the keeper first.

    Directories that are merged into another one are not in it.
    """
    if len(claims) == CLAIM_BYTES:
        return [Shown(claims[:_LINK_BYTES], claims[_LINK_BYTES:], name)]
    rows = [row for link, _ in split_claims(claims) if (row := tree.link(link)) is not None]
    rows.sort(key=_precedence)
    if rows[0].is_directory:
        rows = rows[:1] + [row for row in rows if not row.is_directory]
    shown = [Shown(rows[0].link, rows[0].inode, name)]
    used = {name}
    for row in rows[1:]:
        other = next(
            candidate
            for candidate in _candidates(name, row.link)
            if candidate not in used and not tree.claims(place, candidate)
        )
        used.add(other)
        shown.append(Shown(row.link, row.inode, other))
    return shown


def find(tree: Tree, place: bytes, name: bytes) -> Shown | None:
    """What is seen under `name` in directory `place`, whose claims are filed under it."""
    claims = tree.claims(place, name)
    if claims:
        return shown_names(tree, place, name, claims)[0]
    match = _PATTERN.fullmatch(name)
    if match is None:
        return None
    base = match["stem"] + (match["extension"] or b"")
    if len(match["token"]) > _SHORT_DIGITS:
        row = tree.link(bytes.fromhex(match["token"].decode()))
        base = row.name if row is not None else base
    claims = tree.claims(place, base)
    if len(claims) <= CLAIM_BYTES:
        return None
    shown = shown_names(tree, place, base, claims)
    return next((one for one in shown if one.name == name), None)


def _precedence(row: LinkRow) -> tuple[bool, bytes, bytes]:
    return not row.is_directory, row.when, row.link


def _candidates(name: bytes, link: bytes) -> Iterator[bytes]:
    digits = link.hex()
    short = conflict_name(name, digits[:_SHORT_DIGITS])
    if short is not None:
        yield short
    count = 0
    while True:
        yield _cut_name(name, digits if count == 0 else f"{digits}-{count}")
        count += 1


def conflict_name(name: bytes, token: str) -> bytes | None:
    """`name` with a conflict suffix before its extension; None if that is too long."""
    stem, extension = split_extension(name)
    long = stem + _suffix(token) + extension
    return long if len(long) <= NAME_BYTES else None


def _cut_name(name: bytes, token: str) -> bytes:
    stem, extension = split_extension(name)
    room = NAME_BYTES - len(_suffix(token)) - len(extension)
    return _whole_characters(stem, room) + _suffix(token) + extension


def _suffix(token: str) -> bytes:
    return b" (conflict " + token.encode() + b")"


def split_extension(name: bytes) -> tuple[bytes, bytes]:
    """`photo.jpg` -> `photo`, `.jpg`. A leading dot begins no extension, nor does a long one."""
    dot = name.rfind(b".")
    if dot <= 0 or not 1 < len(name) - dot <= _EXTENSION_BYTES:
        return name, b""
    return name[:dot], name[dot:]


def _whole_characters(stem: bytes, room: int) -> bytes:
    """At most `room` bytes, not ending inside a UTF-8 character."""
    if len(stem) <= room:
        return stem
    end = room
    while end > 0 and room - end < 4 and stem[end] & 0xC0 == 0x80:
        end -= 1
    return stem[:end]
