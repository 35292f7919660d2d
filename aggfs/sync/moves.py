"""Where links are: the moves of all devices, applied in the order of their stamps.

After Kleppmann, Mulligan, Gomes, Beresford: "A highly-available move operation for replicated
trees". A move changes where a link is; the result depends on the order, because a move that
would make a directory its own descendant is skipped. So a log keeps, per move, what its links
were before; when a move arrives that is older than logged ones, those are taken back, latest
first, and applied again after it. A batch is merged in one such pass.

A removed link keeps its last place (`was_parent`, `name`): a directory that is filled again is
revived there, so removed directories still count as descendants of their last parent. Thereby
the places of all links, removed or not, are a forest at any time.

What a move ended is noted with it, and stays when the move itself is needed no more: the log of
the past, from which one can tell where a link was at any time.

Only facts are changed here; `aggfs.sync.view` brings the derived tables up to date afterwards.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from aggfs.model import NEVER, NOWHERE, ROOT, LinkRow, MoveRow, PastRow, Placement
from aggfs.sync.tree import Tree

Touched = dict[bytes, LinkRow | None]


class Move(NamedTuple):
    """What a `Create` or `Place` does to links, with its stamp."""

    when: bytes
    placements: tuple[Placement, ...]
    observed: tuple[bytes, ...]


def apply_moves(tree: Tree, moves: Iterable[Move], touched: Touched) -> None:
    """Apply moves, whatever their place in the order. Known ones are no harm.

    `touched` gets, for each link whose row changed, the row that it had before (None: no link).
    """
    todo = {move.when: move for move in moves}
    if not todo:
        return
    oldest = min(todo)
    if oldest <= tree.newest_move:
        later = tree.moves_from(oldest)
        for when, row in reversed(later):
            _undo(tree, when, row, touched)
        todo.update((when, Move(when, row.placements, row.observed)) for when, row in later)
    for when in sorted(todo):
        _do(tree, todo[when], touched)


def withdraw_moves(tree: Tree, stamps: set[bytes], touched: Touched) -> None:
    """Take back these moves as if they had never been; later ones stay and are judged again."""
    if not stamps:
        return
    later = tree.moves_from(min(stamps))
    for when, row in reversed(later):
        _undo(tree, when, row, touched)
        if when in stamps:
            tree.drop_move(when)
    for when, row in later:
        if when not in stamps:
            _do(tree, Move(when, row.placements, row.observed), touched)


def was_never_placed(row: LinkRow) -> bool:
    """Whether no move of this link is left: the row may go."""
    return row.when == NEVER


def _do(tree: Tree, move: Move, touched: Touched) -> None:
    before: list[LinkRow | None] = []
    for placement in move.placements:
        row = tree.link(placement.link)
        if _is_impossible(tree, placement, row):
            _restore(tree, move.placements, before)
            before = []
            break
        touched.setdefault(placement.link, row)
        before.append(None if row is None or was_never_placed(row) else row)
        _place(tree, move, placement, row)
    log_move(tree, move.when, MoveRow(move.placements, move.observed, tuple(before)))


def log_move(tree: Tree, when: bytes, move: MoveRow) -> None:
    """Remember a move that was done, and the places that its links left by it."""
    tree.put_move(when, move)
    for row in _left(when, move):
        tree.put_past(row.parent, when, row.link, PastRow(row.name, row.inode, row.when))


def forget_move(tree: Tree, when: bytes) -> None:
    """Forget a move that never was, and what it ended."""
    move = tree.move(when)
    if move is not None:
        _forget_past(tree, when, move)
        tree.drop_move(when)


def _forget_past(tree: Tree, when: bytes, move: MoveRow) -> None:
    for row in _left(when, move):
        tree.drop_past(row.parent, when, row.link)


def _left(when: bytes, move: MoveRow) -> Iterator[LinkRow]:
    """The places that a move ended; not those that it gave itself before."""
    known = (row for row in move.before if row is not None)
    return (row for row in known if row.parent != NOWHERE and row.when != when)


def _place(tree: Tree, move: Move, placement: Placement, row: LinkRow | None) -> None:
    if row is not None and row.inode != placement.inode:
        tree.drop_link(row.link)
    if placement.parent != NOWHERE:
        parent, name, was_parent = placement.parent, placement.name, placement.parent
        observed: tuple[bytes, ...] = ()
    else:
        known = row is not None and not was_never_placed(row)
        parent = NOWHERE
        name = row.name if row is not None and known else placement.name
        was_parent = row.was_parent if row is not None and known else NOWHERE
        observed = move.observed
    tree.put_link(
        LinkRow(
            placement.link,
            placement.inode,
            parent,
            name,
            was_parent,
            tree.new_cookie() if row is None else row.cookie,
            move.when,
            observed,
            row is not None and row.shown,
        )
    )


def _is_impossible(tree: Tree, placement: Placement, row: LinkRow | None) -> bool:
    """Whether the link is another inode's, or its directory would be inside itself."""
    if row is not None and row.inode != placement.inode and not was_never_placed(row):
        return True
    if placement.link != placement.inode or placement.parent == NOWHERE:
        return False
    return is_inside(tree, placement.parent, placement.link)


def is_inside(tree: Tree, directory: bytes, ancestor: bytes) -> bool:
    """Whether `directory` is `ancestor` or lies below it, removed links counted."""
    while directory not in (ROOT, NOWHERE):
        if directory == ancestor:
            return True
        row = tree.link(directory)
        if row is None:
            return False
        directory = row.was_parent
    return directory == ancestor


def _undo(tree: Tree, when: bytes, move: MoveRow, touched: Touched) -> None:
    _forget_past(tree, when, move)
    for placement in move.placements[: len(move.before)]:
        touched.setdefault(placement.link, tree.link(placement.link))
    _restore(tree, move.placements, move.before)


def _restore(tree: Tree, placements: Iterable[Placement], before: Iterable[LinkRow | None]) -> None:
    for placement, old in reversed(list(zip(placements, before, strict=False))):
        now = tree.link(placement.link)
        if now is None:
            continue
        if old is None:
            row = LinkRow(
                now.link, now.inode, NOWHERE, b"", NOWHERE, now.cookie, NEVER, (), now.shown
            )
        else:
            row = replace(old, cookie=now.cookie, shown=now.shown)
        tree.put_link(row)
